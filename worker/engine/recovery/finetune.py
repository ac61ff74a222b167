"""Training on labels."""

from torch import Tensor

from worker.engine.batch import Batch
from worker.engine.config import FinetuneConfig
from worker.engine.data import Rows
from worker.engine.program import Program
from worker.engine.recovery.augment import check_augmentable
from worker.engine.recovery.setting import Setting
from worker.engine.recovery.training import train
from worker.engine.recovery.twin import twin


def finetune(program: Program, config: FinetuneConfig, rows: Rows, setting: Setting) -> None:
    """Train every parameter on labels: cross-entropy for classes, squared error for floats.

    Args:
        program: Changed in place. Left in evaluation mode.
        config: How.
        rows: Inputs and targets.
        setting: What surrounds the training.

    Raises:
        DataMismatchError: No targets, targets that do not fit the output, inputs that cannot be
            augmented, or too few rows for a batch norm.
        DivergedError: The loss became infinite or undefined.
        UntrainableError: The model overwrites what its gradient needs.
    """
    rows.check_targets("fine-tuning")
    check_augmentable(rows, config, reads_labels=True)
    objective = rows.objective

    def lesson(student: Program, batch: Batch) -> tuple[Tensor, Tensor]:
        output = objective.outputs_of(student, batch)
        targets = objective.targets_of(batch)
        smoothing = config.label_smoothing
        return objective.loss(output, targets, label_smoothing=smoothing, batch=batch), output

    train(program, config, lesson, rows, setting, student=twin(program))
