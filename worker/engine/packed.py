"""What a program makes from stored codes when it runs: weights of few bits, rounded activations.

Such a program is plain ATen, so that its file loads without any library of quantization. What is
what is told by the names of its buffers:

* a weight ``W``: ``W_codes``, and ``W_scale`` with perhaps ``W_zero_point``, or ``W_codebook``. The
  scale, or the codebook, has one reader, with one reader behind it, and so on for as many as
  `worker.engine.coded.chain` has put there; the last takes the weight's place.
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
        symmetric: Whether zero is in the middle, and nothing is stored to say where it is.
        group_size: Inputs that share a scale; 0 where none do.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    format: str
    bits: int
    axis: int
    granularity: str
    symmetric: bool
    group_size: int = 0

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def codes(self) -> str:
        return f"{self.name}_codes"

    @property
    def scale(self) -> str:
        """The buffer of the scales, or of the codebook."""
        return f"{self.name}_codebook" if self.format == "codebook" else f"{self.name}_scale"

    @property
    def zero_point(self) -> str:
        return f"{self.name}_zero_point"

    @property
    def is_signed(self) -> bool:
        """Whether codes are stored as int8: those of 8 bits around zero are."""
        return self.format == "int8" and self.symmetric

    @property
    def has_zero_point(self) -> bool:
        return self.format != "codebook" and not self.symmetric

    @property
    def middle(self) -> int:
        """The code of zero where that is in the middle."""
        return 1 if self.format == "ternary" else int(2 ** (self.bits - 1))

    @property
    def outputs_first(self) -> tuple[int, ...]:
        """The weight's shape with its outputs in front."""
        rest = [size for dim, size in enumerate(self.shape) if dim != self.axis]
        return (self.shape[self.axis], *rest)

    @property
    def groups(self) -> int:
        """How many groups the inputs of one output make; the last may be filled up."""
        if self.granularity != "per_group":
            return 1
        return -(-prod(self.outputs_first[1:]) // self.group_size)

    @property
    def sets(self) -> tuple[int, int]:
        """How many sets of weights share a scale, and how many weights each has, filled up."""
        outputs, inputs = self.shape[self.axis], prod(self.outputs_first[1:])
        if self.granularity == "per_tensor":
            return 1, outputs * inputs
        if self.granularity == "per_channel":
            return outputs, inputs
        return outputs * self.groups, self.group_size

    @property
    def described(self) -> str:
        """In a few words."""
        grouped = f"{self.granularity} of {self.group_size}" if self.group_size else ""
        return f"{self.format} {grouped or self.granularity}"

    def size_bytes(self, entries: int) -> int:
        """Bytes of codes, scales and zero points, or of a codebook with so many entries."""
        sets, weights = self.sets
        codes = -(-sets * weights * self.bits // 8)
        if self.format == "codebook":
            return codes + 4 * sets * entries
        return codes + sets * (5 if self.has_zero_point else 4)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

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
