"""Iterative pruning: a step of several rounds as several steps."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeGuard

from worker.engine.config import Origin, PruneConfig, RecoveryConfig, StepConfig, TransformConfig
from worker.engine.graph.counts import count
from worker.engine.graph.coupling import couple
from worker.engine.program import Program

SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda part: part,
    "cubic": lambda part: 1 - (1 - part) ** 3,
    "exponential": lambda part: (1 - math.exp(-3 * part)) / (1 - math.exp(-3)),
}
"""Which part of all that goes is gone after a part of the rounds: both in [0, 1].

The cubic one is of Zhu and Gupta, "To prune, or not to prune", 2017,
https://arxiv.org/abs/1710.01878.
"""

Steps = Sequence[tuple[int, StepConfig]]
"""Steps, each with its place in the recipe."""


def in_rounds(recipe: Sequence[StepConfig]) -> Steps:
    """The recipe with a step for each round, and the recovery between them.

    A step that searches takes all that follows it into its own ``recover``.
    """
    steps: list[tuple[int, StepConfig]] = []
    for place, step in enumerate(recipe):
        if steps and isinstance(step, RecoveryConfig | TransformConfig):
            at, last = steps[-1]
            if is_searching(last):
                # What follows is done with each model that is tried.
                steps[-1] = (at, replace(last, recover=(*last.recover, step)))
                continue
        if not isinstance(step, PruneConfig) or step.rounds == 1:
            steps.append((place, step))
            continue
        schedule = SCHEDULES[step.schedule]
        for number in range(step.rounds):
            progress = (schedule(number / step.rounds), schedule((number + 1) / step.rounds))
            steps.append((place, replace(step, progress=progress)))
            if number + 1 < step.rounds:
                steps += [(place, recovery) for recovery in step.recover]
    return steps


def is_searching(step: StepConfig) -> TypeGuard[PruneConfig]:
    """Whether a step tries models, each recovered by the steps that follow it."""
    return isinstance(step, PruneConfig) and step.promise is not None


def origin_of(step: PruneConfig, program: Program) -> Origin:
    """What the fractions of a step are of, from the program that its first round finds."""
    coupling = couple(program, exclude=step.exclude, granularity=step.granularity)
    counts = count(coupling)
    channels = {group.name: len(group) for group in coupling.groups}
    return Origin(counts.parameters, counts.macs, counts.size_bytes, channels)
