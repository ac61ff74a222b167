"""Read ``model.sparse.safetensors``: weights whose zeros take a bit each."""

import json
import os
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from secateur.errors import WeightsFileInvalid
from secateur.tensors_file import read_tensors, sizes

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "secateur-sparse-1"


def load_sparse(path: str | os.PathLike[str]) -> "dict[str, Tensor]":
    """The weights of a ``model.sparse.safetensors``, as ``load_state_dict`` takes them.

    The file is safetensors. A tensor that is mostly zeros is two in it: ``NAME:bits``, uint8, one
    bit for each element in order, lowest bit first, set where the element is not zero; and
    ``NAME:values``, these elements in order. Its shape is in the metadata, under ``NAME``.

    Returns:
        Dense tensors by name, on the CPU.

    Raises:
        WeightsFileInvalid: The file is none of these, or damaged.
        ImportError: PyTorch is not installed.
    """
    import torch

    stored, metadata = read_tensors(
        path,
        FORMAT,
        "dense weights are in model.safetensors, which safetensors.torch.load_file reads",
    )
    found = {name: tensor for name, tensor in stored.items() if ":" not in name}
    for name, written in metadata.items():
        if name != "format":
            found[name] = _dense(torch, name, _shape(name, written), stored)
    return found


def _shape(name: str, written: Any) -> list[int]:
    try:
        return sizes(json.loads(written))
    except (TypeError, ValueError, RecursionError) as error:
        raise WeightsFileInvalid(f"{name}: {str(written)[:80]!r} is no shape") from error


def _dense(torch: Any, name: str, shape: list[int], stored: Mapping[str, Any]) -> Any:
    try:
        bits, values = stored[f"{name}:bits"], stored[f"{name}:values"]
    except KeyError as error:
        raise WeightsFileInvalid(f"{name}: there is no {error} in the file") from error
    count = prod(shape)
    if bits.dtype != torch.uint8 or bits.shape != (-(-count // 8),) or values.dim() != 1:
        raise WeightsFileInvalid(f"{name}: shape {shape} needs {-(-count // 8)} bytes of bits")
    shifts = torch.arange(8, dtype=torch.uint8)
    every = ((bits[:, None] >> shifts) & 1).flatten().bool()
    present = every[:count]
    if int(every.sum()) != len(values) or bool(every[count:].any()):
        raise WeightsFileInvalid(
            f"{name}: {int(present.sum())} bits are set for its {count} elements, and there are "
            f"{len(values)} values"
        )
    dense = torch.zeros(count, dtype=values.dtype)
    dense[present] = values
    return dense.reshape(shape)
