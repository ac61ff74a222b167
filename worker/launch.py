"""Child processes, started through a fork server that is started when first needed."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# What a child may know of the worker's environment. A list of what is allowed: a list of what is
# secret would always lack the newest secret.
_KEPT = frozenset({"PATH", "PYTHONPATH", "LANG", "TZ", "LD_LIBRARY_PATH", "HOME", "TMPDIR"})
_KEPT_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "OMP_", "MKL_", "KMP_", "OPENBLAS_", "PYTORCH_")

_ANSWER_BYTES = 4096


class LaunchError(Exception):
    """The fork server cannot be started, or ended while it was asked. Its own log says why."""


class Child:
    """A child process of the fork server. `events` and `status` are to be waited for."""

    def __init__(self, server: "Launcher", pid: int, *, events: int, status: int) -> None:
        self._server = server
        self.pid = pid
        self.events = events
        """Descriptor of its progress, lines of JSON."""
        self.status = status
        """Descriptor that becomes readable when it has ended."""

    def signal(self, number: signal.Signals) -> None:
        """Signal it and everything it started; nothing happens if it has ended."""
        self._server.signal(self.pid, number)

    def exit_code(self) -> int | None:
        """Wait for its end: the exit code, or minus the signal; None if its server was lost."""
        written = os.read(self.status, 32)
        if written:
            return int(written)
        # The kernel has killed it together with the server; what it started may be left.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return None

    def close(self) -> None:
        os.close(self.events)
        os.close(self.status)


class Launcher:
    """Starts children. Safe to use from several threads."""

    def __init__(self, modules: Iterable[str]) -> None:
        """Say which modules the children find imported. No process is started yet."""
        self._modules = tuple(modules)
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._is_ready = False

    def begin(self) -> None:
        """Start the server, and leave it to import its modules."""
        with self._lock:
            self._begin()

    def warm_up(self) -> None:
        """Have the server import its modules now.

        Raises:
            LaunchError: It cannot.
        """
        with self._lock:
            self._connected()

    def start(self, folder: Path) -> Child:
        """Start the attempt whose order is in `folder`.

        Raises:
            LaunchError: There is no fork server to start it.
        """
        with self._lock:
            try:
                return self._start(folder)
            except LaunchError:
                # The server that served the last attempt has died since.
                self._disconnect()
                return self._start(folder)

    def signal(self, pid: int, number: signal.Signals) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self._control is not None:
                self._control.sendall(json.dumps({"pid": pid, "signal": number}).encode())

    def close(self) -> None:
        """Stop the server, and with it every child."""
        with self._lock:
            self._disconnect()

    def _start(self, folder: Path) -> Child:
        control = self._connected()
        events, events_write = os.pipe()
        status, status_write = os.pipe()
        try:
            message = json.dumps({"start": str(folder)}).encode()
            socket.send_fds(control, [message], [events_write, status_write])
            answer = _received(control)
        except (OSError, LaunchError) as error:
            os.close(events)
            os.close(status)
            raise LaunchError("the fork server ended") from error
        finally:
            os.close(events_write)
            os.close(status_write)
        return Child(self, answer["pid"], events=events, status=status)

    def _connected(self) -> socket.socket:
        control = self._begin()
        if not self._is_ready:
            try:
                _received(control)
            except LaunchError:
                self._disconnect()
                raise
            self._is_ready = True
        return control

    def _begin(self) -> socket.socket:
        if self._control is not None:
            return self._control
        # Messages keep their borders, and the end of either process is seen by the other.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # Not the worker's session: a Ctrl-C on its terminal is the worker's to handle.
            self._server = subprocess.Popen(  # noqa: S603 (this interpreter, our own module)
                [sys.executable, "-m", "worker.forkserver", str(theirs.fileno()), *self._modules],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=_clean_environment(),
                start_new_session=True,
            )
        self._control = ours
        self._is_ready = False
        return ours

    def _disconnect(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._server is not None:
            self._server.wait()
        self._control = self._server = None


def _received(control: socket.socket) -> dict[str, Any]:
    message = control.recv(_ANSWER_BYTES)
    if not message:
        raise LaunchError("the fork server ended")
    answer: dict[str, Any] = json.loads(message)
    return answer


def _clean_environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or name.startswith(_KEPT_PREFIXES)
    }
