"""Inputs that are harder than those of the data set: noise, and the model's own gradient."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from worker.engine.batch import Batch
from worker.engine.data import Rows
from worker.engine.errors import DataMismatchError
from worker.engine.objective import Objective
from worker.engine.program import Program

aten = torch.ops.aten

_RECURRENT = frozenset({aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input})


def check_can_be_probed(rows: Rows, *, noise_std: float | None, fgsm_epsilon: float | None) -> None:
    """Check that there is something to change in the inputs, and a class to get wrong.

    Raises:
        DataMismatchError: Targets are no class numbers, or no input is floating point.
    """
    asked = {"noise_std": noise_std, "fgsm_epsilon": fgsm_epsilon}
    for name in (name for name, value in asked.items() if value is not None):
        if not rows.has_accuracy:
            given = "none" if rows.targets is None else str(rows.targets.dtype)
            raise rows.mismatch(
                f"{name} measures an accuracy, which needs class numbers as targets, and those of "
                f"the test data are {given} ({rows.objective.name}): add integer targets, name "
                f"another task in /objective/task, or leave {name} out",
                pointer=f"/evaluation/{name}",
            )
        if not any(_is_float(array.dtype) for array in rows.inputs):
            dtypes = ", ".join(f"input {at} is {a.dtype}" for at, a in enumerate(rows.inputs))
            raise rows.mismatch(
                f"{name} changes floating-point inputs by a little, and the model has none "
                f"({dtypes}): numbers of tokens and the like cannot be moved; leave {name} out",
                pointer=f"/evaluation/{name}",
            )


class Noise:
    """Gaussian noise: the same for the same seed and rows, however they come in batches."""

    def __init__(self, std: float, *, seed: int) -> None:
        self._std = std
        self._seed = seed
        self._draws: dict[int, np.random.Generator] = {}

    def added_to(self, batch: Batch) -> Batch:
        """The next batch with noise on every floating-point input.

        Args:
            batch: Read, never written.

        Returns:
            ``x + std * z`` for each such input, ``z`` drawn independently for each value from the
            standard normal distribution. Nothing is clipped.
        """
        return replace(batch, inputs=[self._noisy(at, x) for at, x in enumerate(batch.inputs)])

    def _noisy(self, at: int, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        # One stream for each input: NumPy's goes on where the last batch ended, whatever its size.
        draw = self._draws.setdefault(at, np.random.default_rng([self._seed, at]))
        noise = torch.from_numpy(draw.standard_normal(tuple(x.shape), np.float32))
        return x + self._std * noise.to(x.device, x.dtype)


def attacked(program: Program, batch: Batch, *, objective: Objective, epsilon: float) -> Batch:
    """Move every value of the first floating-point input one step up the program's own loss.

    An attack of one step finds some of the inputs near by that are classified wrongly, not all:
    accuracy under it is an upper bound of what a stronger attack would leave.

    Args:
        program: Gives the gradients, in evaluation mode. Read, never written.
        batch: Rows with targets. Read, never written.
        objective: Whose loss it is.
        epsilon: How far, in the data's own unit, > 0. Nothing is clipped: which values the data
            may have is not known.

    Returns:
        The batch with ``x + epsilon * sign(d loss / d x)`` in place of ``x``. A value whose
        gradient is 0 or no number stays.

    Raises:
        DataMismatchError: No input is floating point, or the output has no gradient to it.

    Source: Goodfellow et al., "Explaining and Harnessing Adversarial Examples", ICLR 2015,
    https://arxiv.org/abs/1412.6572, the fast gradient sign method.
    """
    targets = objective.targets_of(batch)
    at = next(at for at, each in enumerate(batch.inputs) if each.is_floating_point())
    x = batch.inputs[at].detach().clone().requires_grad_()
    with torch.enable_grad(), _recurrence_with_gradients(program):
        output = objective.outputs_of(program, _with_input(batch, at, x))
        # A sum: a mean over many rows is less than half precision holds.
        loss = objective.loss(output, targets, batch=batch) * targets.numel()
        gradient = _gradient(loss, x, at, objective)
    step = epsilon * gradient.nan_to_num(nan=0.0).sign()
    return _with_input(batch, at, x.detach() + step)


def _gradient(loss: Tensor, x: Tensor, at: int, objective: Objective) -> Tensor:
    reason = "it is not computed from that input, or through detach, no_grad or whole numbers"
    gradient = None
    if loss.requires_grad:
        try:
            (gradient,) = torch.autograd.grad(loss, x, allow_unused=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
    if gradient is None:
        raise DataMismatchError(
            f"fgsm_epsilon: {objective.output} has no gradient to its input {at}, so that it "
            f"cannot be attacked ({reason}): leave fgsm_epsilon out, or export the model with "
            "what is differentiable"
        )
    return gradient


def _with_input(batch: Batch, at: int, x: Tensor) -> Batch:
    return replace(batch, inputs=[*batch.inputs[:at], x, *batch.inputs[at + 1 :]])


@contextmanager
def _recurrence_with_gradients(program: Program) -> Iterator[None]:
    """Run recurrent layers without cuDNN, whose kernels give gradients in training mode alone."""
    if not any(node.target in _RECURRENT for node in program.graph.nodes):
        yield
        return
    with torch.backends.cudnn.flags(enabled=False):
        yield


def _is_float(dtype: np.dtype) -> bool:
    return np.issubdtype(dtype, np.floating)
