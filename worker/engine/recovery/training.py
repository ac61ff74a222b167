"""The loop that trains all weights of a program, whatever the loss."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Generator, Tensor

from worker.engine.batch import Batch
from worker.engine.config import TrainingConfig
from worker.engine.data import Rows, equal_batches
from worker.engine.errors import DataMismatchError, DivergedError, UntrainableError
from worker.engine.objective import is_finite
from worker.engine.program import Program
from worker.engine.recovery.augment import augmented
from worker.engine.recovery.average import Average
from worker.engine.recovery.modes import check_statistics, training
from worker.engine.recovery.optimizer import optimizer_of, restore_state, saved_state, set_rate
from worker.engine.recovery.schedule import rate
from worker.engine.recovery.setting import Position, Setting, Snapshot
from worker.engine.recovery.speed import prepared
from worker.engine.recovery.tensors import copied, fill, parameters_of, state_of
from worker.engine.recovery.validation import Lesson, Standing, standing

# Places in a training that draw numbers of their own.
_ROWS, _STEP, _AUGMENT = range(3)


def train(
    program: Program,
    config: TrainingConfig,
    lesson: Lesson,
    rows: Rows,
    setting: Setting,
    *,
    student: Program,
) -> None:
    """Train every floating-point parameter.

    Every number that is drawn comes from the setting's seed and the place in the training, never
    from what was drawn before: a training that goes on from a snapshot ends at the same weights.

    Args:
        program: Changed in place. Always in evaluation mode.
        config: How.
        lesson: The loss.
        rows: To train on.
        setting: What surrounds the training.
        student: A twin of the program: the lesson is about it in training, and about the program
            where rows held out are measured.

    Raises:
        DataMismatchError: The lesson does not go with the rows, or they are too few for a batch
            norm.
        DivergedError: The loss became infinite or undefined.
        UntrainableError: The model overwrites what its gradient needs.
    """
    _Training(program, config, lesson, rows, setting, student).run()


class _Training:
    """One training: what it is made of, and how far it is."""

    def __init__(
        self,
        program: Program,
        config: TrainingConfig,
        lesson: Lesson,
        rows: Rows,
        setting: Setting,
        student: Program,
    ) -> None:
        self.program, self.student = program, student
        self.config, self.setting = config, setting
        self.lesson, self.rows = lesson, rows
        # Whole batches only: a batch norm cannot learn from a rest of one row.
        self.size, self.batches = equal_batches(program, config.batch_size, rows=len(rows))
        self.steps = config.epochs * self.batches
        self.state = state_of(program)
        self.parameters = parameters_of(program)
        self.optimizer = optimizer_of(self.parameters, config)
        self.average = None if config.ema is None else Average(program, config.ema)
        tensors = {name: program.module.get_parameter(name) for name in setting.sparse}
        self.zeros = {name: (tensor, tensor == 0) for name, tensor in tensors.items()}
        self.precision = torch.float32
        self.step = 0
        self.best: Standing | None = None
        self.best_tensors: dict[str, Tensor] = {}
        self.epochs_since_best = 0

    def run(self) -> None:
        if (snapshot := self.setting.snapshots.last()) is not None:
            self.restore(snapshot)
        else:
            self.judge()
        with self.trainable(), training(self.student.module):
            self.precision = prepared(
                self.student,
                self.config,
                steps=self.steps,
                trial=self.trial,
                warn=self.setting.warn,
            )
            while self.step < self.steps and not self.is_exhausted:
                self.epoch()
        self.finish()

    @property
    def is_exhausted(self) -> bool:
        patience = self.config.patience
        return patience is not None and self.epochs_since_best >= patience

    def epoch(self) -> None:
        """Train to the end of the epoch, from wherever in it the training is."""
        for batch in self.rows_ahead():
            self.learn(batch)
            self.step += 1
            if self.step % self.batches == 0:
                self.judge()
            self.setting.on_progress(self.step, self.steps)
            self.setting.snapshots.offer(self.snapshot)

    def rows_ahead(self) -> Iterator[Batch]:
        """The batches of this epoch that were not trained on yet."""
        epoch, done = divmod(self.step, self.batches)
        order = np.random.default_rng(self.setting.draw(_ROWS, epoch)).permutation(len(self.rows))
        ahead = order[done * self.size : self.batches * self.size]
        return self.rows.batches(self.program, self.size, order=ahead)

    def learn(self, batch: Batch) -> None:
        """One optimizer step."""
        set_rate(self.optimizer, rate(self.config, self.step, self.steps))
        self.differentiate(batch, self.precision)
        if self.config.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.gradient_clip)
        self.optimizer.step()
        with torch.no_grad():
            for tensor, zero in self.zeros.values():
                tensor.masked_fill_(zero, 0.0)
        if self.average is not None:
            self.average.update(self.step)

    def differentiate(self, batch: Batch, precision: torch.dtype) -> None:
        """Leave the gradient of the loss on a batch in the parameters."""
        torch.manual_seed(self.setting.draw(_STEP, self.step))
        generator = Generator().manual_seed(self.setting.draw(_AUGMENT, self.step))
        batch = replace(batch, inputs=augmented(batch.inputs, self.config, generator))
        is_lower = precision is not torch.float32
        kind = self.program.device.type
        with torch.enable_grad(), _differentiable():
            with torch.autocast(kind, dtype=torch.bfloat16, enabled=is_lower):
                loss, _ = self.lesson(self.student, batch)
            self.check(loss)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]

    def check(self, loss: Tensor) -> None:
        if not loss.requires_grad:
            raise DataMismatchError(
                f"{self.rows.objective.output} has no gradient to any parameter, so that it cannot "
                "be fine-tuned; export the model without detach and no_grad"
            )
        if not is_finite(loss):
            raise DivergedError(
                f"the loss became {float(loss.detach())} in epoch {self.step // self.batches + 1} "
                f"of {self.config.epochs}: use a learning_rate below {self.config.learning_rate:g}"
            )

    def trial(self, precision: torch.dtype) -> None:
        """Differentiate one batch, and put back what that changed."""
        before = copied(self.state)
        try:
            self.differentiate(next(self.rows_ahead()), precision)
        finally:
            fill(self.state, before)
            self.optimizer.zero_grad(set_to_none=True)

    def judge(self) -> None:
        """Measure on the rows held out, and keep what is best."""
        if self.setting.validation is None:
            return
        averages = {} if self.average is None else self.average.under_all_names(self.program)
        with self.program.holding(averages):
            found = standing(
                self.program,
                self.setting.validation,
                self.lesson,
                batch_size=self.config.batch_size,
            )
        if self.best is not None and not found.beats(self.best):
            self.epochs_since_best += 1
            return
        self.best, self.best_tensors, self.epochs_since_best = found, copied(self.result), 0

    @property
    def result(self) -> Mapping[str, Tensor]:
        """What would be kept now."""
        return self.state if self.average is None else {**self.state, **self.average.tensors}

    def finish(self) -> None:
        fill(self.state, self.best_tensors if self.best is not None else self.result)
        check_statistics(self.program)

    @contextmanager
    def trainable(self) -> Iterator[None]:
        before = {name: each.requires_grad for name, each in self.parameters.items()}
        try:
            for each in self.parameters.values():
                each.requires_grad_()
            yield
        finally:
            self.optimizer.zero_grad(set_to_none=True)
            for name, each in self.parameters.items():
                each.requires_grad_(before[name])

    def snapshot(self) -> Snapshot:
        parts: dict[str, Mapping[str, Tensor]] = {
            "state": self.state,
            "optimizer": saved_state(self.optimizer, self.parameters),
            "average": {} if self.average is None else self.average.tensors,
            "best": self.best_tensors,
            "zero": {name: zero for name, (_, zero) in self.zeros.items()},
        }
        best = None if self.best is None else self.best.as_json()
        position = Position(self.step, best, self.epochs_since_best)
        tensors = {
            f"{part}/{name}": each for part, own in parts.items() for name, each in own.items()
        }
        return Snapshot(tensors, position)

    def restore(self, snapshot: Snapshot) -> None:
        parts: dict[str, dict[str, Tensor]] = {}
        for label, tensor in snapshot.tensors.items():
            part, _, name = label.partition("/")
            parts.setdefault(part, {})[name] = tensor.to(self.program.device)
        fill(self.state, parts["state"])
        restore_state(self.optimizer, self.parameters, parts.get("optimizer", {}))
        if self.average is not None:
            fill(self.average.tensors, parts["average"])
        zeros = parts.get("zero", {})
        self.zeros = {name: (tensor, zeros[name]) for name, (tensor, _) in self.zeros.items()}
        position = snapshot.position
        self.step, self.epochs_since_best = position.step, position.epochs_since_best
        self.best = None if position.best is None else Standing.from_json(position.best)
        self.best_tensors = parts.get("best", {})


@contextmanager
def _differentiable() -> Iterator[None]:
    """Tell a model that overwrites what its gradient needs.

    Raises:
        UntrainableError: It does.
    """
    try:
        yield
    except (DataMismatchError, RuntimeError) as error:
        reason = str(error.__cause__ or error)
        if "inplace operation" not in reason and "in-place operation" not in reason:
            raise
        raise UntrainableError(
            "the model writes in place into a tensor that its gradient needs, so that it cannot be "
            "trained: export it without writes such as x[:, :4] += 1, or leave the step out"
        ) from error
