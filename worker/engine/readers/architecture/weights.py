"""Weights from the files of a checkpoint, and into a module."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from formats.archive import open_archive
from formats.checkpoint import CheckedCheckpoint
from formats.errors import TorchScriptFile
from worker.engine.errors import QuantizedModelError, UnreadableModelError

_NESTED = ("state_dict", "model_state_dict", "model")
"""Under what trainers keep the weights beside their own things."""
_PARALLEL = "module."
_SHOWN = 5
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


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


def check_floats(weights: Mapping[str, Tensor], floats: Iterable[str]) -> tuple[str, ...]:
    """Check that what has to be floats is; give the warnings that follow from their precision.

    Args:
        weights: By name.
        floats: The names that are floats in the module.

    Raises:
        QuantizedModelError: Some are integers, or floats of eight bits.
    """
    lower: set[torch.dtype] = set()
    for name in floats:
        dtype = weights[name].dtype if name in weights else torch.float32
        if dtype not in _FLOATS:
            raise QuantizedModelError(
                f"{name} is stored as {_plain(dtype)}, and weights are to be "
                f"{', '.join(map(_plain, _FLOATS))}: upload the float model; pruning comes first, "
                "quantization after"
            )
        lower.add(dtype)
    kinds = ", ".join(sorted(map(_plain, lower - {torch.float32})))
    return (f"the weights are {kinds}: they are pruned and measured as float32",) if kinds else ()


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def fill(module: nn.Module, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Put weights into a module; floats take the precision of the module.

    Returns:
        What users should know of it.

    Raises:
        UnreadableModelError: A name is missing or unknown, or a shape is another.
        QuantizedModelError: What has to be floats is not.
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
    floats = [name for name, tensor in own.items() if tensor.is_floating_point()]
    warnings = check_floats(weights, floats)
    module.load_state_dict(dict(weights), strict=True)
    return warnings


def listed(names: Iterable[str]) -> str:
    """The first few of many names."""
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _unpickled(path: Path) -> dict[str, Tensor]:
    """A pickled state dict, by the loader that builds nothing but tensors and containers."""
    with open_archive(path) as archive:  # Of which there is one reading.
        names = {name.removeprefix(archive.root) for name in archive.members}
    if "constants.pkl" in names:
        raise TorchScriptFile
    try:
        found: Any = torch.load(  # noqa: TID251 - restricted, and in a child process
            path, map_location="cpu", weights_only=True, mmap=True
        )
    except Exception as error:
        # It has no base class for what it raises on what it does not build.
        raise UnreadableModelError(
            "the file holds more than tensors, as a pickled module does, or is damaged: save it "
            "with "
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
        others = sorted(map(str, found.keys() - tensors.keys())) or sorted(map(str, tensors))
        raise UnreadableModelError(
            f"the state dict holds what is no tensor with a name: {listed(others)}; save "
            "model.state_dict()"
        )
    if all(name.startswith(_PARALLEL) for name in tensors):  # Of DataParallel.
        tensors = {name.removeprefix(_PARALLEL): each for name, each in tensors.items()}
    for name, each in tensors.items():
        # One number may be shown as billions: a copy would be all of them.
        is_plain = each.layout == torch.strided and not each.is_quantized and not each.is_meta
        if not is_plain or each.numel() * each.element_size() > each.untyped_storage().nbytes():
            raise UnreadableModelError(
                f"{name} is no plain tensor of its own; save the float model's state_dict() again"
            )
    # Plain tensors: what else a pickle may make of them is left behind.
    return {name: each.detach().clone() for name, each in tensors.items()}
