"""What right means: which output is judged, by which targets, with which loss.

A task is a class below and a row of `TASKS`. Whoever trains, scores or measures asks an `Objective`
and knows no task.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Size, Tensor
from torch.nn import functional

from worker.engine.batch import Batch, run_batch
from worker.engine.config import AS_TARGETS_SUGGEST, ObjectiveConfig
from worker.engine.errors import DataMismatchError
from worker.engine.runnable import Runnable

_NONE = -100
"""A class that no output has."""


class Task(ABC):
    """A kind of targets, and what a model says of them.

    Attributes:
        needs: What output and what targets it takes, in words.
        ignored: The target that counts nowhere where a spec names none.
        has_accuracy: Whether a target is predicted or not.
        has_classes: Whether scores are ``(n, classes, ...)`` and targets class numbers.
        reads_inputs: Whether an input is its own target where there are no others.
    """

    needs: ClassVar[str]
    ignored: ClassVar[int | None] = None
    has_accuracy: ClassVar[bool] = True
    has_classes: ClassVar[bool] = False
    reads_inputs: ClassVar[bool] = False

    @abstractmethod
    def fits(self, output: Size, targets: Size) -> bool:
        """Whether an output of one shape is about targets of the other."""

    def scores(self, output: Tensor) -> Tensor:
        """The output, element by element or class by class as targets lie."""
        return output

    def judged(self, targets: Tensor) -> Tensor:
        """The targets that the scores are about."""
        return targets

    @abstractmethod
    def wrong(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Which targets are none, ignored ones aside: bool, in their shape."""

    @abstractmethod
    def allowed(self, scores: Tensor) -> str:
        """What a target may be, in words."""

    @abstractmethod
    def loss(
        self, scores: Tensor, targets: Tensor, counted: Tensor | None, *, label_smoothing: float
    ) -> Tensor:
        """Mean loss over the targets that count, at least one; all where ``counted`` is None."""

    def predicted(self, scores: Tensor) -> Tensor:
        """What the scores say, in the shape and dtype of targets."""
        raise NotImplementedError(f"{type(self).__name__} predicts nothing that is right or wrong")


class _Classes(Task):
    """Class numbers; where the classes are in the output, and which targets count, differ."""

    has_classes = True

    def wrong(self, scores: Tensor, targets: Tensor) -> Tensor:
        return (targets < 0) | (targets >= scores.shape[1])

    def allowed(self, scores: Tensor) -> str:
        return f"the model's output has classes 0 to {scores.shape[1] - 1}"

    def loss(
        self, scores: Tensor, targets: Tensor, counted: Tensor | None, *, label_smoothing: float
    ) -> Tensor:
        targets = targets.long()
        if counted is not None:
            # Marked and not left out: that would copy the scores of a whole vocabulary.
            targets = targets.masked_fill(~counted, _NONE)
        return functional.cross_entropy(
            scores.float(), targets, ignore_index=_NONE, label_smoothing=label_smoothing
        )

    def predicted(self, scores: Tensor) -> Tensor:
        return scores.argmax(dim=1)


class Classification(_Classes):
    needs = "an output (rows, classes, ...) and class numbers (rows, ...)"

    def fits(self, output: Size, targets: Size) -> bool:
        return len(output) > 1 and output[:1] + output[2:] == targets


class Tagging(_Classes):
    needs = (
        "an output (rows, positions, classes), classes last, and class numbers (rows, positions)"
    )
    ignored = -100

    def fits(self, output: Size, targets: Size) -> bool:
        return len(output) > 2 and output[:-1] == targets

    def scores(self, output: Tensor) -> Tensor:
        return output.movedim(-1, 1)


class LanguageModelling(_Classes):
    """The output at a position is about the token after it."""

    needs = "an output (rows, positions, vocabulary) and tokens (rows, positions), 2 or more"
    ignored = -100
    reads_inputs = True

    def fits(self, output: Size, targets: Size) -> bool:
        return len(output) == 3 and output[:2] == targets and targets[1] > 1

    def scores(self, output: Tensor) -> Tensor:
        return output[:, :-1].movedim(-1, 1)

    def judged(self, targets: Tensor) -> Tensor:
        return targets[:, 1:]


