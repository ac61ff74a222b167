"""Libraries of architectures, imported so that they stay on this machine."""

import os

from worker.engine.readers.architecture.torchvision_import import import_torchvision

_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "0"}


def import_offline() -> None:
    """Have timm and transformers ask no other machine for anything, from their import on."""
    os.environ.update(_OFFLINE)
    import_torchvision()
