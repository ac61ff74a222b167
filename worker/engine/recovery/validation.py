"""How good a program is on rows that were held out."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import inf, isnan

import torch
from torch import Tensor

from worker.engine.batch import Batch
from worker.engine.data import Rows
from worker.engine.program import Program

Lesson = Callable[[Program, Batch], tuple[Tensor, Tensor]]
"""What is learned: the loss of a program on a batch, a scalar, and the output it was made of."""


@dataclass(frozen=True)
class Standing:
    """What was measured: the loss per row, and the fraction of classes that are right.

    ``accuracy`` is None where targets are no classes.
    """

    accuracy: float | None
    loss: float

    def beats(self, other: "Standing") -> bool:
        """Whether it is better: by accuracy, and where that is equal or none, by loss."""
        return self.rank > other.rank

    @property
    def rank(self) -> tuple[float, float]:
        """Higher is better."""
        return self.accuracy or 0.0, -inf if isnan(self.loss) else -self.loss

    @classmethod
    def from_json(cls, document: Mapping[str, float | None]) -> "Standing":
        loss = document["loss"]
        assert loss is not None
        return cls(document["accuracy"], loss)

    def as_json(self) -> dict[str, float | None]:
        return asdict(self)


@torch.no_grad()
def standing(program: Program, rows: Rows, lesson: Lesson, *, batch_size: int) -> Standing:
    """Measure a program in evaluation mode, in float32."""
    objective = rows.objective
    total = 0.0
    count = correct = of = 0
    for batch in rows.batches(program, batch_size):
        loss, output = lesson(program, batch)
        total += float(loss) * batch.count
        count += batch.count
        if rows.has_accuracy:
            targets = objective.targets_of(batch)
            objective.check(output, targets, batch)
            cases = objective.cases(output, targets)
            is_right = objective.right(*cases)
            correct, of = correct + int(is_right.sum()), of + is_right.numel()
    return Standing(correct / of if of else None, total / count)
