"""Choose which weights become zero: from scores and an amount to masks."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from math import ceil

import torch
from torch import Tensor

from worker.engine.config import OverrideConfig, PruneConfig
from worker.engine.errors import TargetUnreachableError
from worker.engine.program import Program
from worker.engine.prune.multiplied import Weight
from worker.engine.prune.patterns import as_matrix, block_of, lines_of, n_of_m, outputs_first

# So that nine tenths of ten are nine, however they are rounded.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Units:
    """What becomes zero as one, elements or blocks, the least important first.

    Attributes:
        scores: The mean over elements; minus infinity where all of them are zero already.
        sizes: How many elements each has.
        order: Places in both, by score.
    """

    scores: Tensor
    sizes: Tensor
    order: Tensor

    @classmethod
    def of(cls, scores: Tensor, sizes: Tensor, zero: Tensor) -> "Units":
        scores = torch.where(zero, -torch.inf, scores)
        return cls(scores, sizes, scores.argsort(stable=True))

    @cached_property
    def elements(self) -> int:
        return int(self.sizes.sum())

    @property
    def zero(self) -> int:
        """How many elements are in units that are zero already."""
        return int(self.sizes[self.scores == -torch.inf].sum())

    def below(self, threshold: float) -> int:
        """How many elements are in units below it."""
        return int(self.sizes[self.scores < threshold].sum())

    def all_but(self, elements: float, *, at_least: bool = False) -> Tensor:
        """All but the lowest units that have as many elements, to the nearest: bool, flat."""
        stays = torch.ones(len(self.scores), dtype=torch.bool)
        stays[self.order[: _number(self.sizes[self.order], elements, at_least=at_least)]] = False
        return stays

    def going(self, floor: float) -> Tensor:
        """Places of those that may go, in order."""
        most = (1 - floor) * self.elements + _ROUNDING
        return self.order[self.sizes[self.order].cumsum(0) <= most]


def _number(sizes: Tensor, elements: float, *, at_least: bool) -> int:
    """How many of the first sizes add up to some number: to the nearest, or to no less."""
    before = sizes.cumsum(0) - sizes
    if at_least:
        return int((before < elements - _ROUNDING * elements).sum())
    return int((before + sizes / 2 <= elements).sum())


class Zeros:
    """Which units of which weights become zero."""

    def __init__(
        self,
        program: Program,
        weights: dict[str, Weight],
        scores: dict[str, Tensor],
        config: PruneConfig,
    ) -> None:
        self._program = program
        self._weights = {name: weights[name] for name in scores}
        self._scores = scores
        self._config = config
        self.warnings: list[str] = []

    def masks(self) -> dict[str, Tensor]:
        """What stays: bool, in the shape of each weight."""
        if ":" in self._config.pattern:
            return self._n_of_m()
        units = {name: self._units(name) for name in self._scores}
        own = {name: self._override(name) for name in units}
        stays = {
            name: self._own(units[name], override)
            for name, override in own.items()
            if override is not None
        }
        gone = sum(int(units[name].sizes[~stay].sum()) for name, stay in stays.items())
        stays |= self._free({name: units[name] for name in units if name not in stays}, gone)
        self._warn_of_overrides(own)
        return {name: self._as_mask(name, stays[name]) for name in units}

    def _n_of_m(self) -> dict[str, Tensor]:
        most, of = n_of_m(self._config.pattern)
        found = {}
        for name, scores in self._scores.items():
            inputs = self._weights[name].inputs
            lines = lines_of(scores, inputs, of)
            if lines is None:
                self.warnings.append(
                    f"{name} has fewer than {of} inputs, so that {most}:{of} leaves it whole"
                )
                continue
            best = lines.argsort(dim=-1, descending=True, stable=True)[..., :most]
            kept = torch.zeros(lines.shape, dtype=torch.bool).scatter_(-1, best, True)
            mask = torch.ones(scores.shape, dtype=torch.bool).movedim(inputs, -1).contiguous()
            whole = kept.shape[-2] * of
            mask[..., :whole] = kept.flatten(-2)
            if rest := mask.shape[-1] - whole:
                self.warnings.append(
                    f"{name} has {mask.shape[-1]} inputs, no multiple of {of}: the last {rest} "
                    "stay whole"
                )
            found[name] = mask.movedim(-1, inputs).contiguous()
        return found

    def _units(self, name: str) -> Units:
        """The elements of a weight, or its blocks: those at its edges have fewer elements."""
        scores, weight = self._scores[name], self._weights[name]
        if self._config.pattern == "elements":
            ones = torch.ones(scores.numel(), dtype=torch.int64)
            return Units.of(scores.flatten(), ones, weight.zero.flatten())
        matrix = as_matrix(scores, weight.inputs)
        sizes = self._blocks(torch.ones_like(matrix, dtype=torch.int64))
        zeros = self._blocks(as_matrix(weight.zero, weight.inputs).long())
        return Units.of(self._blocks(matrix) / sizes, sizes, zeros == sizes)

    def _blocks(self, matrix: Tensor) -> Tensor:
        """The sum over each block: flat."""
        high, wide = block_of(self._config.pattern)
        rows, columns = ceil(matrix.shape[0] / high), ceil(matrix.shape[1] / wide)
        padded = matrix.new_zeros(rows * high, columns * wide)
        padded[: matrix.shape[0], : matrix.shape[1]] = matrix
        return padded.view(rows, high, columns, wide).sum((1, 3)).flatten()

    def _as_mask(self, name: str, stays: Tensor) -> Tensor:
        mask = torch.ones(self._scores[name].shape, dtype=torch.bool)
        if self._config.pattern == "elements":
            return stays.view(mask.shape)
        high, wide = block_of(self._config.pattern)
        inputs = self._weights[name].inputs
        height, width = as_matrix(mask, inputs).shape
        blocks = stays.view(ceil(height / high), ceil(width / wide))
        full = blocks.repeat_interleave(high, 0).repeat_interleave(wide, 1)[:height, :width]
        seen = outputs_first(mask, inputs)
        seen.copy_(full.reshape(seen.shape))
        return mask

    def _override(self, name: str) -> OverrideConfig | None:
        return next((o for o in self._config.overrides if fnmatchcase(name, o.match)), None)

    def _warn_of_overrides(self, own: dict[str, OverrideConfig | None]) -> None:
        used = {id(override) for override in own.values()}
        self.warnings += [
            f"overrides: {override.match!r} is the first match of no weight, so it changes nothing"
            for override in self._config.overrides
            if id(override) not in used
        ]

    def _own(self, units: Units, override: OverrideConfig) -> Tensor:
        if override.sparsity is not None:
            return units.all_but(override.sparsity * self._config.progress[1] * units.elements)
        assert override.threshold is not None, "exactly one amount is given"
        return units.all_but(self._below(units, override.threshold))

    def _below(self, units: Units, threshold: float) -> float:
        """How many elements below a threshold are zero after this round."""
        start, end = self._config.progress
        more = units.below(threshold) - units.zero
        return units.zero + more * (end - start) / (1 - start)

    def _free(self, units: dict[str, Units], gone: int) -> dict[str, Tensor]:
        """What the budget leaves of the weights without an override, of which these are gone."""
        if self._config.amount is None:
            return {
                name: torch.ones(len(own.scores), dtype=torch.bool) for name, own in units.items()
            }
        kind, value = self._config.amount
        floor = self._config.floor_used
        if kind == "threshold":
            return {
                name: own.all_but(min(self._below(own, value), (1 - floor) * own.elements))
                for name, own in units.items()
            }
        total = sum(own.elements for own in units.values())
        wanted = value * total if kind == "sparsity" else self._zeros_for(value) - gone
        if wanted > (1 - floor) * total + 0.5:
            raise self._unreachable(kind, value, total, gone)
        is_limit = kind == "parameters"
        reached = max(wanted, 0) if is_limit else wanted
        return self._sparse(units, reached * self._config.progress[1], at_least=is_limit)

    def _sparse(
        self, units: dict[str, Units], wanted: float, *, at_least: bool
    ) -> dict[str, Tensor]:
        """The lowest units, as many as have the wanted number of elements."""
        total = sum(own.elements for own in units.values())
        if self._config.scope == "local":
            share = wanted / max(total, 1)
            return {
                name: own.all_but(share * own.elements, at_least=at_least)
                for name, own in units.items()
            }
        stays = {name: torch.ones(len(own.scores), dtype=torch.bool) for name, own in units.items()}
        if not units:
            return stays
        # What the floor of a weight holds back goes to the others, so that the sum is as asked.
        going = [own.going(self._config.floor_used) for own in units.values()]
        scores = torch.cat([own.scores[at] for own, at in zip(units.values(), going, strict=True)])
        sizes = torch.cat([own.sizes[at] for own, at in zip(units.values(), going, strict=True)])
        order = scores.argsort(stable=True)
        gone = torch.zeros(len(scores), dtype=torch.bool)
        gone[order[: _number(sizes[order], wanted, at_least=at_least)]] = True
        parts = torch.split(gone, [len(at) for at in going])
        for stay, at, part in zip(stays.values(), going, parts, strict=True):
            stay[at[part]] = False
        return stays

    def _parameters(self) -> int:
        return sum(parameter.numel() for parameter in self._program.module.parameters())

    def _zeros_for(self, fraction: float) -> float:
        """How many weights have to be zero, so that a fraction of all parameters is not."""
        return (1 - fraction) * self._parameters()

    def _unreachable(
        self, kind: str, value: float, total: int, gone: int
    ) -> TargetUnreachableError:
        most = (1 - self._config.floor_used) * total
        if kind == "sparsity":
            said = f"sparsity: {value:g} were to be zero; with every weight at its floor at most "
            said += f"{most / max(total, 1):.3f} are: ask for less, or use a lower floor"
        else:
            least = 1 - (most + gone) / self._parameters()
            said = f"parameters: at most {value:g} were to be other than zero; with every weight "
            said += f"at its floor {least:.3f} remain: ask for more than that, exclude less, or "
            said += "use a lower floor"
        return TargetUnreachableError(said, pointer=f"/budget/{kind}")
