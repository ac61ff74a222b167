"""How well a program, or a file of one, does on test data, alone and against the original."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from worker.engine.batch import Batch
from worker.engine.data import Rows
from worker.engine.errors import NotFiniteError
from worker.engine.measure.classes import ClassAccuracy, top_share
from worker.engine.measure.robustness import Noise, attacked, check_can_be_probed
from worker.engine.objective import Objective
from worker.engine.program import Program
from worker.engine.runnable import Runnable

OnBatch = Callable[[int, int], None]

_OF_CLASSES = ("accuracy", "top5_accuracy", "agreement", "noise_accuracy", "fgsm_accuracy")


class _Mean:
    """A mean over what counts, in float64."""

    def __init__(self) -> None:
        self.total = 0.0
        self.count = 0

    def add(self, mean: float, count: int) -> None:
        self.total += mean * count
        self.count += count

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


@torch.no_grad()
def quality(
    program: Runnable,
    original: Runnable,
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
        program: What is measured; the output counts that the rows' objective names.
        original: What ``agreement`` and ``output_mse`` compare with. May be the same object.
        rows: Test data.
        batch_size: Rows per call, as far as the program takes them.
        on_batch: Told after each batch how many are done, of how many.
        noise_std: Where given, accuracy with this much noise on the inputs is measured too.
        fgsm_epsilon: Where given, accuracy under an attack with the program's own gradients: it
            has to be one then, and no file in another runtime.
        seed: Draws the noise.

    Returns:
        ``row_count``, ``accuracy``, ``top5_accuracy``, ``class_accuracy``, ``noise_accuracy``,
        ``fgsm_accuracy``, ``loss``, ``agreement`` and ``output_mse``; fractions in [0, 1], a list
        of them for ``class_accuracy``; None for what the targets do not allow or nobody asked for.

    Raises:
        DataMismatchError: The program does not run on the data, targets do not fit its output, no
            target counts, or noise or attacks make no sense for them.
        NotFiniteError: A number came out as NaN or infinite.
    """
    check_can_be_probed(rows, noise_std=noise_std, fgsm_epsilon=fgsm_epsilon)
    if rows.has_targets:
        rows.check_targets("measuring")
    noise = None if noise_std is None else Noise(noise_std, seed=seed)
    objective = rows.objective
    means = {name: _Mean() for name in (*_OF_CLASSES, "loss", "output_mse")}
    by_class = ClassAccuracy()
    total = rows.batch_count(program, batch_size)
    for done, batch in enumerate(rows.batches(program, batch_size), start=1):
        output = objective.outputs_of(program, batch)
        reference = output
        if original is not program:
            reference = objective.outputs_of(original, batch)
        means["output_mse"].add(_difference(output, reference), batch.count)
        if batch.targets is not None:
            found = _judged(output, reference, batch, objective)
            scores, targets = objective.cases(output, batch.targets)
            if objective.task.has_classes:
                by_class.add(scores, targets)
            found |= _probed(program, batch, objective, noise, fgsm_epsilon)
            for name, value in found.items():
                means[name].add(value, targets.numel())
        on_batch(done, total)
    return {
        "row_count": len(rows),
        **{name: means[name].value for name in (*_OF_CLASSES, "loss")},
        "class_accuracy": by_class.value,
        "output_mse": means["output_mse"].value or 0.0,
    }


def _difference(output: Tensor, reference: Tensor) -> float:
    # What is the same is no difference, infinities included: a masked class has a logit of -inf.
    difference = torch.where(output == reference, 0.0, output.double() - reference.double())
    return _finite("output_mse", difference.square().mean())


def _judged(
    output: Tensor, reference: Tensor, batch: Batch, objective: Objective
) -> dict[str, float]:
    """What the targets of a batch say of an output."""
    targets = objective.targets_of(batch)
    found = {"loss": _finite("loss", objective.loss(output, targets, batch=batch))}
    if not objective.task.has_accuracy:
        return found
    scores, counted = objective.cases(output, targets)
    found["accuracy"] = _share(objective.right(scores, counted))
    before, _ = objective.cases(reference, targets)
    predicted = objective.task.predicted
    found["agreement"] = _share(predicted(scores) == predicted(before))
    if objective.task.has_classes and (top := top_share(scores, counted)) is not None:
        found["top5_accuracy"] = top
    return found


def _share(which: Tensor) -> float:
    return float(which.double().mean()) if which.numel() else 0.0


def _finite(name: str, value: Tensor) -> float:
    if not math.isfinite(number := float(value)):
        raise NotFiniteError(
            f"{name} is {number} on the test data: the model gives NaN or infinity there; check "
            "the data for values far from those that the model was trained on, and its weights"
        )
    return number


def _probed(
    program: Runnable,
    batch: Batch,
    objective: Objective,
    noise: Noise | None,
    fgsm_epsilon: float | None,
) -> dict[str, float]:
    """Accuracy on what the rows become, where it is asked for."""
    harder = {}
    if noise is not None:
        harder["noise_accuracy"] = noise.added_to(batch)
    if fgsm_epsilon is not None:
        assert isinstance(program, Program), "no runtime but torch has gradients"
        harder["fgsm_accuracy"] = attacked(
            program, batch, objective=objective, epsilon=fgsm_epsilon
        )
    found = {}
    for name, changed in harder.items():
        output = objective.outputs_of(program, changed)
        found[name] = _share(objective.right(*objective.cases(output, objective.targets_of(batch))))
    return found
