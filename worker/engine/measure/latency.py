"""How long a call takes: programs, timed in turn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from worker.engine.errors import CompilerError
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
    mode: str = "eager",
) -> Latency:
    """Time both programs on the same rows. See :func:`times_ms`."""
    leaves = repeated(original, batch_size)
    times = times_ms((original, compressed), leaves, rounds=rounds, on_round=on_round, mode=mode)
    rows = next((leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()), 1)
    return Latency(times[0], times[1], rows)


@torch.no_grad()
def times_ms(
    programs: Sequence[Program],
    leaves: list[object],
    *,
    rounds: int,
    on_round: Callable[[int, int], None],
    mode: str = "eager",
) -> np.ndarray:
    """Time programs on the same inputs: float64, ``(programs, rounds)``.

    A round runs each once, in an order drawn anew: what disturbs the machine disturbs all, and
    none always follows the same other.

    Args:
        programs: All on one device.
        leaves: Flat inputs that all of them take.
        rounds: At least 1; some more come first and are not counted.
        on_round: Told after each round how many are done, of how many.
        mode: ``eager``, or ``compiled`` for programs behind ``torch.compile``.

    Raises:
        CompilerError: The program does not compile here.
    """
    running = [
        _compiled(program, leaves) if mode == "compiled" else program for program in programs
    ]
    times = np.empty((len(programs), rounds))
    draw = np.random.default_rng(0)
    for round_ in range(-_WARM_UP_ROUNDS, rounds):
        for which in draw.permutation(len(programs)):
            spent = _timed(running[which], leaves)
            if round_ >= 0:
                times[which, round_] = spent
        if round_ >= 0:
            on_round(round_ + 1, rounds)
    return times


def _compiled(program: Program, leaves: list[object]) -> Program:
    """The program behind the compiler, which has seen these inputs."""
    compiled = program.with_module(torch.compile(program.module, dynamic=False))  # type: ignore[arg-type]
    try:
        compiled.run(leaves)
    except Exception as error:
        # Whatever the compiler raises: what it lacks (a C++ compiler) or cannot do.
        raise CompilerError(
            f"torch.compile cannot compile the model on this worker ({type(error).__name__}): ask "
            "for latency_mode 'eager'",
            pointer="/evaluation/latency_mode",
        ) from error
    return compiled


def _timed(program: Program, leaves: list[object]) -> float:
    _synchronize(program.device)
    start = perf_counter()
    program.run(leaves)
    _synchronize(program.device)
    return (perf_counter() - start) * 1e3


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
