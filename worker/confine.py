"""What a child process takes from itself before it touches a file that somebody uploaded.

Linux has all of it. Elsewhere the limits hold, and the rest is left out.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
if sys.platform == "linux":
    _libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    _libc.unshare.argtypes = [ctypes.c_int]


@dataclass(frozen=True)
class Limits:
    """What one process may use."""

    memory_bytes: int
    file_bytes: int
    cpu_s: int


def die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when the thread that started it ends.

    Exits at once if the parent is gone already: its death would never be signaled.
    """
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def hide_from_children() -> None:
    """Keep this process's environment and memory from others of the same user.

    A child runs as the worker's own user: without this it could read the database's password in
    ``/proc/<worker>/environ``.
    """
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def give_up_privileges() -> None:
    """No program that this process starts gains rights from a set-user-id bit."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.umask(0o077)


def limit(limits: Limits) -> None:
    """Set the limits that no code in this process can raise again."""
    # The data limit counts what can be written to. The address space limit would also count what
    # CUDA and the allocators merely reserve, which is many times what they use.
    _set(resource.RLIMIT_DATA, limits.memory_bytes)
    _set(resource.RLIMIT_FSIZE, limits.file_bytes)
    _set(resource.RLIMIT_CPU, limits.cpu_s)
    _set(resource.RLIMIT_CORE, 0)  # A core dump would hold the user's weights and data.


def _set(which: int, most: int) -> None:
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(which, (most, most))


def leave_network() -> bool:
    """Move to a network namespace without interfaces. Must be called before a thread is started.

    Returns:
        Whether it was allowed. Containers often forbid it; there the operator isolates the worker.
    """
    if sys.platform != "linux":
        return False
    if _libc.unshare(_CLONE_NEWNET) == 0:
        return True
    user, group = os.getuid(), os.getgid()
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    # The same ids inside as outside, so that files belong to whom they belonged.
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with contextlib.suppress(OSError):
            Path("/proc/self", name).write_text(line)
    return True


def be_killed_first() -> None:
    """When the machine runs out of memory, the kernel takes this process, not the worker."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def machine_memory_bytes() -> int:
    """The memory of this machine, or of this container where that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # `max`, or no control groups of version 2.
        return min(total, int((_own_cgroup() / "memory.max").read_text()))
    return total


def oom_kill_count() -> int:
    """How many processes the kernel has killed here for want of memory; rises only."""
    with contextlib.suppress(OSError, ValueError):
        return _counter(_own_cgroup() / "memory.events", "oom_kill")
    with contextlib.suppress(OSError, ValueError):
        return _counter(Path("/proc/vmstat"), "oom_kill")
    return 0


def _own_cgroup() -> Path:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::/"):
            return Path("/sys/fs/cgroup", line.removeprefix("0::/"))
    raise FileNotFoundError("no control group of version 2")


def _counter(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    raise ValueError(f"{path} has no {name}")
