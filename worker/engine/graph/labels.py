"""Labels: which slices of which tensors are one channel.

Every index of every dimension of every parameter gets a label, an integer; 0 means *fixed*. The
graph is walked once, without running it. Each operator says which labels are the same; what ends
up connected is kept or removed as one.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

FIXED = 0


@dataclass(frozen=True)
class Value:
    """What is known of a tensor: its shape at the example inputs, and its planes.

    A plane is an integer tensor of labels that broadcasts to ``shape``: ``(1, C, 1, 1)`` after a
    convolution. A removed label removes its index. A dimension without a plane is fixed.
    """

    shape: tuple[int, ...]
    planes: tuple[Tensor, ...] = ()

    def along(self, dim: int) -> list[Tensor]:
        """The planes that vary along a dimension."""
        return [plane for plane in self.planes if plane.shape[dim] > 1]

    def vector(self, dim: int) -> Tensor | None:
        """The only plane along ``dim``, if it varies along nothing else; shape ``(size,)``."""
        planes = self.along(dim)
        if len(planes) != 1 or planes[0].numel() != self.shape[dim]:
            return None
        return planes[0].flatten()


@dataclass(frozen=True)
class Hold:
    """Labels that one use of an equation fixes.

    ``run_over`` says why: its operator runs over what they number, or else an operand has all of
    it in full.
    """

    labels: Tensor
    run_over: bool


class Labels:
    """Hands out labels, and collects which of them are the same.

    ``inner`` are values that stand in no graph, inside of one operator: rectangular as all others.
    """

    def __init__(self) -> None:
        self.inner: list[Value] = []
        self.holds: list[Hold] = []
        self._count = 1  # Label 0 is FIXED.
        self._edges: list[tuple[Tensor, Tensor]] = []
        self._loose: list[tuple[int, int]] = []

    def fresh(self, shape: Sequence[int], dims: Iterable[int] | None = None) -> Value:
        """A tensor that may lose any index of ``dims`` (all by default), each on its own."""
        planes = []
        for dim in range(len(shape)) if dims is None else dims:
            size = shape[dim]
            if size < 2:
                continue  # A dimension of one is a broadcast or cannot get shorter.
            labels = torch.arange(self._count, self._count + size)
            planes.append(labels.view([size if d == dim else 1 for d in range(len(shape))]))
            self._count += size
        return Value(tuple(shape), tuple(planes))

    def loose(self, shape: Sequence[int], dims: Iterable[int]) -> Value:
        """Labels of a dimension that holds copies: it is as wide as its users need."""
        start = self._count
        value = self.fresh(shape, dims)
        self._loose.append((start, self._count))
        return value

    def is_loose(self, plane: Tensor) -> bool:
        """Whether a plane is of copies alone."""
        first = int(plane.max())
        return any(start <= first < end for start, end in self._loose)

    def tie(self, first: Tensor, second: Tensor) -> None:
        """Elements in the same place, after broadcasting, are kept or removed as one."""
        if first.shape != second.shape:
            first, second = torch.broadcast_tensors(first, second)  # type: ignore[no-untyped-call]
        self._edges.append((first.reshape(-1), second.reshape(-1)))

    def tie_along(self, plane: Tensor, dim: int) -> Tensor:
        """Make all elements of a line along ``dim`` one; the plane comes back with size 1 there."""
        first = plane.narrow(dim, 0, 1)
        if plane.shape[dim] > 1:
            self.tie(plane, first.expand_as(plane))
        return first

    def fix(self, plane: Tensor) -> None:
        """None of these may be removed."""
        self.tie(plane, torch.zeros(1, dtype=torch.int64))

    def hold(self, plane: Tensor, *, run_over: bool) -> None:
        """Fix, and remember it: :meth:`roots` can say what would be without."""
        self.holds.append(Hold(plane.reshape(-1), run_over))

    def fix_value(self, value: Value) -> None:
        for plane in value.planes:
            self.fix(plane)

    def roots(self, *, released: bool = False) -> Tensor:
        """For each label the smallest label it is connected to; FIXED where that is 0.

        Args:
            released: Without what is held.
        """
        # From here on, what was collected is one compact list: later calls start from it.
        none = torch.zeros(0, dtype=torch.int64)
        first = torch.cat([none, *(first for first, _ in self._edges)])
        second = torch.cat([none, *(second for _, second in self._edges)])
        self._edges = [(first, second)]
        held = torch.cat([none, *(hold.labels for hold in self.holds if not released)])
        rows = torch.cat([first, held]).numpy()
        columns = torch.cat([second, torch.zeros_like(held)]).numpy()
        graph = coo_array(
            (np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(self._count, self._count)
        )
        _, component = connected_components(graph, directed=False)
        smallest = np.full(component.max() + 1, self._count)
        np.minimum.at(smallest, component, np.arange(self._count))
        return torch.from_numpy(smallest[component])

    def moved(
        self, value: Value, move: Callable[[Tensor], Tensor | Sequence[Tensor]]
    ) -> list[Value]:
        """Run an operator that only moves data on the labels themselves.

        ``move`` gets each plane expanded to the full shape: no memory, as the strides are 0.
        """
        outputs: list[list[Tensor]] = []
        shapes: list[tuple[int, ...]] = []
        planes = value.planes or (torch.zeros([1] * len(value.shape), dtype=torch.int64),)
        for plane in planes:
            result = move(plane.expand(value.shape))
            parts = [result] if isinstance(result, Tensor) else list(result)
            outputs = outputs or [[] for _ in parts]
            shapes = [tuple(part.shape) for part in parts]
            for kept, part in zip(outputs, parts, strict=True):
                kept.append(part)
                if not part.numel() and _extends(part):
                    self.fix(plane)  # The labels are gone, the dimension that they number is not.
        return [self.settled(shape, kept) for shape, kept in zip(shapes, outputs, strict=True)]

    def settled(self, shape: Sequence[int], planes: Iterable[Tensor]) -> Value:
        """A value from planes of any size: what does not vary is made of size 1."""
        kept = []
        for plane in planes:
            small = compressed(plane)
            if small.numel() > 1:
                kept.append(small)
            elif small.numel() == 1 and small.item() != FIXED:
                self.fix(small)  # One label for a whole tensor: nothing can be removed from it.
        return Value(tuple(shape), tuple(kept))


def _extends(part: Tensor) -> bool:
    """Whether an empty tensor has a dimension along which its labels would vary."""
    return any(size > 1 and step for size, step in zip(part.shape, part.stride(), strict=True))


def compressed(plane: Tensor) -> Tensor:
    """The same plane with size 1 wherever it does not vary."""
    for dim in range(plane.dim()):
        if plane.shape[dim] > 1 and plane.stride(dim) == 0:
            plane = plane.narrow(dim, 0, 1)
    for dim in range(plane.dim()):
        if plane.shape[dim] > 1 and bool((plane == plane.narrow(dim, 0, 1)).all()):
            plane = plane.narrow(dim, 0, 1)
    return plane
