"""What activations are like at the moment when they are read."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from worker.engine.batch import Batch, computing_with_data
from worker.engine.criteria.subject import Slice, Subject
from worker.engine.errors import NotFiniteError
from worker.engine.graph.flow import Place, Read
from worker.engine.program import module_path


@dataclass(frozen=True)
class Sight:
    """A tensor as a call reads it, along one of its dimensions."""

    reader: Node
    source: Node
    dim: int

    @classmethod
    def of(cls, read: Read) -> "Sight":
        return cls(read.node, read.source.node, read.source.dim)


class Watcher(Interpreter):
    """Runs a program on batches, and looks at what each call reads at the moment of reading.

    At that moment, as an operator in place may have changed it since it was made. A subclass says
    what it does with it in :meth:`before`.
    """

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject.program.module)
        self.extra_traceback = False  # It would be appended to messages that users read.
        self.program = subject.program

    @torch.no_grad()
    def watch(self, batch: Batch) -> None:
        """Run on a batch."""
        with self.program.unwritten(batch.inputs) as own:
            super().run(*own)

    def before(self, node: Node) -> None:
        """Called before a node runs; ``self.env`` holds what it reads."""

    def run_node(self, n: Node) -> object:
        self.before(n)
        with computing_with_data():
            return super().run_node(n)


class Watch(Watcher):
    """Shows tensors as calls read them."""

    def __init__(
        self, subject: Subject, sights: Iterable[Sight], show: Callable[[Sight, Tensor], None]
    ) -> None:
        """Prepare it.

        Args:
            subject: The program.
            sights: What to watch.
            show: Called with each sight and its tensor, ``dim`` first and all others as one:
                ``(size, n)``, in the order of the program.
        """
        super().__init__(subject)
        self._show = show
        self._at: dict[Node, list[Sight]] = {}
        for sight in sights:
            self._at.setdefault(sight.reader, []).append(sight)

    def before(self, node: Node) -> None:
        for sight in self._at.get(node, ()):
            self._show(sight, self.env[sight.source].movedim(sight.dim, 0).flatten(1))


class Moments:
    """Mean and variance of each index of a dimension, over everything else; float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros((), dtype=torch.float64)
        self.absolute = torch.zeros((), dtype=torch.float64)
        self._squares = torch.zeros((), dtype=torch.float64)

    @property
    def variance(self) -> Tensor:
        return self._squares / self.count

    @property
    def mean_square(self) -> Tensor:
        return self.variance + self.mean.square()

    def add(self, values: Tensor) -> None:
        """Take more values: ``(size, n)``."""
        values = values.float()
        new = values.shape[1]
        variance, mean = (part.double().cpu() for part in torch.var_mean(values, 1, correction=0))
        share = new / (self.count + new)
        away = mean - self.mean
        # Chan et al.: two parts joined, without a difference of large numbers.
        self._squares = self._squares + variance * new + away.square() * self.count * share
        self.mean = self.mean + away * share
        absolute = values.abs().mean(1).double().cpu()
        self.absolute = self.absolute + (absolute - self.absolute) * share
        self.count += new


def moments(
    subject: Subject, sights: Iterable[Sight], *, sample_count: int, batch_size: int
) -> dict[Sight, Moments]:
    """Means and variances along a dimension of what calls read, over training rows."""
    found = {sight: Moments() for sight in sights}
    watch = Watch(subject, found, lambda sight, values: found[sight].add(values))
    for batch in subject.batches(sample_count, batch_size):
        watch.watch(batch)
    return found


def check_activations(moments: Tensor, reader: Node) -> None:
    """Check what was measured of what a call reads.

    Raises:
        NotFiniteError: It is NaN or infinite.
    """
    if not bool(moments.isfinite().all()):
        raise NotFiniteError(
            f"on the training data {module_path(reader) or reader.name!r} reads NaN or infinity, "
            "or numbers too large to be squared: check the range of the data, and the weights "
            "for NaN"
        )


def distinct_sources(reads: Iterable[Read]) -> list[Read]:
    """One read for each tensor and dimension: those with weights where there are any."""
    found: dict[tuple[Node, int], Read] = {}
    for read in sorted(reads, key=lambda read: not read.weights):
        found.setdefault((read.source.node, read.source.dim), read)
    return list(found.values())


def averaged(subject: Subject, place: Place, values: Tensor) -> Slice:
    """The mean over the indices of each channel, from a value for each index."""
    total = subject.gathered(place.line, values)
    number = subject.gathered(place.line, torch.ones(len(values)))
    return Slice(total.channels, total.scores / number.scores)
