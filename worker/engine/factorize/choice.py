"""Which ranks all layers get, so that together they cost at most as much as a budget allows."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# What a layer loses that keeps nothing, as a logarithm: finite, so that it can still be compared.
_LEAST = 1e-12


@dataclass(frozen=True)
class Options:
    """What one layer can become, from dear to cheap; the first is to stay as it is.

    Attributes:
        numbers: Of the candidates; -1 for staying: int64, ``(n,)``.
        costs: Falling: int64, ``(n,)``.
        losses: Rising: float64, ``(n,)``.
    """

    numbers: np.ndarray
    costs: np.ndarray
    losses: np.ndarray

    @classmethod
    def of(cls, costs: np.ndarray, kept: np.ndarray, original: int) -> "Options":
        """Those of which no other costs as little and loses less.

        Args:
            costs: Of each candidate: int64, ``(n,)``.
            kept: Share of the energy of each: float64, ``(n,)``.
            original: What the layer costs as it is.
        """
        losses = -np.log(np.clip(kept, _LEAST, 1.0))
        numbers = np.nonzero(costs < original)[0]
        # The cheapest first, and of the same cost the best first.
        numbers = numbers[np.lexsort((losses[numbers], costs[numbers]))]
        best = np.minimum.accumulate(losses[numbers])
        is_better = np.concatenate([[True], best[1:] < best[:-1]])[: len(numbers)]
        numbers = numbers[is_better][::-1]
        return cls(
            np.concatenate([[-1], numbers]),
            np.concatenate([[original], costs[numbers]]),
            np.concatenate([[0.0], losses[numbers]]),
        )

    def hull(self) -> list[int]:
        """Those on the lower convex hull: each step saves at a higher price than the one before."""
        found = [0]
        for at in range(1, len(self.numbers)):
            while len(found) > 1 and self.price(found[-2], at) <= self.price(*found[-2:]):
                found.pop()
            found.append(at)
        return found

    def price(self, before: int, after: int) -> float:
        """What is lost for each unit that a step from one place to a later one saves."""
        saved = self.costs[before] - self.costs[after]
        return float((self.losses[after] - self.losses[before]) / saved)


def within(layers: Sequence[Options], limit: int) -> list[int] | None:
    """An option of each layer, of least loss in all, that together cost at most a limit.

    Losses are logarithms of the energy that stays, so the product of these over all layers is to be
    large, as in Zhang et al., "Accelerating Very Deep Convolutional Networks for Classification
    and Detection", 2015. Layers go down their convex hulls, whoever saves at the lowest price
    first; what the last step leaves of the budget is then given back where it helps most.

    Returns:
        Places in the options, 0 for staying; None where the cheapest of all cost more.
    """
    if sum(int(each.costs[-1]) for each in layers) > limit:
        return None
    hulls = [each.hull() for each in layers]
    chosen = [0] * len(layers)
    cost = sum(int(each.costs[0]) for each in layers)
    queue: list[tuple[float, int, int]] = []

    def offer(layer: int, step: int) -> None:
        if step + 1 < len(hulls[layer]):
            next_price = layers[layer].price(hulls[layer][step], hulls[layer][step + 1])
            heapq.heappush(queue, (next_price, layer, step + 1))

    for layer in range(len(layers)):
        offer(layer, 0)
    while cost > limit:
        _, layer, step = heapq.heappop(queue)
        cost -= int(layers[layer].costs[chosen[layer]] - layers[layer].costs[hulls[layer][step]])
        chosen[layer] = hulls[layer][step]
        offer(layer, step)
    _give_back(layers, chosen, limit - cost)
    return chosen


def _give_back(layers: Sequence[Options], chosen: list[int], room: int) -> None:
    """Use up what is left: again and again the dearer option that lowers the loss most.

    One that loses no less is taken, too: a layer that fits as it is need not be taken apart.
    """
    while True:
        best, gain = None, 0.0
        for layer, options in enumerate(layers):
            now = chosen[layer]
            # Costs fall: the first that still fits loses least of those that do.
            place = int(np.searchsorted(-options.costs, -(options.costs[now] + room)))
            if place >= now:
                continue
            lower = float(options.losses[now] - options.losses[place])
            if lower >= gain:
                best, gain = (layer, place), lower
        if best is None:
            return
        layer, place = best
        room -= int(layers[layer].costs[place] - layers[layer].costs[chosen[layer]])
        chosen[layer] = place