class _Elements(Task):
    """A target for each element of the output."""

    def fits(self, output: Size, targets: Size) -> bool:
        return output == targets

    def loss(
        self,
        scores: Tensor,
        targets: Tensor,
        counted: Tensor | None,
        *,
        label_smoothing: float,  # noqa: ARG002 (as every task's; refused before)
    ) -> Tensor:
        if counted is not None:
            scores, targets = scores[counted], targets[counted]
        return self.element_loss(scores.float(), targets.float())

    @abstractmethod
    def element_loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of float32 elements."""


class Regression(_Elements):
    needs = "targets of the output's own shape"
    has_accuracy = False

    def wrong(self, scores: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002 (as every task's)
        return ~targets.isfinite()

    def allowed(self, scores: Tensor) -> str:  # noqa: ARG002 (as every task's)
        return "a squared error needs finite numbers"

    def element_loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        return functional.mse_loss(scores, targets)


class MultiLabel(_Elements):
    needs = "targets of the output's own shape, a 0 or a 1 for each label"

    def wrong(self, scores: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002 (as every task's)
        return (targets != 0) & (targets != 1)

    def allowed(self, scores: Tensor) -> str:  # noqa: ARG002 (as every task's)
        return "a label is 0 or 1"

    def element_loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(scores, targets)

    def predicted(self, scores: Tensor) -> Tensor:
        return scores > 0


TASKS: dict[str, Task] = {
    "classification": Classification(),
    "regression": Regression(),
    "tagging": Tagging(),
    "multi_label": MultiLabel(),
    "language_modelling": LanguageModelling(),
}
"""By the name that a spec gives."""


@dataclass(frozen=True)
class Objective:
    """Which output of a program is judged, and how. A task of None is classification."""

    config: ObjectiveConfig = AS_TARGETS_SUGGEST

    @property
    def name(self) -> str:
        """Of the task."""
        return self.config.task or "classification"

    @property
    def task(self) -> Task:
        return TASKS[self.name]

    @property
    def ignored(self) -> int | None:
        """The target that counts nowhere."""
        given = self.config.ignore_class
        return self.task.ignored if given is None else given

    @property
    def output(self) -> str:
        """What the output is called that is judged."""
        return f"the model's output {self.config.output}"

    def outputs_of(self, program: Runnable, batch: Batch) -> Tensor:
        """Run a program, and give the output that is judged: ``(count, ...)``, without padding.

        Raises:
            DataMismatchError: The program does not run on the batch, or has no such output.
        """
        return self.chosen(run_batch(program, batch), batch)

    def chosen(self, outputs: list[Tensor], batch: Batch) -> Tensor:
        """The output that is judged among all: ``(count, ...)``, without padding.

        Raises:
            DataMismatchError: There is none of that number, or it has other rows than the batch.
        """
        number, rows = self.config.output, len(batch.inputs[0])
        if number >= len(outputs):
            raise DataMismatchError(
                f"the objective's output is {number}, and the model has {len(outputs)} outputs "
                "that are tensors, numbered from 0: choose one of these, or export the model with "
                "its predictions as an output",
                pointer="/objective/output",
                in_step=False,
            )
        found = outputs[number]
        if found.shape[:1] != (rows,):
            raise DataMismatchError(
                f"{self.output} must have a row for each row of its inputs: {rows} rows went in, "
                f"its shape is {tuple(found.shape)}; choose the one with the predictions in "
                "/objective/output, or export the model with it",
                pointer="/objective/output",
                in_step=False,
            )
        return found[: batch.count]

    def targets_of(self, batch: Batch) -> Tensor:
        """The targets of a batch: ``(count, ...)``, int64, bool or floats.

        Raises:
            DataMismatchError: It has none.
        """
        if batch.targets is None:
            raise batch.mismatch(
                f"the data has no targets, and {self.name} needs {self.task.needs}: add an array "
                "'targets' to it"
            )
        return batch.targets

    def loss(
        self,
        output: Tensor,
        targets: Tensor,
        *,
        label_smoothing: float = 0.0,
        batch: Batch | None = None,
    ) -> Tensor:
        """Mean loss over all targets that count.

        Cross-entropy of classes, binary cross-entropy of labels, mean squared error of values.

        Args:
            output: From :meth:`outputs_of`: ``(n, ...)`` logits or values.
            targets: From :meth:`targets_of`: ``(n, ...)``.
            label_smoothing: In [0, 1); of classes alone.
            batch: Whose rows are named in what is refused.

        Returns:
            A scalar in float32, with gradients; 0 where no target counts.

        Raises:
            DataMismatchError: Shapes that do not go together, a target that is none for this task,
                or an output that is not floating point.
        """
        if label_smoothing and not self.task.has_classes:
            raise DataMismatchError(
                f"label_smoothing is {label_smoothing}, and {self.name} has no classes to smooth: "
                "leave it out, or name another task in /objective/task",
                pointer="/label_smoothing",
            )
        self.check(output, targets, batch or Batch([], targets, len(targets)))
        scores, targets = self.task.scores(output), self.task.judged(targets)
        counted = self.counts(targets)
        if counted is not None and not bool(counted.any()):
            return scores[:0].float().sum()
        return self.task.loss(scores, targets, counted, label_smoothing=label_smoothing)

    def check(self, output: Tensor, targets: Tensor, batch: Batch) -> None:
        """Check that targets are what the task needs for such an output.

        Raises:
            DataMismatchError: See :meth:`loss`.
        """
        if not output.is_floating_point():
            raise DataMismatchError(
                f"{self.output} holds {_name(output.dtype)}, and a loss needs floats: choose "
                "another in /objective/output, or export the model with its logits or values",
                pointer="/objective/output",
                in_step=False,
            )
        task = self.task
        if task.has_classes and targets.is_floating_point():
            raise batch.mismatch(
                f"{self.name} needs whole numbers as targets, and they are "
                f"{_name(targets.dtype)}: save them as int64, or name another task in "
                "/objective/task"
            )
        if not task.fits(output.shape, targets.shape):
            raise batch.mismatch(
                f"{self.name} needs {task.needs}; {self.output} has shape {tuple(output.shape)}, "
                f"the targets {tuple(targets.shape)}: name the task and the output in /objective, "
                "or save the targets in that shape"
            )
        self._check_values(task.scores(output), task.judged(targets), batch)

    def _check_values(self, scores: Tensor, targets: Tensor, batch: Batch) -> None:
        wrong = self.task.wrong(scores, targets)
        if self.ignored is not None:
            wrong &= targets != self.ignored
        if not bool(wrong.any()):
            return
        place = tuple(wrong.nonzero()[0].tolist())
        what = "class" if self.task.has_classes else "value"
        hint = "" if self.ignored is None else f" (or {self.ignored}, which counts nowhere)"
        raise batch.mismatch(
            f"the targets hold {what} {targets[place].item()} in {batch.row(place[0])}, and "
            f"{self.task.allowed(scores)}{hint}: correct it, or name it in /objective/ignore_class "
            "if it is to count nowhere"
        )

    def cases(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What the output says of each target that counts, and that target.

        Returns:
            Scores and targets, of one shape; scores of classes have those as dimension 1 more.
            Views where every target counts; else ``(counted, classes)`` and ``(counted,)``.
        """
        scores, targets = self.task.scores(output), self.task.judged(targets)
        counted = self.counts(targets)
        if counted is None:
            return scores, targets
        by_target = scores.movedim(1, -1) if self.task.has_classes else scores
        return by_target[counted], targets[counted]

    def counts(self, targets: Tensor) -> Tensor | None:
        """Which of the judged targets count: bool, in their shape. None where all of them do."""
        if self.ignored is None:
            return None
        counted = targets != self.ignored
        return None if bool(counted.all()) else counted

    def right(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Whether each case is predicted: bool, in the shape of its targets.

        What has NaN in its scores is not: an argmax would be right by chance.
        """
        is_number = ~scores.isnan()
        if self.task.has_classes:
            is_number = is_number.all(dim=1)
        return (self.task.predicted(scores) == targets) & is_number


def is_finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
