"""Build a class of transformers from a small configuration, without downloads."""

from collections.abc import Callable
from typing import Any

from torch import nn

from benchmarks.architecture import Architecture, Inputs
from worker.engine.readers.architecture.torchvision_import import import_torchvision


def from_transformers(
    name: str,
    family: str,
    class_name: str,
    inputs: Callable[[], Inputs],
    *,
    part: str = "",
    **options: Any,
) -> Architecture:
    """An architecture of transformers.

    Args:
        name: Without its library.
        family: What is particular about it.
        class_name: The model, as transformers exports it.
        inputs: Makes its inputs.
        part: The submodule to take, where not the whole.
        options: Of its configuration.
    """

    def build() -> nn.Module:
        import_torchvision()
        import transformers

        transformers.logging.set_verbosity_error()
        model = getattr(transformers, class_name)
        return model(model.config_class(**options)).get_submodule(part)

    return Architecture(f"hf/{name}", family, build, inputs)
