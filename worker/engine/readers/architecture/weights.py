"""Weights from the files of a checkpoint, and into a module."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from formats.archive import open_archive
from formats.checkpoint import CheckedCheckpoint
from worker.engine.errors import UnreadableModelError

_NESTED = ("state_dict", "model_state_dict", "model")
"""Under what trainers keep the weights beside their own things."""
_PARALLEL = "module."
_SHOWN = 5


def weights_of(checked: CheckedCheckpoint, folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, on the CPU.

    Args:
        checked: The archive.
        folder: Where its members are unpacked, as long as the tensors are used.

    Raises:
        UnreadableModelError: A pickled state dict holds something else.
    """
    found: dict[str, Tensor] = {}
    for number, member in enumerate(checked.weights):
        path = folder / f"{number}.weights"
        checked.extract(member, path)
        found |= _unpickled(path) if checked.is_pickled else load_file(path)
    return found


def fill(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put weights into a module; floats take the precision of the module.

    Raises:
        UnreadableModelError: A name is missing or unknown, or a shape is another.
    """
    own = module.state_dict()
    problems = []
    if missing := [name for name in own if name not in weights]:
        problems.append(f"the file lacks {listed(missing)}")
    if unexpected := [name for name in weights if name not in own]:
        problems.append(f"the architecture has no {listed(unexpected)}")
    if misfits := [
        f"{name} ({list(weights[name].shape)} in the file, {list(own[name].shape)} by the "
        "architecture)"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]:
        problems.append(f"shapes differ: {listed(misfits)}")
    if problems:
        raise UnreadableModelError(
            f"the weights are not those of the architecture: {'; '.join(problems)}. Name another "
            "architecture, or the arguments that it was built with, such as num_classes"
        )
    module.load_state_dict(dict(weights), strict=True)


def listed(names: Iterable[str]) -> str:
    """The first few of many names."""
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _unpickled(path: Path) -> dict[str, Tensor]:
    """A pickled state dict, by the loader that builds nothing but tensors and containers."""
    with open_archive(path):
        pass  # Names, sizes and layout are those of a zip that has one reading.
    try:
        found: Any = torch.load(  # noqa: TID251 - restricted, and in a child process
            path, map_location="cpu", weights_only=True, mmap=True
        )
    except Exception as error:
        # It has no base class for what it raises on what it does not build.
        raise UnreadableModelError(
            "the state dict holds more than tensors, or is damaged: save it with "
            "torch.save(model.state_dict(), path), or better with "
            "safetensors.torch.save_file(model.state_dict(), path)"
        ) from error
    for name in _NESTED:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    if not isinstance(found, dict) or not found:
        raise UnreadableModelError(
            f"the pickled file is a {type(found).__name__}, not a state dict: save "
            "model.state_dict()"
        )
    tensors = {name: each for name, each in found.items() if isinstance(each, Tensor)}
    if len(tensors) < len(found) or not all(isinstance(name, str) for name in tensors):
        others = sorted(str(name) for name in found.keys() - tensors.keys())
        raise UnreadableModelError(
            f"the state dict holds what is no tensor: {listed(others)}; save model.state_dict()"
        )
    if all(name.startswith(_PARALLEL) for name in tensors):  # Of DataParallel.
        tensors = {name.removeprefix(_PARALLEL): each for name, each in tensors.items()}
    # Plain tensors: what else a pickle may make of them is left behind.
    return {name: each.detach().clone() for name, each in tensors.items()}
