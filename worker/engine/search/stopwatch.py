"""The latency of cuts as fractions of the original's."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from worker.engine.graph.coupling import Coupling
from worker.engine.inputs import repeated
from worker.engine.measure.latency import times_ms
from worker.engine.program import Program
from worker.engine.prune.cut import cut_module


def ignore(done: int, total: int) -> None:
    """Nobody wants to know."""


class Stopwatch:
    """Times cuts of one program beside the program itself."""

    def __init__(self, coupling: Coupling, *, batch_size: int, mode: str) -> None:
        """Prepare it.

        Args:
            coupling: Of the original.
            batch_size: Rows per call, as far as the program takes them.
            mode: ``eager`` or ``compiled``; see :func:`times_ms`.
        """
        self._coupling = coupling
        self._leaves = repeated(coupling.program, batch_size)
        self._mode = mode

    def ratios(
        self, keeps: Sequence[Tensor], *, rounds: int, mode: str | None = None
    ) -> list[float]:
        """Median over rounds of each cut's time over the original's, all timed in turn.

        Args:
            keeps: What each keeps: bool, ``(channel_count + 1,)``.
            rounds: At least 1.
            mode: Instead of its own: to compile takes many times longer than to measure.
        """
        program = self._coupling.program
        cuts = [program.with_module(cut_module(self._coupling, keep)) for keep in keeps]
        return self.ratios_of(cuts, rounds=rounds, mode=mode)

    def ratios_of(
        self, programs: Sequence[Program], *, rounds: int, mode: str | None = None
    ) -> list[float]:
        """The same of programs that are there already."""
        times = times_ms(
            (self._coupling.program, *programs),
            self._leaves,
            rounds=rounds,
            on_round=ignore,
            mode=mode or self._mode,
        )
        return [float(ratio) for ratio in np.median(times[1:] / times[:1], axis=1)]
