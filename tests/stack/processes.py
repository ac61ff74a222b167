"""A stack under test, and every process below it."""

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WAIT_S = 60
ROOT = Path(__file__).resolve().parents[2]


class Family:
    """A process and all its descendants as they are now, to see them end."""

    def __init__(self, pid: int) -> None:
        self._descriptors = {each: os.pidfd_open(each) for each in [pid, *descendants(pid)]}

    def __len__(self) -> int:
        return len(self._descriptors)

    def survivors(self) -> list[str]:
        """Wait for the end of all; give those that do not come to it."""
        left = []
        for pid, descriptor in self._descriptors.items():
            ended, _, _ = select.select([descriptor], [], [], WAIT_S)
            if not ended:
                left.append(f"{pid}: {Path(f'/proc/{pid}/cmdline').read_text()}")
            os.close(descriptor)
        return left


def descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                stat = (folder / "stat").read_text()
            except OSError:  # Ended just now.
                continue
            # The name in parentheses may hold anything, spaces included.
            parent = int(stat.rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(folder.name))
    found, open_ends = [], [pid]
    while open_ends:
        below = parents.get(open_ends.pop(), [])
        found += below
        open_ends += below
    return found


def named(pid: int, module: str) -> int:
    """The child of the stack that runs this module."""
    for each in descendants(pid):
        command = Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0")
        if command[1:3] == [b"-m", module.encode()]:
            return each
    raise LookupError(module)


@contextmanager
def started(
    *arguments: str | Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """`python -m stack` with these arguments; killed at the end, if it is still there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stack", *arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()
