"""The builders of architectures: one function for each library, and one table of them."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn

from formats.checkpoint import Architecture, CheckedCheckpoint
from formats.errors import ArchitectureInvalid
from worker.engine.errors import UnreadableModelError
from worker.engine.readers.architecture.built import Built, Input
from worker.engine.readers.architecture.offline import import_offline
from worker.engine.readers.architecture.pretrained import build_transformers
from worker.engine.readers.architecture.weights import fill, weights_of
from worker.engine.wording import first_line

_ROWS = 2
_LARGEST = 100_000
_NUMBERS = frozenset(
    {
        "depth",
        "embed_dim",
        "image_size",
        "img_size",
        "in_chans",
        "num_classes",
        "num_heads",
        "patch_size",
        "window_size",
    }
)
ARGUMENTS: dict[str, frozenset[str]] = {
    "torchvision": frozenset(
        {"aux_logits", "dropout", "image_size", "init_weights", "num_classes", "transform_input"}
        | {"width_mult"}
    ),
    "timm": _NUMBERS - {"image_size"} | {"act_layer", "global_pool"},
}
"""What may be said to a builder. Others name files, or weights on other machines."""


def _torchvision(checked: CheckedCheckpoint, folder: Path) -> Built:
    import_offline()
    from torchvision import models  # type: ignore[import-untyped]

    asked = checked.architecture
    # Those that classify: others would fetch the weights of a part.
    known = models.list_models(module=models)
    if asked.name not in known:
        raise ArchitectureInvalid(_unknown(asked, known))
    module = _made(
        asked, lambda: models.get_model(asked.name, weights=None, **dict(asked.arguments))
    )
    warnings = fill(module, weights_of(checked, folder))
    side = asked.arguments.get("image_size", 299 if "inception" in asked.name else 224)
    return Built(module.eval(), _inputs(asked, (3, side, side)), warnings=warnings)


def _timm(checked: CheckedCheckpoint, folder: Path) -> Built:
    import_offline()
    import timm

    # After the dot stands which of timm's own weights, and those are not asked for.
    asked = replace(checked.architecture, name=checked.architecture.name.partition(".")[0])
    if asked.name not in timm.list_models():
        raise ArchitectureInvalid(_unknown(asked, timm.list_models()))
    module: Any = _made(
        asked, lambda: timm.create_model(asked.name, pretrained=False, **dict(asked.arguments))
    )
    warnings = fill(module, weights_of(checked, folder))
    channels, *sides = module.default_cfg["input_size"]
    if side := asked.arguments.get("img_size"):
        sides = [side, side] if isinstance(side, int) else side
    channels = asked.arguments.get("in_chans", channels)
    return Built(module.eval(), _inputs(asked, (channels, *sides)), warnings=warnings)


def _made(asked: Architecture, build: Callable[[], nn.Module]) -> nn.Module:
    unknown = asked.arguments.keys() - ARGUMENTS[asked.builder]
    if unknown:
        raise ArchitectureInvalid(
            f"{asked.builder} gets no argument {min(unknown)!r} here; it may get "
            f"{', '.join(sorted(ARGUMENTS[asked.builder]))}"
        )
    for name, value in asked.arguments.items():
        numbers = value if isinstance(value, list) else [value]
        if name in _NUMBERS and not (numbers and all(map(_is_size, numbers))):
            raise ArchitectureInvalid(
                f"the argument {name} is {value!r}, and is to be a whole number from 1 to "
                f"{_LARGEST}"
            )
    try:
        return build()
    except Exception as error:
        # Each builder raises what it likes.
        raise UnreadableModelError(
            f"{asked.builder} does not build {asked.name!r} with the arguments "
            f"{dict(asked.arguments)} ({first_line(error)})"
        ) from error


def _is_size(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _LARGEST


def _inputs(asked: Architecture, image: tuple[int, ...]) -> tuple[Input, ...]:
    """What the archive says, or one image."""
    if asked.inputs is not None:
        return given_inputs(asked)
    return (Input("", torch.randn(_ROWS, *image)),)


def given_inputs(asked: Architecture) -> tuple[Input, ...]:
    """Examples in the shapes that an archive names."""
    found = []
    for each in asked.inputs or ():
        shape = (_ROWS, *(size for size in each.shape[1:] if isinstance(size, int)))
        is_float = each.dtype == "float32"
        example = torch.randn(shape) if is_float else torch.ones(shape).to(_DTYPES[each.dtype])
        found.append(Input(each.name, example))
    return tuple(found)


def _unknown(asked: Architecture, known: list[str]) -> str:
    some = ", ".join(get_close_matches(asked.name, known, n=5, cutoff=0.3) or known[:5])
    return (
        f"{asked.builder} knows no model {asked.name[:80]!r}; it knows {len(known)}, such as {some}"
    )


def _transformers(checked: CheckedCheckpoint, folder: Path) -> Built:
    import_offline()
    asked = checked.architecture
    return build_transformers(checked, folder, given_inputs(asked) if asked.inputs else None)


def missing_library(builder: str) -> str | None:
    """The library that a builder lacks here; None if it is there."""
    return None if importlib.util.find_spec(builder) else builder


_DTYPES = {"int64": torch.int64, "bool": torch.bool}

BUILDERS: dict[str, Callable[[CheckedCheckpoint, Path], Built]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "transformers": _transformers,
}
"""Every builder that an architecture may name."""
