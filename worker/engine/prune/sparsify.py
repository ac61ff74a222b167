"""Make weights zero that keep their place: single ones, N of M, or blocks."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import Parameter

from worker.engine.arguments import constants
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

_FLOOR = 0.1
_TINY = 1e-12


@dataclass(frozen=True)
class SparsePlan:
    """Which weights stay: bool, in the shape of each, by name."""

    config: PruneConfig
    seed: int
    baseline: Counts
    masks: dict[str, Tensor]
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
    if not zeros:
        raise NothingToPruneError("what was asked makes no weight zero: ask for more", pointer="")
    return SparsePlan(
        config,
        seed,
        count(coupling),
        masks,
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
    for name, weight in program.module.named_parameters(remove_duplicate=False):
        mask = plan.masks.get(name)
        expected = before[name] if mask is None else before[name].where(mask.to(weight.device), 0.0)
        if not torch.equal(expected.nan_to_num(), weight.nan_to_num()):
            raise CountsDifferError(
                f"the zeros of {name} are not where the plan has them: not delivered; this is a "
                "defect of the engine, report it with the model"
            )
        if mask is not None and ":" in plan.config.pattern:
            most, of = _n_of_m(plan.config.pattern)
            lines = _lines(weight != 0, of)
            if lines is not None and int(lines.sum(-1).max()) > most:
                raise CountsDifferError(f"{name} does not hold the pattern {most}:{of}")


def _weights(
    coupling: Coupling, config: PruneConfig, warnings: list[str]
) -> dict[str, tuple[Parameter, float]]:
    """The weights of matrix products and convolutions, and the MACs of one element of each."""
    program = coupling.program
    fixed = constants(program.graph)
    kept = coupling.kept(coupling.everything())
    names = [name for name, _ in program.module.named_parameters(remove_duplicate=False)]
    warnings += [
        unmatched_warning(pattern)
        for pattern in config.exclude
        if not any(fnmatchcase(name, pattern) for name in names)
    ]
    found: dict[str, tuple[Parameter, float]] = {}
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
                found[name] = (weight, MACS[node.target](node, kept.shapes) / weight.numel())
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


def _scores(
    subject: Subject,
    config: PruneConfig,
    weights: dict[str, tuple[Parameter, float]],
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
    for name, (weight, macs) in weights.items():
        if name in missing:
            continue
        if not bool(scores[name].isfinite().all()):
            raise NotFiniteError(
                f"the importance of weights of {name} is NaN or infinite: it, or what it is "
                "multiplied with, holds such numbers; train or export the model again, or "
                "exclude it"
            )
        found[name] = _normalized(scores[name].cpu(), config, macs)
        # What is zero already counts as removed, whatever the criterion says of it.
        found[name][weight.detach().cpu() == 0] = -torch.inf
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


class _Zeros:
    """Which units (elements or blocks) of which weights become zero."""

    def __init__(
        self,
        program: Program,
        weights: dict[str, tuple[Parameter, float]],
        scores: dict[str, Tensor],
        config: PruneConfig,
    ) -> None:
        self._program = program
        self._weights = {name: weights[name][0] for name in scores}
        self._scores = scores
        self._config = config
        self.warnings: list[str] = []

    def masks(self) -> dict[str, Tensor]:
        """What stays: bool, in the shape of each weight."""
        if ":" in self._config.pattern:
            return self._n_of_m()
        units = {name: self._units(scores) for name, scores in self._scores.items()}
        own = {name: self._override(name) for name in units}
        free = [name for name in units if own[name] is None]
        stays = self._free({name: units[name] for name in free})
        for name, override in own.items():
            if override is not None:
                stays[name] = self._own(units[name], override)
        self._warn_of_overrides(own)
        return {name: self._as_mask(name, stays[name]) for name in units}

    def _n_of_m(self) -> dict[str, Tensor]:
        most, of = _n_of_m(self._config.pattern)
        found = {}
        for name, scores in self._scores.items():
            lines = _lines(scores, of)
            if lines is None:
                self.warnings.append(
                    f"{name} has fewer than {of} inputs, so that {most}:{of} leaves it whole"
                )
                continue
            best = lines.argsort(dim=-1, descending=True, stable=True)[..., :most]
            kept = torch.zeros(lines.shape, dtype=torch.bool).scatter_(-1, best, True)
            mask = torch.ones(scores.shape, dtype=torch.bool).movedim(1, -1).contiguous()
            whole = kept.shape[-2] * of
            mask[..., :whole] = kept.flatten(-2)
            if rest := mask.shape[-1] - whole:
                self.warnings.append(
                    f"{name} has {mask.shape[-1]} inputs, no multiple of {of}: the last {rest} "
                    "stay whole"
                )
            found[name] = mask.movedim(-1, 1).contiguous()
        return found

    def _units(self, scores: Tensor) -> Tensor:
        """One score for each unit, flat: a block has the sum of its elements."""
        if self._config.pattern == "elements":
            return scores.flatten()
        high, wide = _block(self._config.pattern)
        # What is zero already adds nothing to a block.
        matrix = scores.flatten(1).clamp_min(0) if scores.min() == -torch.inf else scores.flatten(1)
        rows, columns = ceil(matrix.shape[0] / high), ceil(matrix.shape[1] / wide)
        padded = torch.zeros(rows * high, columns * wide)
        padded[: matrix.shape[0], : matrix.shape[1]] = matrix
        return padded.view(rows, high, columns, wide).sum((1, 3)).flatten()

    def _as_mask(self, name: str, stays: Tensor) -> Tensor:
        shape = self._scores[name].shape
        if self._config.pattern == "elements":
            return stays.view(shape)
        high, wide = _block(self._config.pattern)
        rows, columns = ceil(shape[0] / high), ceil(prod(shape[1:]) / wide)
        blocks = stays.view(rows, columns)
        full = blocks.repeat_interleave(high, 0).repeat_interleave(wide, 1)
        return full[: shape[0], : prod(shape[1:])].reshape(shape)

    def _override(self, name: str) -> OverrideConfig | None:
        return next((o for o in self._config.overrides if fnmatchcase(name, o.match)), None)

    def _warn_of_overrides(self, own: dict[str, OverrideConfig | None]) -> None:
        used = {id(override) for override in own.values()}
        self.warnings += [
            f"overrides: {override.match!r} is the first match of no weight, so it changes nothing"
            for override in self._config.overrides
            if id(override) not in used
        ]

    def _own(self, units: Tensor, override: OverrideConfig) -> Tensor:
        start, end = self._config.progress
        if override.sparsity is not None:
            return _all_but(units, round(override.sparsity * end * len(units)))
        assert override.threshold is not None, "exactly one amount is given"
        below = int((units < override.threshold).sum())
        return _all_but(units, round(below * (end - start) / (1 - start)))

    def _free(self, units: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the budget leaves of the weights without an override."""
        if self._config.amount is None:
            return {name: torch.ones(len(own), dtype=torch.bool) for name, own in units.items()}
        kind, value = self._config.amount
        start, end = self._config.progress
        if kind == "threshold":
            way = (end - start) / (1 - start)
            return {
                name: _all_but(own, round(int((own < value).sum()) * way))
                for name, own in units.items()
            }
        share = value if kind == "sparsity" else self._share(units, value)
        return self._sparse(units, share * end)

    def _sparse(self, units: dict[str, Tensor], share: float) -> dict[str, Tensor]:
        if self._config.scope == "local":
            return {name: _all_but(own, round(share * len(own))) for name, own in units.items()}
        total = sum(len(own) for own in units.values())
        floor = self._floor()
        # What the floor of a weight holds back goes to the others, so that the sum is as asked.
        ranked = {name: own.argsort(stable=True) for name, own in units.items()}
        most = {name: int((1 - floor) * len(own)) for name, own in units.items()}
        names = list(units)
        may_go = torch.cat([units[name][ranked[name][: most[name]]] for name in names])
        owner = torch.cat([torch.full((most[name],), at) for at, name in enumerate(names)])
        gone = owner[may_go.argsort(stable=True)[: round(share * total)]]
        counts = torch.bincount(gone, minlength=len(names)).tolist()
        return {name: _all_but(units[name], counts[at]) for at, name in enumerate(names)}

    def _floor(self) -> float:
        if self._config.floor is not None:
            return self._config.floor
        return 0.0 if self._config.scope == "local" else _FLOOR

    def _share(self, units: dict[str, Tensor], fraction: float) -> float:
        """Which share of these weights has to be zero, so that a fraction of all is not.

        Raises:
            TargetUnreachableError: More than there are.
        """
        total = sum(p.numel() for p in self._program.module.parameters())
        elements = sum(self._weights[name].numel() for name in units)
        share = (1 - fraction) * total / max(elements, 1)
        floor = self._floor()
        if share > 1 - floor:
            least = 1 - (1 - floor) * elements / total
            raise TargetUnreachableError(
                f"parameters: at most {fraction:g} were to be other than zero; with every weight "
                f"at its floor {least:.3f} remain: ask for more than that, exclude less, or use a "
                "lower floor",
                pointer="/budget/parameters",
            )
        return share


def _all_but(units: Tensor, number: int) -> Tensor:
    """All but the lowest: bool, flat."""
    stays = torch.ones(len(units), dtype=torch.bool)
    stays[units.argsort(stable=True)[:number]] = False
    return stays


def _n_of_m(pattern: str) -> tuple[int, int]:
    most, _, of = pattern.partition(":")
    return int(most), int(of)


def _block(pattern: str) -> tuple[int, int]:
    high, _, wide = pattern.partition("x")
    return int(high), int(wide)


def _lines(weight: Tensor, of: int) -> Tensor | None:
    """The inputs of each output, in whole runs of M: ``(..., runs, M)``; None where none is."""
    lines = weight.movedim(1, -1)
    runs = lines.shape[-1] // of
    return lines[..., : runs * of].reshape(*lines.shape[:-1], runs, of) if runs else None
