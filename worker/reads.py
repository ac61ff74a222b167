"""The formats of models that this worker reads: by the libraries that are installed here."""

import importlib.util

from secateur.models import MODEL_FORMATS, ModelFormat

_LIBRARIES = {
    "tensorflow": ("tensorflow", "tf2onnx"),
    "architectures": ("torchvision", "timm", "transformers"),
}
"""What each extra brings along. Looked for and not imported: some take seconds."""


def readable_formats() -> tuple[ModelFormat, ...]:
    return tuple(
        model_format
        for model_format, info in MODEL_FORMATS.items()
        if info.extra is None
        or all(importlib.util.find_spec(library) for library in _LIBRARIES[info.extra])
    )
