"""A job's progress, or a sweep's, for whoever looks at a terminal, or reads a log."""

import sys
from types import TracebackType
from typing import Self, TextIO

from secateur.jobs import Job
from secateur.sweeps import Sweep

_BAR_CHARACTERS = 24


class ProgressLine:
    """One line that is written over on a terminal; a line for each new stage elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._is_terminal = self._stream.isatty()
        self._last = ""
        self._width = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.clear()

    def job(self, job: Job) -> None:
        """Show how far a job is."""
        what = str(job.stage or job.state)
        if job.attempt > 1:
            what += f" (attempt {job.attempt})"
        if job.progress is None:
            self._show(what, what)
        else:
            done, total = job.progress.done, max(1, job.progress.total)
            counted = f"{done}/{total} {job.progress.unit}"
            self._show(what, f"{what:<12} {bar(done / total)} {counted}")

    def sweep(self, sweep: Sweep) -> None:
        """Show how many jobs of a sweep have ended."""
        counts = sweep.counts
        line = f"{counts.final} of {counts.total} done"
        if counts.failed:
            line += f", {counts.failed} failed"
        self._show(line, f"{line:<24} {bar(counts.final / max(1, counts.total))}")

    def bytes(self, what: str, done: int, total: int) -> None:
        """Show how far a transfer is."""
        mib = 2**20
        counted = f"{done / mib:.1f}/{total / mib:.1f} MiB"
        self._show(what, f"{what:<12} {bar(done / max(1, total))} {counted}")

    def clear(self) -> None:
        """Leave the terminal's line empty for what comes next."""
        if self._is_terminal and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
            self._width = 0

    def _show(self, what: str, line: str) -> None:
        if self._is_terminal:
            self._stream.write(f"\r{line.ljust(self._width)}")
            self._width = len(line)
        elif what != self._last:
            self._stream.write(f"{what}\n")
        self._last = what
        self._stream.flush()


def bar(fraction: float) -> str:
    filled = round(_BAR_CHARACTERS * min(1.0, max(0.0, fraction)))
    return "[" + "#" * filled + "." * (_BAR_CHARACTERS - filled) + "]"
