"""How long a call takes: programs, or files of them, timed in turn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worker.engine.errors import CompilerError
from worker.engine.inputs import repeated
from worker.engine.program import Program
from worker.engine.runnable import Runnable

_WARM_UP_ROUNDS = 5


@dataclass(frozen=True)
class Latency:
    """Wall times of single calls in milliseconds, round by round.

    Attributes:
        original_ms: Of the original: float64, ``(rounds,)``.
        compressed_ms: Of the compressed model, in the same rounds.
        batch_size: Rows of each call.
        runtime: What computed both, with its version.
        device: Where.
        mode: ``eager`` or ``compiled`` for programs; None for files, which have no modes.
    """

    original_ms: np.ndarray
    compressed_ms: np.ndarray
    batch_size: int
    runtime: str
    device: str
    mode: str | None = None

    @property
    def speedup(self) -> float:
        """Median over rounds of original time over compressed time; > 1 is faster."""
        return float(np.median(self.original_ms / self.compressed_ms))

    def as_json(self) -> dict[str, Any]:
        """The document of a report."""
        return {
            "speedup": self.speedup,
            "original": percentiles(self.original_ms),
            "compressed": percentiles(self.compressed_ms),
            "round_count": len(self.original_ms),
            "batch_size": self.batch_size,
            "runtime": self.runtime,
            "mode": self.mode,
            "device": self.device,
            "thread_count": torch.get_num_threads(),
        }


def percentiles(times_ms: np.ndarray) -> dict[str, float]:
    """The times that half of the calls, and 19 of 20, stay below."""
    p50, p95 = np.quantile(times_ms, (0.5, 0.95)).tolist()
    return {"p50_ms": p50, "p95_ms": p95}


def latency(
    original: Program,
    compressed: Program,
    *,
    batch_size: int,
    rounds: int,
    on_round: Callable[[int, int], None],
    mode: str = "eager",
) -> Latency:
    """Time both programs on the same rows. See :func:`times_ms`.

    Raises:
        CompilerError: A program does not compile here.
    """
    leaves = repeated(original, batch_size)
    return compared(
        *(ready(program, leaves, mode) for program in (original, compressed)),
        leaves=leaves,
        rounds=rounds,
        on_round=on_round,
        runtime=f"torch {version('torch')} {mode}",
        mode=mode,
    )


def compared(
    original: Runnable,
    compressed: Runnable,
    *,
    leaves: Sequence[Any],
    rounds: int,
    on_round: Callable[[int, int], None],
    runtime: str,
    mode: str | None = None,
) -> Latency:
    """Time both on the same flat inputs. See :func:`times_ms`."""
    times = times_ms((original, compressed), leaves, rounds=rounds, on_round=on_round)
    rows = next((leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()), 1)
    return Latency(times[0], times[1], rows, runtime, original.device.type, mode)


@torch.no_grad()
def times_ms(
    running: Sequence[Runnable],
    leaves: Sequence[Any],
    *,
    rounds: int,
    on_round: Callable[[int, int], None],
) -> np.ndarray:
    """Time what runs on the same inputs: float64, ``(len(running), rounds)``.

    A round runs each once, in an order drawn anew: what disturbs the machine disturbs all, and
    none always follows the same other.

    Args:
        running: All on one device.
        leaves: Flat inputs that all of them take.
        rounds: At least 1; some more come first and are not counted.
        on_round: Told after each round how many are done, of how many.
    """
    times = np.empty((len(running), rounds))
    draw = np.random.default_rng(0)
    for round_ in range(-_WARM_UP_ROUNDS, rounds):
        for which in draw.permutation(len(running)):
            spent = _timed(running[which], leaves)
            if round_ >= 0:
                times[which, round_] = spent
        if round_ >= 0:
            on_round(round_ + 1, rounds)
    return times


@torch.no_grad()
def ready(program: Program, leaves: list[object], mode: str) -> Program:
    """The program as it is timed.

    Args:
        program: Left as it is.
        leaves: Flat inputs that it takes.
        mode: ``eager``: as it is; ``compiled``: behind the compiler, which has seen these inputs.

    Raises:
        CompilerError: It does not compile here.
    """
    if mode == "eager":
        return program
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


def _timed(running: Runnable, leaves: Sequence[Any]) -> float:
    _synchronize(running.device)
    start = perf_counter()
    running.run(leaves)
    _synchronize(running.device)
    return (perf_counter() - start) * 1e3


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
