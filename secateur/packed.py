"""Read the ``model.safetensors`` of a quantized model: weights as codes."""

import json
import os
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from secateur.errors import WeightsFileInvalid
from secateur.tensors_file import read_tensors, sizes

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "secateur-packed-1"
_MIDDLES = {"ternary": 1}
_FORMATS = ("int8", "int4", "int2", "ternary", "codebook")
_DTYPES = ("float32", "float16", "bfloat16", "float64")


def load_packed(path: str | os.PathLike[str]) -> "dict[str, Tensor]":
    """The weights of a quantized model, dense, as ``load_state_dict`` takes them.

    The file is safetensors. Its metadata has under ``packed`` a JSON list: for each weight its
    ``names``, ``shape``, ``dtype``, ``format``, ``bits``, ``axis`` (the dimension of outputs),
    ``granularity``, ``symmetric`` and ``group_size``. With outputs first and all else as one, the
    weight is a matrix; its rows, filled up to whole groups, are cut into sets that share a scale.
    For a weight ``W``:

    * ``W_codes``: a code for each element, set by set; uint8, or int8 for ``int8`` around zero; of
      fewer bits they are packed, the first in the lowest bits of the first byte.
    * ``W_scale``, float32 ``(sets, 1)``: an element is ``(code - zero point) * scale``. Zero points
      are ``W_zero_point``, uint8, or the middle code, 2 ** (bits - 1), 1 for ``ternary``.
    * ``W_codebook``, float32 ``(sets, entries)``, instead: an element is the entry of its code.

    Returns:
        Tensors by name, on the CPU; those of a static quantization's activations are left out.

    Raises:
        WeightsFileInvalid: The file is none of these, or damaged.
        ImportError: PyTorch is not installed.
    """
    import torch

    stored, metadata = read_tensors(
        path, FORMAT, "weights that are not quantized are read by safetensors.torch.load_file"
    )
    found = dict(stored)
    for about in _described(metadata):
        first = about["names"][0]
        dense = _dense(torch, first, about, stored)
        for part in ("codes", "scale", "zero_point", "codebook"):
            found.pop(f"{first}_{part}", None)
        found.update(dict.fromkeys(about["names"], dense))
    return found


def _described(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the metadata says of each weight.

    Raises:
        WeightsFileInvalid: It does not say it as it must.
    """
    try:
        described = json.loads(metadata["packed"])
        wrong = next((about for about in described if not _is_described(about)), None)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        described, wrong = [], error
    if wrong is not None:
        raise WeightsFileInvalid(
            f"the metadata under 'packed' does not describe quantized weights ({wrong}): the file "
            "is damaged, download it again"
        )
    return list(described)


def _is_described(about: Mapping[str, Any]) -> bool:
    shape = sizes(about["shape"])
    axis, bits, size = sizes([about["axis"], about["bits"], about["group_size"]])
    is_known = about["format"] in _FORMATS and about["dtype"] in _DTYPES
    is_named = bool(about["names"]) and all(type(name) is str for name in about["names"])
    is_grouped = about["granularity"] == "per_group"
    return (
        is_known
        and is_named
        and axis < len(shape)
        and 1 <= bits <= 8
        and about["symmetric"] in (True, False)
        and (size > 0 or not is_grouped)
    )


def _dense(torch: Any, name: str, about: Mapping[str, Any], stored: Mapping[str, Any]) -> Any:
    shape, axis = about["shape"], about["axis"]
    outputs = shape[axis]
    inputs = prod(size for dim, size in enumerate(shape) if dim != axis)
    sets, width = _sets(about, outputs, inputs)
    try:
        codes = _codes(torch, stored[f"{name}_codes"], about, sets * width).view(sets, width)
        values = _values(stored, name, about, codes)
    except (KeyError, RuntimeError) as error:
        raise WeightsFileInvalid(
            f"{name}: its codes and scales are not those of shape {shape} ({error})"
        ) from error
    matrix = values.reshape(outputs, -1)[:, :inputs]
    rest = [size for dim, size in enumerate(shape) if dim != axis]
    weight = matrix.reshape(outputs, *rest).movedim(0, axis).contiguous()
    return weight.to(getattr(torch, about["dtype"]))


def _sets(about: Mapping[str, Any], outputs: int, inputs: int) -> tuple[int, int]:
    """How many sets of weights share a scale, and how many weights are in each."""
    match about["granularity"]:
        case "per_tensor":
            return 1, outputs * inputs
        case "per_channel":
            return outputs, inputs
        case _:
            size = about["group_size"]
            return outputs * -(-inputs // size), size


def _codes(torch: Any, packed: Any, about: Mapping[str, Any], count: int) -> Any:
    """Codes from 0, or around it where they are signed: ``(count,)``."""
    bits = about["bits"]
    if bits == 8:
        return packed.flatten().int()
    each = (packed[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
    powers = 2 ** torch.arange(bits, dtype=torch.uint8)
    every = each.flatten()[: each.numel() // bits * bits].view(-1, bits)
    return (every * powers).sum(1, dtype=torch.int32)[:count]


def _values(stored: Mapping[str, Any], name: str, about: Mapping[str, Any], codes: Any) -> Any:
    if about["format"] == "codebook":
        levels = stored[f"{name}_codebook"]
        return levels.expand(len(codes), -1).gather(1, codes.long())
    scale = stored[f"{name}_scale"].reshape(-1, 1)
    if not about["symmetric"]:
        zero = stored[f"{name}_zero_point"].reshape(-1, 1).float()
    elif about["bits"] == 8:
        zero = 0.0
    else:
        zero = float(_MIDDLES.get(about["format"], 2 ** (about["bits"] - 1)))
    return (codes.float() - zero) * scale
