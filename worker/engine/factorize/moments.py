"""Second moments of what layers read or give: how much each error in a weight counts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor
from torch.fx import Node

from worker.engine.config import FactorizeConfig
from worker.engine.criteria.activations import Watcher, check_activations
from worker.engine.criteria.columns import columns_of, share_of
from worker.engine.criteria.subject import Subject
from worker.engine.factorize.layers import LARGEST, Layer

MEMORY_BYTES = 2**30
"""What all moments that are held at once may take; layers beyond wait for another pass."""

# Of the mean square. Directions that no row has shown still count a little.
_DAMPING = 1e-3
# Squares of smaller numbers come near the end of single precision.
_LEAST_POWER = 1e-30


class View(Enum):
    """Of what a layer's moments are."""

    COLUMNS = "what one output is made of"
    CHANNELS = "channels, whatever the place in the kernel"
    OUTPUTS = "what it gives, bias aside"


@dataclass(frozen=True)
class Moments:
    """Of one layer, over rows and positions.

    Attributes:
        view: Of what.
        second: Mean of ``x x^T``: float64, ``(n, n)``.
        mean: Of the columns: float64, ``(columns,)``; None where channels are looked at alone.
        power: Mean square of all columns.
    """

    view: View
    second: Tensor
    mean: Tensor | None
    power: float

    def weighing(self, layer: Layer) -> Tensor:
        """What errors are weighed with: of differences from the mean where an offset is free.

        Damped, so that it has an inverse. float64, ``(n, n)``.
        """
        second, power = self.second, self.power
        matrix = layer.weight.flatten(1) if self.view is View.OUTPUTS else None
        if self.mean is not None and layer.offset is not None:
            mean = self.mean if matrix is None else matrix @ self.mean
            second = second - mean[:, None] * mean
            power -= float(self.mean.square().mean())
        # Where nothing ever varies, or too little to be squared, all counts the same.
        damping = _DAMPING * power if power > _LEAST_POWER else 1.0
        own = torch.eye(len(second), dtype=torch.float64) if matrix is None else matrix @ matrix.T
        return second + damping * own


def view_of(layer: Layer, method: str) -> View | None:
    """What to look at, as small as it can be; None where all of it is too large to be held."""
    if not layer.is_batched:
        return None
    if method == "svd" and layer.outputs <= layer.columns:
        return View.OUTPUTS
    if layer.columns <= LARGEST:
        return View.COLUMNS
    return View.CHANNELS if method != "svd" and layer.inputs <= LARGEST else None


class Gathered:
    """Moments of many layers, found in as many passes over the rows as memory asks for."""

    def __init__(
        self,
        subject: Callable[[], Subject],
        views: Mapping[Layer, View],
        config: FactorizeConfig,
    ) -> None:
        """Prepare it.

        Args:
            subject: Makes the program with training rows; anew for each pass, so that all draw
                the same.
            views: What to look at, by layer, in the order in which they are asked for.
            config: How many rows, and how many at once.
        """
        self._subject = subject
        self._views = views
        self._config = config
        self._groups = _in_groups(views)
        self._now: tuple[Layer, ...] = ()
        self._found: dict[Node, _Sums] = {}

    @property
    def fits(self) -> bool:
        """Whether one pass is enough."""
        return len(self._groups) <= 1

    def of(self, layer: Layer) -> Moments | None:
        """Moments of a layer; None where there are none.

        Raises:
            NotFiniteError: The layer reads NaN or infinity, or what is too large to square.
        """
        if layer not in self._views:
            return None
        if layer not in self._now:
            self._now = next(group for group in self._groups if layer in group)
            self._found = self._gathered(self._now)
        sums = self._found[layer.node]
        second = sums.second / sums.count
        check_activations(second, layer.node)
        view = self._views[layer]
        mean = None if view is View.CHANNELS else sums.mean / sums.count
        return Moments(view, second, mean, sums.power / (sums.count * len(sums.mean)))

    def _gathered(self, group: Sequence[Layer]) -> dict[Node, "_Sums"]:
        subject = self._subject()
        config = self._config
        views = {layer.node: (layer, self._views[layer]) for layer in group}
        batches = max(1, config.sample_count // max(1, config.batch_size))
        watch = _Watch(subject, views, share=batches)
        for batch in subject.batches(config.sample_count, config.batch_size):
            watch.watch(batch)
        return watch.sums


def _in_groups(views: Mapping[Layer, View]) -> list[tuple[Layer, ...]]:
    groups: list[tuple[Layer, ...]] = []
    held = MEMORY_BYTES
    for layer, view in views.items():
        sides = {
            View.COLUMNS: layer.columns,
            View.CHANNELS: layer.inputs,
            View.OUTPUTS: layer.outputs,
        }
        size = 8 * sides[view] ** 2
        if held + size > MEMORY_BYTES:
            groups.append(())
            held = 0
        groups[-1] += (layer,)
        held += size
    return groups


@dataclass
class _Sums:
    second: Tensor
    mean: Tensor
    power: float = 0.0
    count: int = 0


class _Watch(Watcher):
    """Sums up what layers read, a share of it where it is much."""

    def __init__(
        self, subject: Subject, views: Mapping[Node, tuple[Layer, View]], *, share: int
    ) -> None:
        super().__init__(subject)
        self._views = views
        self._share = share
        self._generator = subject.generator
        self._matrices: dict[Node, Tensor] = {}
        self.sums: dict[Node, _Sums] = {}

    def before(self, node: Node) -> None:
        if node not in self._views:
            return
        layer, view = self._views[node]
        source = self.env[layer.call.source]
        if view is View.CHANNELS:
            columns = source.movedim(layer.call.source_dim, -1).flatten(0, -2)
        else:
            columns = columns_of(layer.call, source, self.program)
        columns = share_of(columns, self._share, self._generator).float()
        lines = columns if view is not View.OUTPUTS else columns @ self._matrix(layer)
        # In single precision, which is several times faster, and summed in double.
        second, mean = (lines.T @ lines).double().cpu(), columns.double().sum(0).cpu()
        if node not in self.sums:
            self.sums[node] = _Sums(torch.zeros_like(second), torch.zeros_like(mean))
        sums = self.sums[node]
        sums.second += second
        sums.mean += mean
        sums.power += float(columns.double().square().sum())
        sums.count += len(columns)

    def _matrix(self, layer: Layer) -> Tensor:
        if layer.node not in self._matrices:
            matrix = layer.weight.flatten(1).T.float()
            self._matrices[layer.node] = matrix.to(self.program.device)
        return self._matrices[layer.node]
