"""Layers on the bench: what each can become, with what is known of its inputs."""

from collections.abc import Sequence
from math import prod
from typing import Protocol

from worker.engine.config import FactorizeConfig
from worker.engine.criteria.subject import Subject
from worker.engine.data import Rows
from worker.engine.factorize.candidates import Candidates
from worker.engine.factorize.cp import Cp
from worker.engine.factorize.layers import LARGEST, Layer
from worker.engine.factorize.moments import Gathered, Moments, View, view_of
from worker.engine.factorize.parts import Part
from worker.engine.factorize.svd import Svd
from worker.engine.factorize.tucker import Tucker
from worker.engine.graph.coupling import Coupling

_MOST_NAMED = 5


class Decomposition(Protocol):
    """A way to take one layer apart."""

    @property
    def name(self) -> str: ...

    def candidates(self) -> Candidates:
        """All choices of ranks, what they cost, and what they keep."""

    def sufficient(self, energy: float) -> tuple[int, ...] | None:
        """The least ranks that keep a share of the energy, each by itself; None where none do."""

    def without_noise(self) -> tuple[int, ...]:
        """The ranks of what is no noise in the weight, at least 1."""

    def parts(self, ranks: tuple[int, ...]) -> list[Part]:
        """The best layers of these ranks."""


class Bench:
    """All layers that can be taken apart, and how."""

    def __init__(
        self,
        coupling: Coupling,
        layers: Sequence[Layer],
        config: FactorizeConfig,
        rows: Rows | None,
        seed: int,
    ) -> None:
        """Prepare it; nothing runs yet.

        Args:
            coupling: Of the program.
            layers: In the order in which they are asked for.
            config: The method, and how many rows.
            rows: Training data; None weighs all inputs the same.
            seed: Chooses rows, and where alternating least squares begin.
        """
        self.layers = layers
        self._config = config
        self._seed = seed
        views = {layer: view_of(layer, self.method_of(layer)) for layer in layers}
        self._views = views if rows is not None else {}
        known = {layer: view for layer, view in self._views.items() if view is not None}
        self._moments = Gathered(lambda: Subject(coupling, rows, seed), known, config)
        self._made: dict[Layer, Decomposition] = {}

    def method_of(self, layer: Layer) -> str:
        if self._config.method != "auto":
            return self._config.method
        return "svd" if prod(layer.kernel) == 1 else "tucker"

    def moments(self, layer: Layer) -> Moments | None:
        return self._moments.of(layer)

    def decomposition(self, layer: Layer) -> Decomposition:
        """How a layer is taken apart; made once where all fit into memory."""
        if layer in self._made:
            return self._made[layer]
        made = self._decomposed(layer)
        if self._moments.fits:
            self._made[layer] = made
        return made

    def _decomposed(self, layer: Layer) -> Decomposition:
        method, moments = self.method_of(layer), self.moments(layer)
        if method == "svd":
            return Svd(layer, moments)
        if method == "tucker":
            return Tucker(layer, moments)
        return Cp(layer, moments, seed=self._seed)

    def warnings(self) -> list[str]:
        """A word on layers whose inputs are looked at in part, or not at all."""
        unseen = [layer.name for layer, view in self._views.items() if view is None]
        channels = [layer.name for layer, view in self._views.items() if view is View.CHANNELS]
        said = []
        if unseen:
            said.append(
                f"factorize: {_named(unseen)}: what is lost is not weighed by the training data, "
                f"as more than {LARGEST:,} numbers make one output, or rows have no dimension"
            )
        if channels:
            said.append(
                f"factorize: {_named(channels)}: what is lost is weighed by channels alone, as "
                f"more than {LARGEST:,} numbers make one output"
            )
        return said


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{', '.join(names[:_MOST_NAMED])}{more}"
