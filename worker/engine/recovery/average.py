"""A moving average of what is trained."""

from collections.abc import Mapping

import torch
from torch import Tensor

from worker.engine.program import Program
from worker.engine.recovery.tensors import copied, state_of


class Average:
    """An exponential moving average of every floating-point parameter and buffer.

    The decay of step t is the smaller of the one asked for and (1 + t) / (10 + t): a short
    training is not an average of what it began with. Batch-norm statistics are averaged along:
    they go with the weights.

    Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the
    decay is that of TensorFlow's ``tf.train.ExponentialMovingAverage`` with ``num_updates``.
    """

    def __init__(self, program: Program, decay: float) -> None:
        self._decay = decay
        self._now = {
            name: tensor for name, tensor in state_of(program).items() if tensor.is_floating_point()
        }
        # In single precision: in half of it a small step is none.
        self.tensors = {name: _wide(tensor) for name, tensor in copied(self._now).items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights as they are after optimizer step ``step``, counted from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, tensor in self._now.items():
            self.tensors[name].lerp_(_wide(tensor), 1 - decay)

    def under_all_names(self, program: Program) -> Mapping[str, Tensor]:
        """The averages by every name that a tensor has, as :meth:`Program.holding` takes them."""
        module = program.module
        by_tensor = {id(tensor): self.tensors[name] for name, tensor in self._now.items()}
        named = [
            *module.named_parameters(remove_duplicate=False),
            *module.named_buffers(remove_duplicate=False),
        ]
        return {
            name: by_tensor[id(each)].to(each.dtype)
            for name, each in named
            if id(each) in by_tensor
        }


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype is torch.float64 else tensor.float()
