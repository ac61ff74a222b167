"""Watching one child process until it ends, or must."""

import logging
import os
import selectors
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from pydantic import ValidationError

from worker.launch import Child
from worker.order import Step
from worker.wake import Wake

_log = logging.getLogger(__name__)

_MAX_LINE_BYTES = 65536


class Verdict(Enum):
    """Why a child is no longer there."""

    ENDED = auto()
    """By itself, or by someone else's hand: its outcome and its exit code tell."""
    TAKEN = auto()
    """The job is no longer this attempt's: canceled, or given to another."""
    TIME_LIMIT = auto()
    STOPPING = auto()
    """The worker is shutting down."""


@dataclass(frozen=True)
class Rhythm:
    """How often things happen, in seconds. `WorkerSettings` says what each is for."""

    heartbeat_s: float
    progress_s: float
    stop_grace_s: float
    time_limit_s: float


Beat = Callable[[Step | None], bool]
"""Say that the attempt lives, and how far it is; False if it must stop."""


def supervise(child: Child, *, beat: Beat, wake: Wake, rhythm: Rhythm) -> Verdict:
    """Wait for the end of a child; bring it about where it is due. Nothing of it is left then."""
    watch = _Watch(child, beat=beat, wake=wake, rhythm=rhythm)
    try:
        verdict = watch.until_verdict()
        if verdict is not Verdict.ENDED:
            watch.stop_child()
        return verdict
    finally:
        # A fault on our side, too, leaves no child behind.
        child.signal(signal.SIGKILL)
        watch.close()


class _Watch:
    def __init__(self, child: Child, *, beat: Beat, wake: Wake, rhythm: Rhythm) -> None:
        self._child = child
        self._beat = beat
        self._wake = wake
        self._rhythm = rhythm
        self._lines = _Lines(child.events)
        self._last_beat_at = 0.0
        self._selector = selectors.DefaultSelector()
        for descriptor in (child.events, child.status, wake.descriptor):
            self._selector.register(descriptor, selectors.EVENT_READ)

    def close(self) -> None:
        self._selector.close()

    def until_verdict(self) -> Verdict:
        started_at = time.monotonic()
        deadline = started_at + self._rhythm.time_limit_s
        beat_at = started_at
        step: Step | None = None
        while True:
            ready = self._wait(min(beat_at, deadline))
            if self._child.status in ready:
                return Verdict.ENDED
            now = time.monotonic()
            if now >= deadline:
                return Verdict.TIME_LIMIT
            if self._wake.descriptor in ready:
                self._wake.clear()
                beat_at = now
            if self._wake.is_stopping:
                return Verdict.STOPPING
            if self._child.events in ready:
                latest = self._latest_step()
                if latest is not None:
                    beat_at = min(beat_at, self._due(step, latest, now))
                    step = latest
            if now >= beat_at:
                if not self._beat(step):
                    return Verdict.TAKEN
                self._last_beat_at = now
                beat_at = now + self._rhythm.heartbeat_s

    def _due(self, before: Step | None, latest: Step, now: float) -> float:
        """When a step is to be written: a new stage at once, the rest not too often."""
        if before is None or before.stage is not latest.stage:
            return now
        return self._last_beat_at + self._rhythm.progress_s

    def stop_child(self) -> None:
        """Ask it to end; kill it if it does not."""
        self._child.signal(signal.SIGTERM)
        with selectors.DefaultSelector() as selector:
            selector.register(self._child.status, selectors.EVENT_READ)
            if not selector.select(self._rhythm.stop_grace_s):
                _log.warning("process %d ignores SIGTERM and is killed", self._child.pid)
                self._child.signal(signal.SIGKILL)

    def _wait(self, until: float) -> set[int]:
        timeout_s = max(0.0, until - time.monotonic())
        return {key.fd for key, _ in self._selector.select(timeout_s)}

    def _latest_step(self) -> Step | None:
        latest = None
        for line in self._lines.read():
            try:
                latest = Step.model_validate_json(line)
            except ValidationError:
                _log.warning("process %d reports progress that is none", self._child.pid)
        if self._lines.is_at_end:
            self._selector.unregister(self._child.events)
        return latest


class _Lines:
    """Whole lines from a descriptor that may give any part of one."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""
        self.is_at_end = False

    def read(self) -> list[bytes]:
        chunk = os.read(self._descriptor, _MAX_LINE_BYTES)
        self.is_at_end = not chunk
        *lines, rest = (self._rest + chunk).split(b"\n")
        # A child that never ends its line does not fill our memory.
        self._rest = rest[-_MAX_LINE_BYTES:]
        return lines
