"""What the learning rate is at each optimizer step."""

import math

from worker.engine.config import TrainingConfig


def rate(config: TrainingConfig, step: int, steps: int) -> float:
    """The learning rate of optimizer step ``step`` of ``steps``, counted from 0.

    It grows linearly over the first ``warmup`` of all steps, and is whole in the step after them;
    a cosine then falls from there to 0, where a step after the last would be.

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR
    2017, https://arxiv.org/abs/1608.03983, without restarts.
    """
    warming = math.ceil(config.warmup * steps)
    if step < warming:
        return config.learning_rate * (step + 1) / (warming + 1)
    if config.schedule == "constant":
        return config.learning_rate
    part = (step - warming) / (steps - warming)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * part))
