"""How long a call takes: two programs, timed in turn."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from worker.engine.inputs import repeated
from worker.engine.program import Program

_WARM_UP_ROUNDS = 5


@dataclass(frozen=True)
class Latency:
    """Wall times of single calls in milliseconds, round by round."""

    original_ms: np.ndarray
    compressed_ms: np.ndarray
    batch_size: int

    @property
    def speedup(self) -> float:
        """Median over rounds of original time over compressed time; > 1 is faster."""
        return float(np.median(self.original_ms / self.compressed_ms))


@torch.no_grad()
def latency(
    original: Program,
    compressed: Program,
    *,
    batch_size: int,
    rounds: int,
    on_round: Callable[[int, int], None],
) -> Latency:
    """Time both programs on the same rows.

    A round runs both once, and the order changes from round to round: what disturbs the machine
    disturbs both.

    Args:
        original: Runs eagerly, as does ``compressed``; both on the same device.
        compressed: Takes the same inputs.
        batch_size: Rows per call, as far as the programs take them.
        rounds: At least 1.
        on_round: Told after each round how many are done, of how many.
    """
    leaves = repeated(original, batch_size)
    times: dict[int, list[float]] = {0: [], 1: []}
    programs = (original, compressed)
    for round_ in range(-_WARM_UP_ROUNDS, rounds):
        for which in (0, 1) if round_ % 2 == 0 else (1, 0):
            spent = _timed(programs[which], leaves)
            if round_ >= 0:
                times[which].append(spent)
        if round_ >= 0:
            on_round(round_ + 1, rounds)
    rows = next((leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()), 1)
    return Latency(np.array(times[0]), np.array(times[1]), rows)


def _timed(program: Program, leaves: list[object]) -> float:
    _synchronize(program.device)
    start = perf_counter()
    program.run(leaves)
    _synchronize(program.device)
    return (perf_counter() - start) * 1e3


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
