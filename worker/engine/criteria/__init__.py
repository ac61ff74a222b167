"""Criteria: how important each channel is. One file and one row each."""

from collections.abc import Callable

from torch import Tensor

from worker.engine.criteria.magnitude import magnitude
from worker.engine.criteria.random import random
from worker.engine.criteria.subject import Subject

Criterion = Callable[[Subject], Tensor]

CRITERIA: dict[str, Criterion] = {
    "magnitude": magnitude,
    "random": random,
}
"""By the name that a spec gives. A score is float32, one for each channel; higher is kept."""
