"""Training on what the original computes."""

import torch
from torch import Tensor
from torch.nn import functional

from worker.engine.batch import Batch
from worker.engine.config import DistillConfig
from worker.engine.data import Rows
from worker.engine.errors import DataMismatchError
from worker.engine.objective import Objective
from worker.engine.program import Program
from worker.engine.recovery.augment import check_augmentable
from worker.engine.recovery.features import Tapped, difference, shared_sums, tapped
from worker.engine.recovery.losses import divergence
from worker.engine.recovery.setting import Setting
from worker.engine.recovery.training import train
from worker.engine.recovery.twin import twin


def distill(
    program: Program, config: DistillConfig, rows: Rows, original: Program, setting: Setting
) -> None:
    """Train every parameter to give the outputs of the original, and its inner activations.

    Args:
        program: Changed in place. Left in evaluation mode.
        config: How.
        rows: Inputs; targets are read if ``labels`` is above 0, and to choose what is best.
        original: The teacher, on the same device. Runs in evaluation mode on the same inputs,
            augmented or not, and is not changed.
        setting: What surrounds the training.

    Raises:
        DataMismatchError: Outputs or labels that the loss does not go with, inputs that cannot be
            augmented, or too few rows for a batch norm.
        DivergedError: The loss became infinite or undefined.
        UntrainableError: The model overwrites what its gradient needs.
    """
    if config.labels > 0:
        rows.check_targets("distilling with labels")
    check_augmentable(rows, config, reads_labels=config.labels > 0)
    kind = config.loss or ("kl" if rows.objective.task.has_classes else "mse")
    student, teacher = twin(program), twin(original)
    if config.features > 0:
        places = shared_sums(program, original)
        if places:
            student, teacher = tapped(program, places), tapped(original, places)
        else:
            setting.warn(
                "features: no sum of two activations has the original's shape, so that outputs "
                "alone are matched; exclude what writes the residual stream, or leave features out"
            )
    lesson = _Distillation(config, kind, teacher, rows.objective)
    train(program, config, lesson, rows, setting, student=student)


class _Distillation:
    """The loss against a teacher."""

    def __init__(
        self, config: DistillConfig, kind: str, teacher: Program, objective: Objective
    ) -> None:
        self._config, self._kind, self._teacher = config, kind, teacher
        self._objective = objective

    def __call__(self, student: Program, batch: Batch) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            theirs = self._objective.outputs_of(self._teacher, batch)
        ours = self._objective.outputs_of(student, batch)
        labels = self._config.labels
        loss = (1 - labels) * self._on_outputs(ours, theirs)
        if labels > 0:
            loss = loss + labels * self._objective.loss(
                ours,
                self._objective.targets_of(batch),
                label_smoothing=self._config.label_smoothing,
                batch=batch,
            )
        # Rows held out are measured by outputs alone: on the program itself, which has no taps.
        if isinstance(student, Tapped) and isinstance(self._teacher, Tapped):
            loss = loss + self._config.features * difference(student.seen, self._teacher.seen)
        return loss, ours

    def _on_outputs(self, ours: Tensor, theirs: Tensor) -> Tensor:
        if not ours.is_floating_point():
            raise DataMismatchError(
                f"{self._objective.output} holds {str(ours.dtype).removeprefix('torch.')}, and "
                "distillation needs floats: choose another in /objective/output, or export the "
                "model with its logits or values",
                pointer="/objective/output",
                in_step=False,
            )
        if self._kind == "mse":
            return functional.mse_loss(ours.float(), theirs.float())
        # As targets lie: classes are the second dimension, wherever the model has them.
        ours, theirs = (self._objective.task.scores(each) for each in (ours, theirs))
        shape = tuple(ours.shape)
        if len(shape) < 2 or shape[1] < 2:
            raise DataMismatchError(
                f"loss 'kl' compares class probabilities, and an output of shape {shape} has no "
                "two classes: use loss 'mse'",
                pointer="/loss",
            )
        return divergence(ours, theirs, temperature=self._config.temperature)
