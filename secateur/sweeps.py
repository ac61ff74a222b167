"""What a sweep is: jobs of one model that differ in method and amount, to be compared."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from secateur.failures import Failure
from secateur.grids import Grid, Path, amount_of_recipe
from secateur.jobs import JobState
from secateur.schema import Input, Output
from secateur.spec import JobFrame, JobSpec, Label, Recipe

MOST_JOBS = 200
"""Of one sweep."""


class NamedRecipe(Input):
    """A recipe, and what it is called in the comparison."""

    name: Label = Field(min_length=1, examples=["heads, then channels"])
    recipe: Recipe


@dataclass(frozen=True)
class Child:
    """A job that a sweep asks for, not checked yet."""

    method: str
    amount: str
    document: Mapping[str, Any]
    place: Callable[[Path], Path]
    """Where in the sweep's spec that is which is at a path in the job's."""

    def spec(self) -> JobSpec:
        """The job's spec.

        Raises:
            ValidationError: It is none.
        """
        return JobSpec.model_validate(self.document)


class SweepSpec(JobFrame):
    """One model, and many recipes for it: a grid of prune steps, or a list."""

    spec_version: Literal[1] = Field(default=1, description="Version of this schema.")
    grid: Grid | None = None
    recipes: tuple[NamedRecipe, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=MOST_JOBS,
        description="Whatever a grid cannot say.",
    )

    def children(self, *, has_labels: bool) -> list[Child]:
        """The jobs that are asked for.

        Args:
            has_labels: Whether the training data has labels: some criteria of `all` need them.
        """
        return list(self._children(has_labels=has_labels))

    @model_validator(mode="after")
    def _each_is_a_job(self) -> Self:
        if (self.grid is None) == (self.recipes is None):
            said = "none" if self.grid is None else "both"
            raise ValueError(f"give exactly one of grid, recipes; given: {said}")
        if problems := list(self._repeated()):
            raise ValidationError.from_exception_data("SweepSpec", problems)
        if self.grid is not None:
            has_data = self.data.train is not None
            count = self.grid.count(has_data=has_data, has_labels=has_data)
            if count > MOST_JOBS:
                problem = _problem(("grid",), "too_many", _too_many(count), count)
                raise ValidationError.from_exception_data("SweepSpec", [problem])
        # Of `all` criteria, those that need labels too: here nobody knows whether there are any.
        if problems := _problems(self.children(has_labels=True)):
            raise ValidationError.from_exception_data("SweepSpec", problems)
        return self

    def _children(self, *, has_labels: bool) -> Iterator[Child]:
        frame = self.model_dump(include=set(JobFrame.model_fields))
        if self.grid is not None:
            has_data = self.data.train is not None
            for cell in self.grid.cells(has_data=has_data, has_labels=has_data and has_labels):
                document = {**frame, "recipe": cell.recipe}
                yield Child(cell.method, cell.amount, document, _in_grid(cell.place))
        for index, named in enumerate(self.recipes or ()):
            recipe = [step.model_dump(mode="json") for step in named.recipe]
            document = {**frame, "recipe": recipe}
            amount = amount_of_recipe(recipe)
            yield Child(named.name, amount, document, _in_recipe(index))

    def _repeated(self) -> Iterator[InitErrorDetails]:
        for path, value in self.grid.repeated() if self.grid is not None else ():
            yield _problem(("grid", *path), "repeated", "each once", value)
        names = [named.name for named in self.recipes or ()]
        for index, name in enumerate(names):
            if name in names[:index]:
                yield _problem(("recipes", index, "name"), "repeated", "each name once", name)


def _too_many(count: int) -> str:
    return (
        f"a sweep has {MOST_JOBS} jobs at most, this one has {count}: give fewer criteria, budgets "
        "or algorithms, or make several sweeps"
    )


def _in_grid(place: Callable[[Path], Path]) -> Callable[[Path], Path]:
    def in_spec(path: Path) -> Path:
        return ("grid", *place(path[1:])) if _is_recipe(path) else path

    return in_spec


def _in_recipe(index: int) -> Callable[[Path], Path]:
    def in_spec(path: Path) -> Path:
        return ("recipes", index, *(path or ("recipe",))) if _is_recipe(path) else path

    return in_spec


def _is_recipe(path: Path) -> bool:
    """Whether it is in the recipe; what is wrong with the whole is wrong with the recipe."""
    return path[:1] in ((), ("recipe",))


def _problems(children: list[Child]) -> list[InitErrorDetails]:
    """What is wrong with the children, each once: a grid repeats its values in many cells."""
    found: dict[tuple[Path, str], InitErrorDetails] = {}
    for child in children:
        try:
            child.spec()
        except ValidationError as error:
            for each in error.errors():
                # A recipe is said to be too short as well if its only step is wrong.
                if each["loc"] == ("recipe",) and each["type"] == "too_short":
                    continue
                path = child.place(each["loc"])
                found.setdefault((path, each["msg"]), _moved(each, path))
    return list(found.values())


def _moved(found: ErrorDetails, path: Path) -> InitErrorDetails:
    message = found["msg"].removeprefix("Value error, ")
    return _problem(path, found["type"], message, found["input"])


def _problem(path: Path, code: str, message: str, value: Any) -> InitErrorDetails:
    # The message as it is: a template of pydantic's would take braces in it for fields.
    kind = PydanticCustomError(code, "{message}", {"message": message})
    return InitErrorDetails(type=kind, loc=path, input=value)


class SweepState(StrEnum):
    """Follows from its jobs."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_final(self) -> bool:
        return self is not SweepState.RUNNING


