"""Grids of prune steps: every criterion with every budget and every algorithm, as recipes.

A grid is loose where a prune step is strict: its values are put into steps as they are, and each
step is checked as part of a job spec. So whatever a step can say, a grid can vary.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)

from secateur.capabilities import CRITERIA
from secateur.criteria import ChosenCriterion, Criterion
from secateur.quantization import CODEBOOK_SIZE, Activations, WeightFormat
from secateur.schema import Input

ALL = "all"
LISTED = "listed"
"""In pydantic's path to a criterion of a list, and not in the document."""

Path = tuple[str | int, ...]
"""A way into a document: names and indices."""

_MOST_VALUES = 200
_VARIED = {"criterion": "criteria", "budget": "budgets", "algorithm": "algorithms"}
"""The fields of a prune step that a grid varies, and the lists of it that hold their values."""


def _criterion(given: Any) -> Any:
    if isinstance(given, str) or (isinstance(given, dict) and isinstance(given.get("name"), str)):
        return given
    raise ValueError('a criterion is its name, or an object with a "name" and options')


def _prune_rest(given: dict[str, Any]) -> dict[str, Any]:
    for name in given:
        if name in _VARIED:
            raise ValueError(f"{name!r} is what the grid varies: give it in {_VARIED[name]!r}")
    if given.get("step", "prune") != "prune":
        raise ValueError(f"the step of a grid is 'prune', not {given['step']!r}: leave it out")
    return given


GivenCriterion = Annotated[
    Any,
    AfterValidator(_criterion),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}]}),
]
Criteria = Annotated[
    Annotated[Literal["all"], Tag(ALL)]
    | Annotated[
        tuple[GivenCriterion, ...],
        Tag(LISTED),
        Field(min_length=1, max_length=_MOST_VALUES),
    ],
    Discriminator(lambda given: ALL if given == ALL else LISTED),
]


@dataclass(frozen=True)
class Cell:
    """One recipe of a grid."""

    method: str
    amount: str
    recipe: list[dict[str, Any]]
    criterion_at: Path
    """Where its criterion is, within the grid; the other places likewise."""
    budget_at: Path
    algorithm_at: Path

    def place(self, path: Path) -> Path:
        """Where in the grid that is which is at this path in the recipe."""
        match path:
            case (0, "prune", *rest) | (0, *rest):
                return self._place_in_step(tuple(rest))
            case (int(index), *rest):
                return ("then", index - 1, *rest)
            case _:
                return ()

    def _place_in_step(self, path: Path) -> Path:
        match path:
            case ("criterion", *rest):
                return (*self.criterion_at, *rest)
            case ("budget", *rest):
                return (*self.budget_at, *rest)
            case ("algorithm", *rest):
                return (*self.algorithm_at, *rest)
            case (str(name), *rest):
                return ("prune", name, *rest)
            case _:
                return ()


class Grid(Input):
    """Every criterion with every budget, and with every algorithm where some are given."""

    criteria: Criteria = Field(
        description="Each as in a prune step, or `all`: every criterion whose needs, data and "
        "labels, the data sets given meet; with algorithm `zero` those that score single weights.",
        examples=[["magnitude", "random"]],
    )
    budgets: tuple[dict[str, Any], ...] = Field(
        min_length=1,
        max_length=_MOST_VALUES,
        description="Each as in a prune step.",
        examples=[[{"macs": 0.7}, {"macs": 0.5}]],
    )
    algorithms: tuple[str, ...] = Field(
        default=(),
        max_length=_MOST_VALUES,
        description="Each as in a prune step; none for its default.",
    )
    prune: Annotated[dict[str, Any], AfterValidator(_prune_rest)] = Field(
        default_factory=dict,
        description="The other fields of the prune step, the same in every cell.",
        examples=[{"scope": "local"}],
    )
    then: tuple[dict[str, Any], ...] = Field(
        default=(),
        max_length=99,
        description="Steps after the prune step, the same in every cell.",
        examples=[[{"step": "finetune", "epochs": 3}]],
    )

    def count(self, *, has_data: bool, has_labels: bool) -> int:
        """How many cells there are."""
        return len(self.budgets) * sum(
            self._can(criterion, algorithm)
            for _, criterion in self._criteria(has_data=has_data, has_labels=has_labels)
            for _, algorithm in self._algorithms()
        )

    def cells(self, *, has_data: bool, has_labels: bool) -> Iterator[Cell]:
        """Every cell: by criterion, then algorithm, then budget.

        Args:
            has_data: Whether there is training data, and
            has_labels: whether it has labels: which criteria `all` are depends on both.
        """
        for criterion_at, criterion in self._criteria(has_data=has_data, has_labels=has_labels):
            for algorithm_at, algorithm in self._algorithms():
                if not self._can(criterion, algorithm):
                    continue
                for index, budget in enumerate(self.budgets):
                    step = {"step": "prune", **self.prune, "criterion": criterion, "budget": budget}
                    if algorithm is not None:
                        step["algorithm"] = algorithm
                    yield Cell(
                        method=method_of(criterion, algorithm),
                        amount=_joined([amount_of(budget), *map(_amount_of, self.then)]),
                        recipe=[step, *self.then],
                        criterion_at=criterion_at,
                        budget_at=("budgets", index),
                        algorithm_at=algorithm_at,
                    )

    def repeated(self) -> Iterator[tuple[Path, Any]]:
        """Values that a list has before already, and where: two cells would be one."""
        for name in _VARIED.values():
            values = getattr(self, name)
            for index, value in enumerate(values):
                if values != ALL and _canonical(value) in map(_canonical, values[:index]):
                    yield (name, index), value

    def _criteria(self, *, has_data: bool, has_labels: bool) -> Iterator[tuple[Path, Any]]:
        if self.criteria != ALL:
            for index, criterion in enumerate(self.criteria):
                yield ("criteria", index), criterion
            return
        for name, needs in CRITERIA.items():
            if (has_data or not needs.data) and (has_labels or not needs.labels):
                yield ("criteria",), str(name)

    def _can(self, criterion: Any, algorithm: str | None) -> bool:
        """Whether a cell is one: of `all` criteria, zeros are by those that score weights."""
        return (
            algorithm != "zero" or self.criteria != ALL or CRITERIA[Criterion(criterion)].elements
        )

    def _algorithms(self) -> Iterator[tuple[Path, str | None]]:
        if not self.algorithms:
            yield ("algorithms",), None
        for index, algorithm in enumerate(self.algorithms):
            yield ("algorithms", index), algorithm


