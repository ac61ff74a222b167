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
_BITS = {"int8": (8,), "int4": (4,), "int2": (2,), "ternary": (2,), "codebook": range(1, 9)}
"""Of one code, by format."""

_GRANULARITIES = ("per_tensor", "per_channel", "per_group")
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
    done: set[str] = set()
    for about in _described(metadata):
        first = about["names"][0]
        if first in done:
            # Made again and again of the same codes, a small file would fill the memory.
            raise WeightsFileInvalid(f"{first}: it is described twice")
        done.add(first)
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
    names = about["names"]
    is_known = about["granularity"] in _GRANULARITIES and about["dtype"] in _DTYPES
    is_named = isinstance(names, list) and bool(names) and all(type(name) is str for name in names)
    is_grouped = about["granularity"] == "per_group"
    return (
        is_known
        and is_named
        and axis < len(shape)
        and all(shape)
        and bits in _BITS.get(about["format"], ())
        and type(about["symmetric"]) is bool
        and (size > 0 or not is_grouped)
    )


def _dense(torch: Any, name: str, about: Mapping[str, Any], stored: Mapping[str, Any]) -> Any:
    shape, axis = about["shape"], about["axis"]
    outputs = shape[axis]
    inputs = prod(size for dim, size in enumerate(shape) if dim != axis)
    sets, width = _sets(about, outputs, inputs)
    codes = _codes(torch, stored, name, about, (sets, width))
    values = _values(torch, stored, name, about, codes)
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


def _codes(
    torch: Any,
    stored: Mapping[str, Any],
    name: str,
    about: Mapping[str, Any],
    shape: tuple[int, int],
) -> Any:
    """Codes from 0, or around it where they are signed: int32, ``(sets, n)``."""
    bits, count = about["bits"], prod(shape)
    if bits == 8:
        is_signed = about["format"] == "int8" and about["symmetric"]
        dtype = torch.int8 if is_signed else torch.uint8
        return _part(stored, f"{name}_codes", dtype, shape).int()
    codes_in_word, bytes_in_word = (8 // bits, 1) if 8 % bits == 0 else (8, bits)
    packed = _part(
        stored, f"{name}_codes", torch.uint8, (-(-count // codes_in_word) * bytes_in_word,)
    )
    each = (packed[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
    powers = 2 ** torch.arange(bits, dtype=torch.uint8)
    every = each.view(-1, bits)
    return (every * powers).sum(1, dtype=torch.int32)[:count].view(shape)


def _values(
    torch: Any, stored: Mapping[str, Any], name: str, about: Mapping[str, Any], codes: Any
) -> Any:
    sets = len(codes)
    if about["format"] == "codebook":
        levels = _part(stored, f"{name}_codebook", torch.float32, (sets, None))
        if int(codes.max()) >= levels.shape[1]:
            raise WeightsFileInvalid(
                f"{name}: its codes reach to {int(codes.max())}, and its codebook has "
                f"{levels.shape[1]} entries"
            )
        return levels.gather(1, codes.long())
    scale = _part(stored, f"{name}_scale", torch.float32, (sets, 1))
    if not about["symmetric"]:
        zero = _part(stored, f"{name}_zero_point", torch.uint8, (sets, 1)).float()
    elif about["bits"] == 8:
        zero = 0.0
    else:
        zero = float(_MIDDLES.get(about["format"], 2 ** (about["bits"] - 1)))
    return (codes.float() - zero) * scale


def _part(stored: Mapping[str, Any], name: str, dtype: Any, shape: tuple[int | None, ...]) -> Any:
    """A tensor of the file, of the only shape that it can have: None is any size.

    Of another shape it would be stretched to what it meets, and fill the memory.
    """
    found = stored.get(name)
    if found is None:
        raise WeightsFileInvalid(f"{name}: there is no such tensor in the file")
    fits = len(found.shape) == len(shape) and all(
        size in (None, own) for size, own in zip(shape, found.shape, strict=True)
    )
    if not fits or found.dtype != dtype:
        expected = ["any" if size is None else size for size in shape]
        raise WeightsFileInvalid(
            f"{name}: {found.dtype} of shape {list(found.shape)}, and not {dtype} of {expected}"
        )
    return found