class JobCounts(Output):
    """How many jobs of a sweep are in each state."""

    queued: int
    running: int
    canceling: int
    succeeded: int
    failed: int
    canceled: int

    @classmethod
    def of(cls, counts: Mapping[JobState, int]) -> "JobCounts":
        return cls(**{state.value: counts.get(state, 0) for state in JobState})

    @property
    def total(self) -> int:
        return self.final + self.queued + self.running + self.canceling

    @property
    def final(self) -> int:
        """Those that have ended, in whatever way."""
        return self.succeeded + self.failed + self.canceled

    def state(self, *, is_canceled: bool) -> SweepState:
        """What becomes of a sweep with such jobs, which was asked to be canceled or not."""
        if self.final < self.total:
            return SweepState.RUNNING
        if is_canceled:
            return SweepState.CANCELED
        return SweepState.FAILED if self.failed == self.total else SweepState.SUCCEEDED


class SweepJob(Output):
    """A job of a sweep."""

    position: int = Field(description="Its place in the sweep, from 0.")
    job_id: str = Field(examples=["job_0f8n2q4k6m8p0r2t4v6x8z0b"])
    method: str = Field(examples=["magnitude"])
    amount: str = Field(examples=["macs 0.5"])
    state: JobState
    failure: Failure | None = Field(description="Why it failed; null unless `failed`.")


class SweepSummary(Output):
    """Where a sweep is. A list has these: a spec may hold whole plans."""

    id: str = Field(examples=["swp_0f8n2q4k6m8p0r2t4v6x8z0b"])
    state: SweepState = Field(
        description="`running` while any job is not final; then `canceled` if that was asked, "
        "`failed` if every job failed, else `succeeded`."
    )
    counts: JobCounts
    model_id: str
    spec_sha256: str = Field(description="Digest of the canonical spec: equal specs, equal digest.")
    label: str | None = Field(description="The spec's own label, for filtering lists.")
    created_at: datetime
    finished_at: datetime | None = Field(description="When the last job ended.")


class Sweep(SweepSummary):
    """Jobs of one model that differ in method and amount, to be compared."""

    children: list[SweepJob] = Field(description="Its jobs, by position.")
    spec: SweepSpec


class SweepPage(Output):
    """A page of sweeps, newest first."""

    data: list[SweepSummary]
    next_cursor: str | None = Field(
        description="Pass as `cursor` for the next page; null at the end."
    )
