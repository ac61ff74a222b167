"""Weight calls as least-squares problems: their inputs as columns, and the moments of these."""

from collections.abc import Callable, Iterable

import torch
from torch import Generator, Tensor
from torch.fx import Node
from torch.nn import functional

from worker.engine.arguments import argument
from worker.engine.criteria.activations import Watcher, check_activations
from worker.engine.criteria.subject import Subject
from worker.engine.graph.weights import WeightCall, weight_calls
from worker.engine.program import Program, attribute

_ROWS = 2**15


def readable(program: Program, nodes: Iterable[Node]) -> dict[Node, WeightCall]:
    """The calls among nodes that are one matrix product: linear layers, ungrouped convolutions."""
    wanted = set(nodes)
    return {
        call.node: call
        for call in weight_calls(program)
        if call.node in wanted and groups_of(call.node) == 1
    }


def groups_of(node: Node) -> int:
    """In how many parts a call reads its channels, each by weights of its own."""
    return int(argument(node, "groups")) if is_convolution(node) else 1


class Columns:
    """Second moments of what weight calls read, over training rows."""

    def __init__(
        self,
        subject: Subject,
        calls: dict[Node, WeightCall],
        *,
        sample_count: int,
        batch_size: int,
    ) -> None:
        """Run the program on the rows, once.

        Args:
            subject: The program, with training rows.
            calls: From :func:`readable`.
            sample_count: Rows in all.
            batch_size: Rows per batch.
        """
        self._subject = subject
        self._calls = calls
        self._sums: dict[Node, Tensor] = {}
        self._counts: dict[Node, int] = {}
        if not calls:
            return
        batches = max(1, sample_count // max(1, batch_size))
        watch = _WatchColumns(subject, calls, self._add, share=batches)
        for batch in subject.batches(sample_count, batch_size):
            watch.watch(batch)

    def moment(self, node: Node) -> Tensor:
        """Mean of ``x x^T`` over rows and positions: float64, ``(n, n)``, not centered.

        Raises:
            NotFiniteError: The model reads NaN or infinity there, or what is too large to square.
        """
        moment = self._sums[node] / self._counts[node]
        check_activations(moment, node)
        return moment

    def weight(self, node: Node) -> Tensor:
        """The weight as a matrix: float64, ``(n, outputs)``."""
        call = self._calls[node]
        weight = attribute(self._subject.program.module, call.parameter)
        assert isinstance(weight, Tensor)
        lines = weight.detach().double()
        return (lines if call.weight_dim == 0 else lines.flatten(1).T).cpu()

    def repeats(self, node: Node) -> int:
        """How many columns each index of the read dimension is: the size of a kernel."""
        shape = (
            self._subject.program.shape(argument(node, "weight")) if is_convolution(node) else ()
        )
        repeats = 1
        for size in shape[2:]:
            repeats *= size
        return repeats

    def _add(self, node: Node, columns: Tensor) -> None:
        # In single precision, which is several times faster, and summed in double.
        moment = (columns.T @ columns).double().cpu()
        self._sums[node] = self._sums[node] + moment if node in self._sums else moment
        self._counts[node] = self._counts.get(node, 0) + len(columns)


def is_convolution(node: Node) -> bool:
    """Whether a weight call slides over positions."""
    return "conv" in str(node.target)


class _WatchColumns(Watcher):
    """Shows what each call reads as columns ``(rows, n)``, a share of them where they are many."""

    def __init__(
        self,
        subject: Subject,
        calls: dict[Node, WeightCall],
        add: Callable[[Node, Tensor], None],
        *,
        share: int,
    ) -> None:
        super().__init__(subject)
        self._calls = calls
        self._add = add
        self._share = share
        self._generator = subject.generator

    def before(self, node: Node) -> None:
        if node not in self._calls:
            return
        call = self._calls[node]
        columns = columns_of(call, self.env[call.source], self.program)
        self._add(node, share_of(columns, self._share, self._generator).float())


def share_of(columns: Tensor, batches: int, generator: Generator) -> Tensor:
    """Some rows of ``(rows, n)`` where they are many: of so many batches in all enough.

    Positions of a convolution are many and alike; this many rows more than unknowns will do.
    """
    most = -(-(_ROWS + 2 * columns.shape[1]) // batches)
    if len(columns) <= most:
        return columns
    picked = torch.randperm(len(columns), generator=generator)[:most]
    return columns[picked.to(columns.device)]


def columns_of(call: WeightCall, source: Tensor, program: Program) -> Tensor:
    """What a call multiplies with its weight: ``(rows, n)``, rows and positions as one."""
    node = call.node
    if not is_convolution(node):
        return source.movedim(call.source_dim, -1).flatten(0, -2)
    kernel = program.shape(argument(node, "weight"))[2:]
    return unfolded(
        source,
        kernel,
        stride=argument(node, "stride"),
        padding=argument(node, "padding"),
        dilation=argument(node, "dilation"),
    )


def unfolded(
    source: Tensor,
    kernel: tuple[int, ...],
    *,
    stride: list[int],
    padding: list[int] | str,
    dilation: list[int],
) -> Tensor:
    """What a convolution multiplies with its weight, for any number of spatial dimensions.

    Args:
        source: ``(n, c, ...)``.
        kernel: Sizes of the kernel.
        stride: As ATen has it: one number for each dimension, or one for all.
        padding: The same, or ``valid`` or ``same``.
        dilation: The same.

    Returns:
        ``(n * positions, c * kernel)``, its columns as those of ``weight.flatten(1)``.
    """
    rank = len(kernel)
    stride, dilation = _every(stride, rank), _every(dilation, rank)
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if padding == "same":
        pads = [(total // 2, total - total // 2) for total in reach]
    else:
        each = [0] * rank if isinstance(padding, str) else _every(padding, rank)
        pads = [(size, size) for size in each]
    padded = functional.pad(source, [size for pair in reversed(pads) for size in pair])
    for at in range(rank):
        padded = padded.unfold(2 + at, reach[at] + 1, stride[at])[..., :: dilation[at]]
    spatial = range(2, 2 + rank)
    order = [0, *spatial, 1, *(at + rank for at in spatial)]
    return padded.permute(order).flatten(1 + rank).flatten(0, rank)


def _every(numbers: list[int], rank: int) -> list[int]:
    return [*numbers] * rank if len(numbers) == 1 else [*numbers]
