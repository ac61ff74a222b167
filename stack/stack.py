"""Everything that the service needs: up in the right order, watched over, and down again."""

import queue
import signal
import sys
import time
from collections.abc import Sequence
from urllib.request import urlopen

from stack.parts import Parts
from stack.processes import Ended, Event, Events, Process, Ready, Signaled, user_command

_GRACE_S = 20.0
"""Seconds that a process has to stop in before it is killed."""

_MOST_ENDS = 5
_MOST_ENDS_WITHIN_S = 60.0
"""A worker that ends more often than this does not get better by being started again."""


class Interrupted(Exception):
    """A signal came while everything was being started."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Stack:
    """Broker, migrations, service and worker, each a process of its own."""

    def __init__(self, parts: Parts, events: Events) -> None:
        self._parts = parts
        self._events = events
        self._running: list[Process] = []
        self._worker: Process | None = None
        self._worker_ended_at: list[float] = []
        self.url = ""

    def start(self) -> None:
        """Bring everything up; returns when the service takes jobs and a worker does them.

        Raises:
            ProcessFailed: Something did not start.
            Interrupted: A signal came.
        """
        if self._parts.has_own_broker:
            self._await_ready(self._started(self._parts.broker()))
        self._await_end(self._started(self._parts.migrations()))
        service = self._started(self._parts.service())
        worker = self._worker = self._started(self._parts.worker())
        lines = self._await_ready(service, worker)
        self.url = lines[service].rpartition("url=")[2]
        # Answers when the database, the broker and the blobs do.
        with urlopen(f"{self.url}/readyz") as response:  # noqa: S310 - http, and our own.
            response.read()

    def run(self, command: Sequence[str]) -> int:
        """Run a command that finds the service in its environment; give its exit code.

        Raises:
            ProcessFailed: The service or the broker ended meanwhile.
        """
        environment = self._parts.caller_environment(self.url)
        process = user_command(command, environment=environment, events=self._events)
        self._started(process)
        while True:
            event = self._next()
            if isinstance(event, Signaled):
                process.signal(event.number)
            elif isinstance(event, Ended) and event.process is process:
                return event.exit_code if event.exit_code >= 0 else 128 - event.exit_code
            else:
                self._handle(event)

    def serve(self) -> None:
        """Go on until a signal comes.

        Raises:
            ProcessFailed: The service or the broker ended, or the worker again and again.
        """
        while not isinstance(event := self._next(), Signaled):
            self._handle(event)

    def stop(self) -> None:
        """Stop the last started first: what it needs to end well is then still there."""
        while self._running:
            process = self._running[-1]
            process.signal(signal.SIGTERM)
            deadline = time.monotonic() + _GRACE_S
            while process in self._running:
                try:
                    event = self._next(timeout_s=max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    process.signal(signal.SIGKILL)
                    deadline = float("inf")
                    continue
                if isinstance(event, Signaled):  # Asked twice: no patience is left.
                    process.signal(signal.SIGKILL)

    def _started(self, process: Process) -> Process:
        self._running.append(process)
        return process

    def _next(self, timeout_s: float | None = None) -> Event:
        if timeout_s == float("inf"):
            timeout_s = None
        event = self._events.get(timeout=timeout_s)
        if isinstance(event, Ended):
            self._running.remove(event.process)
        return event

    def _await_ready(self, *processes: Process) -> dict[Process, str]:
        """Wait until each of them says that it is ready; give the lines in which they do."""
        lines: dict[Process, str] = {}
        while len(lines) < len(processes):
            match self._next():
                case Ready(process, line):
                    lines[process] = line
                case Ended(process, exit_code):
                    raise process.failed(exit_code)
                case Signaled(number):
                    raise Interrupted(number)
        return lines

    def _await_end(self, process: Process) -> None:
        while True:
            match self._next():
                case Ended(ended, exit_code) if exit_code != 0 or ended is not process:
                    raise ended.failed(exit_code)
                case Ended():
                    return
                case Signaled(number):
                    raise Interrupted(number)
                case Ready():
                    pass

    def _handle(self, event: Event) -> None:
        """A worker may end, killed for want of memory perhaps; without the others nothing goes."""
        if not isinstance(event, Ended):
            return
        now = time.monotonic()
        ends = [*(at for at in self._worker_ended_at if now - at < _MOST_ENDS_WITHIN_S), now]
        if event.process is not self._worker or len(ends) > _MOST_ENDS:
            raise event.process.failed(event.exit_code)
        self._worker_ended_at = ends
        sys.stderr.write(
            f"secateur: the worker ended with code {event.exit_code}; starting another\n"
        )
        self._worker = self._started(self._parts.worker())


def catch_signals(events: Events) -> None:
    """Have SIGINT and SIGTERM arrive as events."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: events.put(Signaled(number)))
