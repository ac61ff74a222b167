"""The stack's child processes, and what happens to them as a queue of events."""

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stack.errors import ProcessFailed

_BOUND = Path(__file__).parent / "bound.py"


@dataclass(frozen=True)
class Ready:
    """A process has said the line that tells it is ready."""

    process: "Process"
    line: str


@dataclass(frozen=True)
class Ended:
    """A process is gone, and what it started too."""

    process: "Process"
    exit_code: int


@dataclass(frozen=True)
class Signaled:
    """Somebody wants the stack to stop."""

    number: int


Event = Ready | Ended | Signaled
# Of the kind that a signal handler may put into.
Events = queue.SimpleQueue[Event]


class Process:
    """A process in a group of its own, that does not outlive the stack."""

    def __init__(
        self,
        name: str,
        popen: subprocess.Popen[bytes],
        events: Events,
        pump: threading.Thread | None = None,
    ) -> None:
        self.name = name
        self._popen = popen
        self._pump = pump
        threading.Thread(target=self._wait, args=(events,), daemon=True).start()

    def signal(self, number: int) -> None:
        """Signal it and all that it started."""
        try:
            os.killpg(self._popen.pid, number)
        except ProcessLookupError:
            return

    def failed(self, exit_code: int) -> ProcessFailed:
        """The error to raise when it should not have ended."""
        return ProcessFailed(self.name, exit_code=exit_code, log=None)

    def _wait(self, events: Events) -> None:
        # Looked at first and reaped later: until then its number is nobody else's.
        os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOWAIT)
        self.signal(signal.SIGKILL)  # What it started does not outlive it.
        exit_code = self._popen.wait()
        if self._pump is not None:
            # Its last words are in the log before anybody hears that it ended.
            self._pump.join()
        events.put(Ended(self, exit_code))


class LoggedProcess(Process):
    """A process of the stack itself: its output goes to a log."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        log: Path,
        ready: bytes | None,
        events: Events,
    ) -> None:
        """Start it. Must be called from the main thread, with which it would die.

        Args:
            name: What it is called in messages.
            command: What to run.
            environment: All of its environment.
            folder: Where to run it.
            log: What it prints is added to this file.
            ready: Part of the line that says that it is ready.
            events: Where to tell what happens to it.
        """
        self._log = log
        popen = _bound(
            command,
            environment=environment,
            folder=folder,
            stdin=subprocess.DEVNULL,
            output=subprocess.PIPE,
            # A Ctrl-C on the terminal is the stack's to handle, in its order.
            is_session=True,
        )
        assert popen.stdout is not None
        pump = threading.Thread(target=self._copy, args=(popen.stdout, ready, events), daemon=True)
        pump.start()
        super().__init__(name, popen, events, pump)

    def failed(self, exit_code: int) -> ProcessFailed:
        return ProcessFailed(self.name, exit_code=exit_code, log=self._log)

    def _copy(self, output: BinaryIO, ready: bytes | None, events: Events) -> None:
        # Unbuffered: a log is read when something has just gone wrong.
        with output, self._log.open("ab", buffering=0) as file:
            for line in output:
                file.write(line)
                if ready is not None and ready in line:
                    ready = None
                    events.put(Ready(self, line.decode(errors="replace").strip()))


def user_command(
    command: Sequence[str], *, environment: Mapping[str, str], events: Events
) -> Process:
    """Run what the user wants run, with their terminal and in their folder."""
    popen = _bound(
        command,
        environment=environment,
        folder=Path.cwd(),
        # In a group of its own it cannot read from a terminal: it would be stopped.
        stdin=subprocess.DEVNULL if sys.stdin is None or sys.stdin.isatty() else None,
        output=None,
        is_session=False,
    )
    return Process("command", popen, events)


def _bound(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: Path,
    stdin: int | None,
    output: int | None,
    is_session: bool,
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - the stack's own commands, and the user's.
        [sys.executable, "-I", "-S", str(_BOUND), str(os.getpid()), *command],
        env=dict(environment),
        cwd=folder,
        stdin=stdin,
        stdout=output,
        stderr=subprocess.STDOUT if output is not None else None,
        start_new_session=is_session,
        process_group=None if is_session else 0,
    )
