"""What right means for a model: which output is judged, by which targets, with which loss."""

from collections.abc import Iterable
from enum import StrEnum

from pydantic import Field

from secateur.models import TensorInfo
from secateur.schema import Input


class Task(StrEnum):
    """A kind of targets, with its loss."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    TAGGING = "tagging"
    MULTI_LABEL = "multi_label"
    LANGUAGE_MODELLING = "language_modelling"

    @property
    def has_accuracy(self) -> bool:
        """Whether a target is predicted or not."""
        return self is not Task.REGRESSION

    @property
    def has_classes(self) -> bool:
        """Whether a target is the number of one class of several."""
        return self.has_accuracy and self is not Task.MULTI_LABEL

    def class_count(self, output: TensorInfo) -> int | None:
        """How many classes an output has; None where its shape does not say."""
        at = 1 if self is Task.CLASSIFICATION else len(output.shape) - 1
        count = output.shape[at] if 0 < at < len(output.shape) else None
        return count if isinstance(count, int) else None


TASKS: dict[Task, str] = {
    Task.CLASSIFICATION: "output (rows, classes, ...), targets (rows, ...)",
    Task.REGRESSION: "both of one shape, squared error",
    Task.TAGGING: "output (rows, positions, classes), targets (rows, positions)",
    Task.MULTI_LABEL: "both of one shape, targets 0 or 1",
    Task.LANGUAGE_MODELLING: "output (rows, positions, vocabulary), each about the next token",
}
"""What output and targets are, in a line for each task."""


class Objective(Input):
    """What losses, criteria by labels and measures of quality go by."""

    task: Task | None = Field(
        default=None,
        description=" ".join(f"`{task}`: {shapes}." for task, shapes in TASKS.items())
        + " Null: `classification` for whole numbers, `regression` for floats.",
    )
    output: int = Field(
        default=0, ge=0, le=10_000, description="Which of the model's outputs is judged, from 0."
    )
    ignore_class: int | None = Field(
        default=None,
        ge=-(2**31),
        lt=2**31,
        description="Targets with this number count nowhere. Null: -100 for `tagging` and "
        "`language_modelling`, none for the others.",
    )

    def has_targets(self, arrays: Iterable[TensorInfo]) -> bool:
        """Whether a data set with these arrays says what is right.

        With `language_modelling`, the next token of an input does.
        """
        if self.task is Task.LANGUAGE_MODELLING:
            return any(
                each.name == "targets" or (_is_whole(each.dtype) and len(each.shape) == 2)
                for each in arrays
            )
        return any(each.name == "targets" for each in arrays)

    def task_on(self, arrays: Iterable[TensorInfo]) -> Task:
        """The task, or the one that the targets among these arrays suggest."""
        if self.task is not None:
            return self.task
        is_float = any(each.name == "targets" and "float" in each.dtype for each in arrays)
        return Task.REGRESSION if is_float else Task.CLASSIFICATION


def _is_whole(dtype: str) -> bool:
    return "int" in dtype
