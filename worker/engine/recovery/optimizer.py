"""The optimizers, and their state under the names of what they optimize."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from worker.engine.config import TrainingConfig


def optimizer_of(parameters: Mapping[str, Parameter], config: TrainingConfig) -> Optimizer:
    """Make an optimizer that decays no parameter of one dimension: no bias, and no norm's scale.

    Source: He et al., "Bag of Tricks for Image Classification with Convolutional Neural Networks",
    CVPR 2019, https://arxiv.org/abs/1812.01187, section 3.1; AdamW is of Loshchilov and Hutter,
    "Decoupled Weight Decay Regularization", ICLR 2019, https://arxiv.org/abs/1711.05101.
    """
    decayed = [each for each in parameters.values() if each.dim() > 1]
    others = [each for each in parameters.values() if each.dim() <= 1]
    groups = [
        {"params": members, "weight_decay": decay}
        for members, decay in ((decayed, config.weight_decay), (others, 0.0))
        if members
    ]
    return OPTIMIZERS[config.optimizer](groups, config)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def saved_state(optimizer: Optimizer, parameters: Mapping[str, Parameter]) -> dict[str, Tensor]:
    """What an optimizer remembers: tensors by ``KEY:PARAMETER``."""
    return {
        f"{key}:{name}": value
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def restore_state(
    optimizer: Optimizer, parameters: Mapping[str, Parameter], saved: Mapping[str, Tensor]
) -> None:
    """Have an optimizer remember what :func:`saved_state` gave."""
    for label, value in saved.items():
        key, _, name = label.partition(":")
        parameter = parameters[name]
        # AdamW counts steps on the CPU, wherever its parameters are.
        own = value.cpu().clone() if key == "step" else torch.empty_like(parameter).copy_(value)
        optimizer.state[parameter][key] = own


def _adamw(groups: list[dict[str, object]], config: TrainingConfig) -> Optimizer:
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def _sgd(groups: list[dict[str, object]], config: TrainingConfig) -> Optimizer:
    momentum = config.momentum
    return torch.optim.SGD(
        groups, lr=config.learning_rate, momentum=momentum, nesterov=momentum > 0
    )


OPTIMIZERS = {"adamw": _adamw, "sgd": _sgd}
"""How each is made; by the names of the API."""
