"""What a program makes from stored codes when it runs: weights of few bits, rounded activations.

Such a program is plain ATen, so that its file loads without any library of quantization. What is
what is told by the names of its buffers:

* a weight ``W``: ``W_codes`` (bits, packed), and ``W_scale`` with perhaps ``W_zero_point``, or
  ``W_codebook``. The scale, or the codebook, has one reader; the one reader of that is a ``view``
  in the weight's shape, which takes the weight's place.
* a static activation ``A``: ``A_scale`` and ``A_zero_point``, both float32 without dimensions. The
  scale has two readers, in this order: ``div(x, scale)``, where ``x`` is what is rounded, and
  ``mul(q, scale)``, which takes its place.
* a dynamic activation ``A``: ``A_least``, the least scale. Its one reader, ``maximum``, is the
  scale.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any


@dataclass(frozen=True)
class PackedWeight:
    """A weight that is made from codes.

    Attributes:
        names: The parameters that it was, by name: several where a weight is tied.
        shape: Of the weight.
        dtype: Of the weight, as torch names it.
        format: ``int8``, ``int4``, ``int2``, ``ternary`` or ``codebook``.
        bits: Of one code.
        axis: The dimension of outputs, along which channels have scales of their own.
        granularity: ``per_tensor``, ``per_channel`` or ``per_group``.
        group_size: Inputs that share a scale; 0 where none do.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    format: str
    bits: int
    axis: int
    granularity: str
    group_size: int = 0

    @property
    def name(self) -> str:
        return self.names[0]

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "PackedWeight":
        names, shape = tuple(document["names"]), tuple(document["shape"])
        return cls(**{**document, "names": names, "shape": shape})


@dataclass(frozen=True)
class Packed:
    """All of a program: its weights, and the names of its rounded activations."""

    weights: tuple[PackedWeight, ...] = ()
    static: tuple[str, ...] = ()
    dynamic: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.weights or self.static or self.dynamic)

    @property
    def parameters(self) -> int:
        """Elements of all weights: they are parameters still, though stored as codes."""
        return sum(prod(weight.shape) for weight in self.weights)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Packed":
        weights = tuple(PackedWeight.from_json(each) for each in document["weights"])
        return cls(weights, tuple(document["static"]), tuple(document["dynamic"]))


NOTHING_PACKED = Packed()
