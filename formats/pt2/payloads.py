"""Weights and constants: which bytes of which member are which tensor.

The bytes are raw, and torch makes views of them by sizes, strides and offset from the file. Each
view must lie within its member's bytes. A tensor may also ask to be unpickled, which torch does
with ``weights_only=False``: refused.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from formats.errors import shown
from formats.pt2.checks import boolean, list_of, map_of, natural, record, text, union
from formats.pt2.findings import Finding
from formats.pt2.schema import DTYPES, device, layout, scalar_type
from formats.pt2.strings import check_fqn
from formats.tensors import bytes_needed

MEMBER = re.compile(r"(?:weight|tensor)_[0-9]{1,9}")
# A view may repeat its bytes (stride 0), and would take this much as soon as anything copies it.
_MAX_TENSOR_BYTES = 64 * 2**30
_MAX_DIMENSIONS = 64

_size = union({"as_int": natural})


def _check_member(member: str) -> str:
    if member.startswith(("custom_obj_", "opaque_obj_")):
        raise Finding(f"a custom object in {shown(member)} cannot be taken", is_unsupported=True)
    if not MEMBER.fullmatch(member):
        raise Finding(f"{shown(member)} is no name of a member that holds a tensor")
    return member


def _check_not_pickled(value: Any) -> bool:
    if boolean(value):
        raise Finding(
            "a pickled tensor (a tensor subclass): only plain tensors are taken; "
            "dequantize or unwrap the weights before the export",
            is_unsupported=True,
        )
    return False


config = record(
    {
        "config": map_of(
            check_fqn,
            record(
                {
                    "path_name": text(_check_member),
                    "is_param": boolean,
                    "use_pickle": _check_not_pickled,
                    "tensor_meta": record(
                        {
                            "dtype": scalar_type,
                            "sizes": list_of(_size),
                            "requires_grad": boolean,
                            "device": device,
                            "strides": list_of(_size),
                            "storage_offset": _size,
                            "layout": layout,
                        }
                    ),
                }
            ),
        )
    }
)


@dataclass(frozen=True, slots=True)
class Payload:
    """One tensor: a view of a member's bytes. Equal payloads are one shared tensor."""

    member: str
    dtype: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @property
    def element_count(self) -> int:
        return math.prod(self.shape)


def read_payloads(clean: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Payload]:
    """Read a checked config, and check each view against the bytes that are there.

    Args:
        clean: What :data:`config` returned.
        sizes: Bytes of each member that holds a tensor.

    Returns:
        The tensors by full name.
    """
    payloads: dict[str, Payload] = {}
    dtypes: dict[str, int] = {}
    for fqn, meta in clean["config"].items():
        tensor = meta["tensor_meta"]
        payload = Payload(
            member=meta["path_name"],
            dtype=tensor["dtype"],
            shape=tuple(size["as_int"] for size in tensor["sizes"]),
            strides=tuple(stride["as_int"] for stride in tensor["strides"]),
            offset=tensor["storage_offset"]["as_int"],
        )
        try:
            _check_view(payload, sizes)
            _check_one_dtype(payload, dtypes)
        except Finding as finding:
            raise finding.inside(f".config[{shown(fqn)}]") from None
        payloads[fqn] = payload
    return payloads


def _check_view(payload: Payload, sizes: Mapping[str, int]) -> None:
    if payload.member not in sizes:
        raise Finding(f"member {payload.member} is missing")
    if len(payload.shape) != len(payload.strides) or len(payload.shape) > _MAX_DIMENSIONS:
        raise Finding(f"{len(payload.shape)} sizes and {len(payload.strides)} strides")
    itemsize = DTYPES[payload.dtype][1]
    held = sizes[payload.member]
    needed = bytes_needed(payload.shape, payload.strides, payload.offset, itemsize=itemsize)
    if needed > held or held % itemsize:
        raise Finding(
            f"shape {payload.shape} needs {needed} bytes, and member {payload.member} holds {held}"
        )
    if payload.element_count * itemsize > _MAX_TENSOR_BYTES:
        raise Finding(f"shape {payload.shape} is larger than {_MAX_TENSOR_BYTES} bytes")


def _check_one_dtype(payload: Payload, dtypes: dict[str, int]) -> None:
    # torch reads the bytes by the first tensor's dtype, whatever the others say.
    if dtypes.setdefault(payload.member, payload.dtype) != payload.dtype:
        raise Finding(f"two dtypes for the bytes of {payload.member}")
