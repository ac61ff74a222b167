"""How well a program does on test data, alone and against the original."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from worker.engine import objective
from worker.engine.data import Batch, Rows, first_output
from worker.engine.errors import NotFiniteError
from worker.engine.measure.classes import ClassAccuracy, right_share, top_share
from worker.engine.measure.robustness import Noise, attacked, check_can_be_probed
from worker.engine.program import Program

OnBatch = Callable[[int, int], None]

_OF_CLASSES = ("accuracy", "top5_accuracy", "agreement", "noise_accuracy", "fgsm_accuracy")


class _Mean:
    """A mean over rows, in float64."""

    def __init__(self) -> None:
        self.total = 0.0
        self.rows = 0

    def add(self, mean: float, rows: int) -> None:
        self.total += mean * rows
        self.rows += rows

    @property
    def value(self) -> float | None:
        return self.total / self.rows if self.rows else None


@torch.no_grad()
def quality(
    program: Program,
    original: Program,
    rows: Rows,
    *,
    batch_size: int,
    on_batch: OnBatch,
    noise_std: float | None = None,
    fgsm_epsilon: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a program on test data, in memory that does not grow with the data.

    Args:
        program: What is measured; the first output counts.
        original: What ``agreement`` and ``output_mse`` compare with. May be the same object.
        rows: Test data.
        batch_size: Rows per call, as far as the program takes them.
        on_batch: Told after each batch how many are done, of how many.
        noise_std: Where given, accuracy with this much noise on the inputs is measured too.
        fgsm_epsilon: Where given, accuracy under an attack with the program's own gradients.
        seed: Draws the noise.

    Returns:
        ``row_count``, ``accuracy``, ``top5_accuracy``, ``class_accuracy``, ``noise_accuracy``,
        ``fgsm_accuracy``, ``loss``, ``agreement`` and ``output_mse``; fractions in [0, 1], a list
        of them for ``class_accuracy``; None for what the targets do not allow or nobody asked for.

    Raises:
        DataMismatchError: The program does not run on the data, targets do not fit its output, or
            noise or attacks make no sense for them.
        NotFiniteError: A number came out as NaN or infinite.
    """
    check_can_be_probed(rows, noise_std=noise_std, fgsm_epsilon=fgsm_epsilon)
    noise = None if noise_std is None else Noise(noise_std, seed=seed)
    means = {name: _Mean() for name in (*_OF_CLASSES, "loss", "output_mse")}
    by_class = ClassAccuracy()
    total = rows.batch_count(program, batch_size)
    for done, batch in enumerate(rows.batches(program, batch_size), start=1):
        output = first_output(program, batch)
        reference = output
        if original is not program:
            reference = first_output(original, batch)
        found = _measured(output, reference, batch, rows)
        if rows.has_classes and batch.targets is not None:
            by_class.add(output, batch.targets)
            found |= _probed(program, batch, batch.targets, noise, fgsm_epsilon)
        for name, value in found.items():
            means[name].add(value, batch.count)
        on_batch(done, total)
    return {
        "row_count": len(rows),
        **{name: means[name].value for name in (*_OF_CLASSES, "loss")},
        "class_accuracy": by_class.value,
        "output_mse": means["output_mse"].value or 0.0,
    }


def _measured(output: Tensor, reference: Tensor, batch: Batch, rows: Rows) -> dict[str, float]:
    # What is the same is no difference, infinities included: a masked class has a logit of -inf.
    difference = torch.where(output == reference, 0.0, output.double() - reference.double())
    found = {"output_mse": float(difference.square().mean())}
    if batch.targets is not None:
        found["loss"] = float(objective.loss(output, batch.targets))
    if rows.has_classes and batch.targets is not None:
        predicted = objective.classes(output)
        found["accuracy"] = objective.equal_share(predicted, batch.targets)
        found["agreement"] = objective.equal_share(predicted, objective.classes(reference))
        if (top := top_share(output, batch.targets)) is not None:
            found["top5_accuracy"] = top
    for name, value in found.items():
        if not math.isfinite(value):
            raise NotFiniteError(
                f"{name} is {value} on the test data: the model gives NaN or infinity there; check "
                "the data for NaN and for values far from those that the model was trained on"
            )
    return found


def _probed(
    program: Program,
    batch: Batch,
    targets: Tensor,
    noise: Noise | None,
    fgsm_epsilon: float | None,
) -> dict[str, float]:
    """Accuracy on what the rows become, where it is asked for."""
    harder = {}
    if noise is not None:
        harder["noise_accuracy"] = noise.added_to(batch)
    if fgsm_epsilon is not None:
        harder["fgsm_accuracy"] = attacked(program, batch, epsilon=fgsm_epsilon)
    return {
        name: right_share(first_output(program, changed), targets)
        for name, changed in harder.items()
    }
