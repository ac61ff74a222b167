"""A process that has everything imported, and forks a child for each attempt.

Importing PyTorch takes seconds, forking takes milliseconds. `multiprocessing` has a fork server
too; this one differs where strangers' files are concerned: its environment is clean from its first
instruction on (a child can read `/proc/self/environ`), and nothing is unpickled in the parent.

It talks over one socket, in messages of JSON; `worker.launch` is the other end:

* `{"ready": true}` comes once, when everything is imported.
* `{"start": "/scratch/folder"}` with two descriptors, the progress pipe and the status pipe.
  Answer: `{"pid": 17}`. When that child ends, its exit code goes to the status pipe.
* `{"signal": 15, "pid": 17}`: signals the child's whole process group. No answer.

When the socket closes, the worker is gone: every child is killed, and the server ends.
"""

import contextlib
import gc
import importlib
import json
import logging
import os
import selectors
import signal
import socket
import sys
from pathlib import Path

from worker import child, confine

MESSAGE_BYTES = 65536

# What PyTorch imports when a program is first exported, saved or loaded, with what comes with it:
# 800 modules, two seconds, in every child anew. Some of these names are private; one that is no
# longer there is only slower.
_LATE_MODULES = (
    "torch._dynamo",
    "torch._export.serde.serialize",
    "torch._inductor.codegen.common",
    "torch._inductor.remote_cache",
    "torch.export.pt2_archive._package",
)
_DESCRIPTORS = 2


class ForkServer:
    """The children of one worker."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._status_pipes: dict[int, int] = {}

    def serve(self) -> None:
        """Answer until the worker is gone."""
        self._control.sendall(json.dumps({"ready": True}).encode())
        _import_late_modules()
        wake_read, wake_write = os.pipe()
        for descriptor in (wake_read, wake_write):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(wake_read, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fd == wake_read:
                        os.read(wake_read, 4096)
                        self._reap()
                    elif not self._answer():
                        return

    def kill_all(self) -> None:
        for pid in self._status_pipes:
            _signal_group(pid, signal.SIGKILL)

    def _answer(self) -> bool:
        message, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, _DESCRIPTORS)
        if not message:
            return False
        order = json.loads(message)
        if "start" in order:
            events, status = descriptors
            pid = self._start(Path(order["start"]), events)
            os.close(events)
            self._status_pipes[pid] = status
            self._control.sendall(json.dumps({"pid": pid}).encode())
        elif order["pid"] in self._status_pipes:
            _signal_group(order["pid"], order["signal"])
        return True

    def _start(self, folder: Path, events: int) -> int:
        server = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        # Nothing may get past here: a child that went back to the loop would be a second server.
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            confine.die_with(server)
            _close_all_but(events)
            child.run(folder, events)
            code = 0
        except BaseException:
            logging.getLogger(__name__).exception("child of %s", folder.name)
        finally:
            logging.shutdown()
            os._exit(code)

    def _reap(self) -> None:
        for pid in list(self._status_pipes):
            # Looked at first and reaped later: until then nobody else can get its number.
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                continue
            _signal_group(pid, signal.SIGKILL)  # What the child started does not outlive it.
            _, status = os.waitpid(pid, 0)
            pipe = self._status_pipes.pop(pid)
            with contextlib.suppress(BrokenPipeError):
                os.write(pipe, str(os.waitstatus_to_exitcode(status)).encode())
            os.close(pipe)


def _import_late_modules() -> None:
    """Import what children will need, while nobody waits for one."""
    for module in _LATE_MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    # Children share this memory for as long as nobody writes to it, the collector included.
    gc.collect()
    gc.freeze()


def _close_all_but(kept: int) -> None:
    """Close what belongs to the server: with its socket a child could signal other children."""
    most = os.sysconf("SC_OPEN_MAX")
    os.closerange(3, kept)
    os.closerange(kept + 1, most)


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        # Forked a moment ago: it does not lead its group yet.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def main() -> None:
    """`python -m worker.forkserver DESCRIPTOR [MODULE ...]`: serve, with these modules imported."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level="INFO")
    descriptor, *modules = sys.argv[1:]
    for module in modules:
        importlib.import_module(module)
    server = ForkServer(socket.socket(fileno=int(descriptor)))
    try:
        server.serve()
    finally:
        server.kill_all()


if __name__ == "__main__":
    main()
