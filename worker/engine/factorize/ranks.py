"""The ranks that each layer gets: by itself, or together within a budget."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from worker.engine.config import FactorizeConfig
from worker.engine.errors import TargetUnreachableError
from worker.engine.factorize.bench import Bench, Decomposition
from worker.engine.factorize.candidates import Candidates
from worker.engine.factorize.choice import Options, within
from worker.engine.factorize.layers import Layer
from worker.engine.graph.counts import Counts

# How far below a budget the ranks may end, as a fraction of the original, before it is said.
_TOLERANCE = 0.01


@dataclass
class Ranks:
    """Ranks by layer, and why other layers stay.

    Attributes:
        chosen: In the order of the layers.
        reasons: By the name of a layer's weight.
        warnings: What users should know.
    """

    chosen: dict[Layer, tuple[int, ...]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def ranks_of(
    bench: Bench, config: FactorizeConfig, whole: Counts, on_layer: Callable[[], None]
) -> Ranks:
    """Choose ranks as the configuration says.

    Args:
        bench: The layers.
        config: Exactly one of energy, vbmf, macs and parameters.
        whole: What the program has: fractions are of it.
        on_layer: Called after each layer that was looked at.

    Raises:
        TargetUnreachableError: The budget cannot be met with every layer as small as it can be.
    """
    if config.macs is not None:
        return _within(bench, "macs", config.macs, whole.macs, on_layer)
    if config.parameters is not None:
        return _within(bench, "parameters", config.parameters, whole.parameters, on_layer)
    found = Ranks()
    for layer in bench.layers:
        _by_itself(bench.decomposition(layer), layer, config.energy, found)
        on_layer()
    return found


def _by_itself(made: Decomposition, layer: Layer, energy: float | None, found: Ranks) -> None:
    ranks = made.without_noise() if energy is None else made.sufficient(energy)
    if ranks is None:
        found.reasons[layer.name] = f"keeps less than {energy:g} of its energy with {made.name}"
        return
    candidates = made.candidates()
    # Ranks beyond all candidates save nothing.
    parameters = candidates.parameters[(candidates.ranks == ranks).all(1)]
    if bool((parameters < layer.parameters).any()):
        found.chosen[layer] = ranks
    else:
        found.reasons[layer.name] = f"is not smaller with {named(made, ranks)}"


def named(made: Decomposition, ranks: tuple[int, ...]) -> str:
    """Method and ranks, such as ``tucker 16x24``: of inputs and of outputs."""
    return f"{made.name} {'x'.join(map(str, ranks))}"


def _within(
    bench: Bench, kind: str, fraction: float, whole: int, on_layer: Callable[[], None]
) -> Ranks:
    limit = int(fraction * whole)
    fixed = whole
    candidates: list[Candidates] = []
    options: list[Options] = []
    for layer in bench.layers:
        original = layer.macs if kind == "macs" else layer.parameters
        each = bench.decomposition(layer).candidates()
        costs: np.ndarray = each.macs if kind == "macs" else each.parameters
        fixed -= original
        candidates.append(each)
        options.append(Options.of(costs, each.kept, original))
        on_layer()
    places = within(options, limit - fixed)
    least = fixed + sum(int(each.costs[-1]) for each in options)
    if places is None:
        raise TargetUnreachableError(
            f"{kind}: at most {fraction:g} of the original was asked for; with every layer that "
            f"can be taken apart at its lowest rank {least / whole:.3f} remain; ask for more than "
            "that, exclude less, or prune as well",
            pointer=f"/rank/{kind}",
        )
    found = Ranks()
    for layer, each, option, place in zip(bench.layers, candidates, options, places, strict=True):
        if place:
            found.chosen[layer] = tuple(each.ranks[option.numbers[place]].tolist())
        elif len(option.numbers) == 1:
            found.reasons[layer.name] = f"has as many {kind} or more at every rank"
        else:
            found.reasons[layer.name] = "the budget is met without it"
    left = fixed + sum(int(o.costs[place]) for o, place in zip(options, places, strict=True))
    if (limit - left) / whole > _TOLERANCE:
        found.warnings.append(
            f"{kind}: {fraction:g} of the original was asked for and {left / whole:.3f} remain, as "
            "the next larger ranks would exceed the budget"
        )
    return found
