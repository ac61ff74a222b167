"""The latency of cuts as fractions of the original's."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from torch import Tensor

from worker.engine.criteria.subject import ignore
from worker.engine.graph.coupling import Coupling
from worker.engine.inputs import repeated
from worker.engine.measure.latency import ready, times_ms
from worker.engine.program import Program
from worker.engine.prune.cut import cut_module

_QUICK = 0.05
_MOMENT_MS = 200.0
_MOST_ROUNDS = 200


class Stopwatch:
    """Times cuts of one program beside the program itself."""

    def __init__(self, coupling: Coupling, *, batch_size: int, mode: str) -> None:
        """Prepare it.

        Args:
            coupling: Of the original.
            batch_size: Rows per call, as far as the program takes them.
            mode: ``eager`` or ``compiled``; see :func:`ready`.
        """
        self._coupling = coupling
        self._leaves = repeated(coupling.program, batch_size)
        self._mode = mode

    def ratios(
        self, keeps: Sequence[Tensor], *, rounds: int, mode: str | None = None
    ) -> list[float]:
        """Each cut's time over the original's, all timed in turn.

        Args:
            keeps: What each keeps: bool, ``(channel_count + 1,)``.
            rounds: At least 1.
            mode: Instead of its own: to compile takes many times longer than to measure.
        """
        # The original as a cut of nothing: what a loaded program checks beside counts for neither.
        base, *cuts = (self._cut(keep) for keep in (self._coupling.everything(), *keeps))
        return self._ratios(base, cuts, rounds, mode or self._mode)

    def ratios_of(
        self, programs: Sequence[Program], *, rounds: int, mode: str | None = None
    ) -> list[float]:
        """The same of programs that are there already."""
        return self._ratios(self._coupling.program, programs, rounds, mode or self._mode)

    def _cut(self, keep: Tensor) -> Program:
        return self._coupling.program.with_module(cut_module(self._coupling, keep))

    def _ratios(
        self, base: Program, programs: Sequence[Program], rounds: int, mode: str
    ) -> list[float]:
        times = times_ms(
            [ready(program, self._leaves, mode) for program in (base, *programs)],
            self._leaves,
            rounds=max(rounds, self._fast_rounds),
            on_round=ignore,
        )
        # The quickest ones: what else a machine does makes calls slower, and never faster.
        quick = np.quantile(times, _QUICK, axis=1)
        return [float(ratio) for ratio in quick[1:] / quick[0]]

    @cached_property
    def _fast_rounds(self) -> int:
        """Rounds that take a moment: short calls are timed more often."""
        program = self._coupling.program
        times = times_ms((program,), self._leaves, rounds=3, on_round=ignore)
        return int(min(_MOMENT_MS / max(float(times.min()), 1e-3), _MOST_ROUNDS))
