"""Make weights zero that keep their place: single ones, N of M, or blocks."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import Parameter

from worker.engine.arguments import argument, constants
from worker.engine.config import OverrideConfig, PruneConfig
from worker.engine.criteria import CRITERIA
from worker.engine.criteria.subject import Subject, ignore
from worker.engine.data import Rows
from worker.engine.errors import (
    CountsDifferError,
    CriterionError,
    NotFiniteError,
    NothingToPruneError,
    TargetUnreachableError,
)
from worker.engine.graph.counts import MACS, Counts, count
from worker.engine.graph.coupling import Coupling
from worker.engine.program import Program, attribute
from worker.engine.prune.plan import heading, keep_sha256, unmatched_warning

aten = torch.ops.aten

_FLOOR = 0.1
_TINY = 1e-12
# So that nine tenths of ten are nine, however they are rounded.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class _Weight:
    """A weight that is multiplied with activations.

    Attributes:
        parameter: The weight.
        macs: Multiply-accumulates of one element.
        inputs: The dimension that is summed over.
    """

    parameter: Parameter
    macs: float
    inputs: int

    @property
    def zero(self) -> Tensor:
        """What is zero already."""
        return self.parameter.detach().cpu() == 0


@dataclass(frozen=True)
class SparsePlan:
    """Which weights stay: bool, in the shape of each, by name.

    ``inputs`` is the dimension of each that is summed over.
    """

    config: PruneConfig
    seed: int
    baseline: Counts
    masks: dict[str, Tensor]
    inputs: dict[str, int]
    warnings: tuple[str, ...]

    def as_json(self, model_sha256: str) -> dict[str, Any]:
        """The plan in the shape that users download: counts, for masks would be as large as it."""
        return {
            **heading(self.config, model_sha256, self.seed),
            "baseline": self.baseline.as_json(),
            "predicted": self.baseline.as_json(),
            "channel_groups": [],
            "sparse": [
                {
                    "parameter": name,
                    "shape": list(mask.shape),
                    "zero_count": int((~mask).sum()),
                }
                for name, mask in self.masks.items()
            ],
            "keep_sha256": keep_sha256([]),
            "sizes": [],
            "frozen": [],
            "warnings": list(self.warnings),
        }


_TRANSPOSED = (
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
)
_PRODUCTS = {
    aten.matmul.default: "self",
    aten.mm.default: "self",
    aten.mv.default: "self",
    aten.bmm.default: "self",
    aten.addmm.default: "mat1",
    aten.baddbmm.default: "batch1",
}
"""Matrix products, and their first factor: its columns are the rows of the second."""


def decide_zeros(
    coupling: Coupling,
    config: PruneConfig,
    *,
    seed: int,
    rows: Rows | None = None,
    on_progress: Callable[[int, int], None] = ignore,
) -> SparsePlan:
    """Score every weight that is multiplied with activations, and choose which become zero.

    The arguments are those of :func:`worker.engine.prune.plan.decide`.

    Raises:
        NothingToPruneError: No weight may become zero, or none would.
        CriterionError: The criterion scores none of these weights.
        NotFiniteError: Scores are NaN or infinite.
        TargetUnreachableError: More zeros are asked for than the weights at their floors allow.
    """
    subject = Subject(coupling, rows, seed, on_progress)
    warnings: list[str] = []
    weights = _weights(coupling, config, warnings)
    scores = _scores(subject, config, weights, warnings)
    choice = _Zeros(subject.program, weights, scores, config)
    masks = choice.masks()
    zeros = sum(int((~mask).sum()) for mask in masks.values())
    if not zeros and config.progress[1] == 1:  # A round before may be too short for the first.
        reasons = "".join(f"; {warning}" for warning in (*warnings, *choice.warnings)[:3])
        raise NothingToPruneError(
            "what was asked makes no weight zero: ask for more, or for smaller blocks, or use a "
            f"lower floor{reasons}",
            pointer="",
        )
    return SparsePlan(
        config,
        seed,
        count(coupling),
        masks,
        {name: weights[name].inputs for name in masks},
        (*warnings, *subject.warnings, *choice.warnings),
    )


def zeroed(program: Program, masks: dict[str, Tensor]) -> Program:
    """The same program with zeros where the masks are False, in weights of its own."""
    copy = program.copy()
    with torch.no_grad():
        for name, mask in masks.items():
            weight = attribute(copy.module, name)
            assert isinstance(weight, Tensor)
            # Not a product: what is not finite stays as it was, or goes.
            weight.masked_fill_(~mask.to(weight.device), 0.0)
    return copy


def check_zeros(original: Program, program: Program, plan: SparsePlan) -> None:
    """Hold a program with zeros against its original, weight by weight.

    Raises:
        CountsDifferError: A weight that stays has changed, one that goes is not zero, or a pattern
            N:M does not hold.
    """
    before = dict(original.module.named_parameters(remove_duplicate=False))
    # A tied weight has its mask under one of its names.
    masks = {id(before[name]): (mask, plan.inputs[name]) for name, mask in plan.masks.items()}
    for name, weight in program.module.named_parameters(remove_duplicate=False):
        mask, inputs = masks.get(id(before[name]), (None, 0))
        expected = before[name] if mask is None else before[name].where(mask.to(weight.device), 0.0)
        if not torch.equal(expected.nan_to_num(), weight.nan_to_num()):
            raise CountsDifferError(
                f"the zeros of {name} are not where the plan has them: not delivered; this is a "
                "defect of the engine, report it with the model"
            )
        if mask is not None and ":" in plan.config.pattern:
            most, of = _n_of_m(plan.config.pattern)
            lines = _lines(weight != 0, inputs, of)
            if lines is not None and int(lines.sum(-1).max()) > most:
                raise CountsDifferError(f"{name} does not hold the pattern {most}:{of}")


def _weights(coupling: Coupling, config: PruneConfig, warnings: list[str]) -> dict[str, _Weight]:
    """The weights of matrix products and convolutions, by name."""
    program = coupling.program
    fixed = constants(program.graph)
    kept = coupling.kept(coupling.everything())
    names = [name for name, _ in program.module.named_parameters(remove_duplicate=False)]
    warnings += [
        unmatched_warning(pattern)
        for pattern in config.exclude
        if not any(fnmatchcase(name, pattern) for name in names)
    ]
    found: dict[str, _Weight] = {}
    seen: set[int] = set()
    for node in program.graph.nodes:
        if node.target not in MACS:
            continue
        for operand in node.all_input_nodes:
            name = _parameter_behind(operand, fixed)
            weight = attribute(program.module, name) if name else None
            if not isinstance(weight, Parameter) or weight.dim() < 2 or id(weight) in seen:
                continue
            if name and not any(fnmatchcase(name, pattern) for pattern in config.exclude):
                seen.add(id(weight))
                macs = MACS[node.target](node, kept.shapes) / weight.numel()
                found[name] = _Weight(weight, macs, _inputs(program, node, operand))
    if not found:
        raise NothingToPruneError(
            "no weight of a convolution, linear or recurrent layer may become zero: all are "
            "excluded, or there is none",
            pointer="/exclude",
        )
    return found


def _parameter_behind(node: Node, fixed: set[Node]) -> str | None:
    """The parameter that a constant is a view or a permutation of."""
    while node in fixed and node.op != "get_attr" and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return str(node.target) if node.op == "get_attr" else None


def _inputs(program: Program, node: Node, operand: Node) -> int:
    """The dimension of a parameter that a call sums over, through what shows it to the call."""
    chain: list[Node] = []
    while operand.op != "get_attr":
        chain.append(operand)
        operand = operand.all_input_nodes[0]
    shape = program.shape(operand)
    dim = _summed_over(node, (chain or [operand])[0])
    for own in range(len(shape)):
        places = torch.arange(float(shape[own])).view(-1, *[1] * (len(shape) - own - 1))
        shown = places.expand(shape)
        for each in reversed(chain):
            shown = _called(each, shown)
        if bool((shown.diff(dim=dim) != 0).any()):
            return own
    return 1


def _called(node: Node, source: Tensor) -> Tensor:
    """What a call makes of something else than its only source."""
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda _: source)
    assert callable(node.target)
    made = node.target(*args, **kwargs)
    assert isinstance(made, Tensor)
    return made


def _summed_over(node: Node, operand: Node) -> int:
    """The dimension of an operand that a call sums over."""
    if node.target in _TRANSPOSED:
        return 0
    if node.target in _PRODUCTS:
        return -1 if argument(node, _PRODUCTS[node.target]) is operand else -2
    return 1


def _scores(
    subject: Subject,
    config: PruneConfig,
    weights: dict[str, _Weight],
    warnings: list[str],
) -> dict[str, Tensor]:
    score = CRITERIA[config.criterion].weights
    assert score is not None, "the recipe was checked before"
    scores = score(subject, **config.options)
    missing = [name for name in weights if name not in scores]
    if len(missing) == len(weights):
        raise CriterionError(
            f"criterion '{config.criterion}' scores no weight of this model: use 'magnitude'",
            pointer="/criterion",
        )
    if missing:
        warnings.append(
            f"criterion '{config.criterion}' says nothing of {', '.join(missing[:5])}: they stay "
            "as they are"
        )
    found = {}
    for name, weight in weights.items():
        if name in missing:
            continue
        if not bool(scores[name].isfinite().all()):
            raise NotFiniteError(
                f"the importance of weights of {name} is NaN or infinite: it, or what it is "
                "multiplied with, holds such numbers; train or export the model again, or "
                "exclude it"
            )
        # What is zero already is worth nothing, whatever the criterion says of it.
        own = scores[name].cpu().masked_fill(weight.zero, 0.0)
        found[name] = _normalized(own, config, weight.macs)
    return found


def _normalized(scores: Tensor, config: PruneConfig, macs: float) -> Tensor:
    match config.normalization or CRITERIA[config.criterion].normalization:
        case "mean":
            return scores / (scores.mean() + _TINY)
        case "max":
            return scores / (scores.max() + _TINY)
        case "standardized":
            return (scores - scores.mean()) / (scores.std(correction=0) + _TINY)
        case "per_mac":
            return scores / macs
        case _:  # none; and of one parameter there is one element.
            return scores.clone()


@dataclass(frozen=True)
class _Units:
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
    def of(cls, scores: Tensor, sizes: Tensor, zero: Tensor) -> "_Units":
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

    def all_but(self, elements: float) -> Tensor:
        """All but the lowest units that have as many elements, to the nearest: bool, flat."""
        stays = torch.ones(len(self.scores), dtype=torch.bool)
        stays[self.order[: _nearest(self.sizes[self.order], elements)]] = False
        return stays

    def going(self, floor: float) -> Tensor:
        """Places of those that may go, in order."""
        most = (1 - floor) * self.elements + _ROUNDING
        return self.order[self.sizes[self.order].cumsum(0) <= most]


def _nearest(sizes: Tensor, elements: float) -> int:
    """How many of the first sizes add up to some number, to the nearest."""
    return int((sizes.cumsum(0) - sizes / 2 <= elements).sum())


class _Zeros:
    """Which units of which weights become zero."""

    def __init__(
        self,
        program: Program,
        weights: dict[str, _Weight],
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
        most, of = _n_of_m(self._config.pattern)
        found = {}
        for name, scores in self._scores.items():
            inputs = self._weights[name].inputs
            lines = _lines(scores, inputs, of)
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

    def _units(self, name: str) -> _Units:
        """The elements of a weight, or its blocks: those at its edges have fewer elements."""
        scores, weight = self._scores[name], self._weights[name]
        if self._config.pattern == "elements":
            ones = torch.ones(scores.numel(), dtype=torch.int64)
            return _Units.of(scores.flatten(), ones, weight.zero.flatten())
        matrix = _as_matrix(scores, weight.inputs)
        sizes = self._blocks(torch.ones_like(matrix, dtype=torch.int64))
        zeros = self._blocks(_as_matrix(weight.zero, weight.inputs).long())
        return _Units.of(self._blocks(matrix) / sizes, sizes, zeros == sizes)

    def _blocks(self, matrix: Tensor) -> Tensor:
        """The sum over each block: flat."""
        high, wide = _block(self._config.pattern)
        rows, columns = ceil(matrix.shape[0] / high), ceil(matrix.shape[1] / wide)
        padded = matrix.new_zeros(rows * high, columns * wide)
        padded[: matrix.shape[0], : matrix.shape[1]] = matrix
        return padded.view(rows, high, columns, wide).sum((1, 3)).flatten()

    def _as_mask(self, name: str, stays: Tensor) -> Tensor:
        mask = torch.ones(self._scores[name].shape, dtype=torch.bool)
        if self._config.pattern == "elements":
            return stays.view(mask.shape)
        high, wide = _block(self._config.pattern)
        inputs = self._weights[name].inputs
        height, width = _as_matrix(mask, inputs).shape
        blocks = stays.view(ceil(height / high), ceil(width / wide))
        full = blocks.repeat_interleave(high, 0).repeat_interleave(wide, 1)[:height, :width]
        seen = _outputs_first(mask, inputs)
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

    def _own(self, units: _Units, override: OverrideConfig) -> Tensor:
        if override.sparsity is not None:
            return units.all_but(override.sparsity * self._config.progress[1] * units.elements)
        assert override.threshold is not None, "exactly one amount is given"
        return units.all_but(self._below(units, override.threshold))

    def _below(self, units: _Units, threshold: float) -> float:
        """How many elements below a threshold are zero after this round."""
        start, end = self._config.progress
        more = units.below(threshold) - units.zero
        return units.zero + more * (end - start) / (1 - start)

    def _free(self, units: dict[str, _Units], gone: int) -> dict[str, Tensor]:
        """What the budget leaves of the weights without an override, of which these are gone."""
        if self._config.amount is None:
            return {
                name: torch.ones(len(own.scores), dtype=torch.bool) for name, own in units.items()
            }
        kind, value = self._config.amount
        floor = self._floor()
        if kind == "threshold":
            return {
                name: own.all_but(min(self._below(own, value), (1 - floor) * own.elements))
                for name, own in units.items()
            }
        total = sum(own.elements for own in units.values())
        wanted = value * total if kind == "sparsity" else self._zeros_for(value) - gone
        if wanted > (1 - floor) * total + 0.5:
            raise self._unreachable(kind, value, total, gone)
        reached = wanted if kind == "sparsity" else max(wanted, 0)
        return self._sparse(units, reached * self._config.progress[1])

    def _sparse(self, units: dict[str, _Units], wanted: float) -> dict[str, Tensor]:
        """The lowest units, as many as have the wanted number of elements."""
        total = sum(own.elements for own in units.values())
        if self._config.scope == "local":
            share = wanted / max(total, 1)
            return {name: own.all_but(share * own.elements) for name, own in units.items()}
        stays = {name: torch.ones(len(own.scores), dtype=torch.bool) for name, own in units.items()}
        if not units:
            return stays
        # What the floor of a weight holds back goes to the others, so that the sum is as asked.
        going = [own.going(self._floor()) for own in units.values()]
        scores = torch.cat([own.scores[at] for own, at in zip(units.values(), going, strict=True)])
        sizes = torch.cat([own.sizes[at] for own, at in zip(units.values(), going, strict=True)])
        order = scores.argsort(stable=True)
        gone = torch.zeros(len(scores), dtype=torch.bool)
        gone[order[: _nearest(sizes[order], wanted)]] = True
        parts = torch.split(gone, [len(at) for at in going])
        for stay, at, part in zip(stays.values(), going, parts, strict=True):
            stay[at[part]] = False
        return stays

    def _floor(self) -> float:
        if self._config.floor is not None:
            return self._config.floor
        return 0.0 if self._config.scope == "local" else _FLOOR

    def _parameters(self) -> int:
        return sum(parameter.numel() for parameter in self._program.module.parameters())

    def _zeros_for(self, fraction: float) -> float:
        """How many weights have to be zero, so that a fraction of all parameters is not."""
        return (1 - fraction) * self._parameters()

    def _unreachable(
        self, kind: str, value: float, total: int, gone: int
    ) -> TargetUnreachableError:
        most = (1 - self._floor()) * total
        if kind == "sparsity":
            said = f"sparsity: {value:g} were to be zero; with every weight at its floor at most "
            said += f"{most / max(total, 1):.3f} are: ask for less, or use a lower floor"
        else:
            least = 1 - (most + gone) / self._parameters()
            said = f"parameters: at most {value:g} were to be other than zero; with every weight "
            said += f"at its floor {least:.3f} remain: ask for more than that, exclude less, or "
            said += "use a lower floor"
        return TargetUnreachableError(said, pointer=f"/budget/{kind}")


def _n_of_m(pattern: str) -> tuple[int, int]:
    most, _, of = pattern.partition(":")
    return int(most), int(of)


def _block(pattern: str) -> tuple[int, int]:
    high, _, wide = pattern.partition("x")
    return int(high), int(wide)


def _lines(weight: Tensor, inputs: int, of: int) -> Tensor | None:
    """The inputs of each output, in whole runs of M: ``(..., runs, M)``; None where none is."""
    lines = weight.movedim(inputs, -1)
    runs = lines.shape[-1] // of
    return lines[..., : runs * of].reshape(*lines.shape[:-1], runs, of) if runs else None


def _outputs_first(weight: Tensor, inputs: int) -> Tensor:
    """A view with outputs in the first dimension: they lie before inputs, or behind them."""
    is_behind = inputs != 1 and inputs + 1 < weight.dim()
    return weight.movedim((inputs + 1, inputs), (0, 1)) if is_behind else weight


def _as_matrix(weight: Tensor, inputs: int) -> Tensor:
    """Outputs by inputs, each input with its kernel."""
    return _outputs_first(weight, inputs).flatten(1)