def method_of(criterion: str | Mapping[str, Any], algorithm: str | None) -> str:
    """How channels are chosen and taken out, such as `magnitude (norm=l1), shift`."""
    method = criterion if isinstance(criterion, str) else _with_options(criterion)
    return method if algorithm is None else f"{method}, {algorithm}"


def amount_of(budget: Mapping[Any, Any]) -> str:
    """How much is removed, such as `macs 0.5`."""
    return ", ".join(
        f"{name} {_short(value)}" for name, value in budget.items() if value is not None
    )


def amount_of_recipe(recipe: Sequence[Mapping[str, Any]]) -> str:
    """How much all steps of a recipe make smaller, such as `macs 0.5, int8 static`."""
    return _joined([_amount_of(step) for step in recipe])


def _joined(amounts: Sequence[str]) -> str:
    return ", ".join(amount for amount in amounts if amount)


def _amount_of(step: Mapping[str, Any]) -> str:
    """Of one step, which may be wrong still; nothing of one that makes nothing smaller."""
    match step:
        case {"step": "prune"}:
            return _amount_of_prune(step)
        case {"step": "apply_plan"}:
            return "as planned"
        case {"step": "factorize", "rank": {**rank}}:
            return f"rank {'vbmf' if rank.get('vbmf') else amount_of(rank)}"
        case {"step": "quantize"}:
            return _amount_of_quantize(step)
        case {"step": "cast", "dtype": str(dtype)}:
            return dtype
        case _:
            return ""


_CRITERION: TypeAdapter[Any] = TypeAdapter(ChosenCriterion)


def _canonical(value: Any) -> Any:
    """A criterion as specs have it: with a default or without, it is the same one."""
    try:
        return _CRITERION.dump_python(_CRITERION.validate_python(value), mode="json")
    except ValidationError:
        return value


def _amount_of_prune(step: Mapping[str, Any]) -> str:
    """A budget, or what says it all in its place: a pattern N:M, or overrides."""
    match step:
        case {"budget": {**budget}} if budget:
            return amount_of(budget)
        case {"pattern": str(pattern)} if ":" in pattern:
            return pattern
        case _:
            return "by layer"


def _amount_of_quantize(step: Mapping[str, Any]) -> str:
    """The format of the weights, and what becomes of activations."""
    words = [step.get("weights", WeightFormat.INT8)]
    if words == [WeightFormat.CODEBOOK]:
        words.append(step.get("codebook_size") or CODEBOOK_SIZE)
    activations = step.get("activations", Activations.FLOAT)
    if activations != Activations.FLOAT:
        words.append(activations)
    return " ".join(str(word) for word in words)


def _with_options(criterion: Mapping[str, Any]) -> str:
    options = [f"{name}={_short(value)}" for name, value in criterion.items() if name != "name"]
    name = str(criterion["name"])
    return f"{name} ({', '.join(options)})" if options else name


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
