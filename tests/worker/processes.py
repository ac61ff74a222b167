"""Waiting for processes that are not ours."""

import os
import select

from tests.worker.conftest import WAIT_S


class Watched:
    """A process, by its number, told apart from a later one with the same number."""

    def __init__(self, pid: int) -> None:
        self._descriptor = os.pidfd_open(pid)

    def has_ended(self) -> bool:
        """Wait for its end."""
        ready, _, _ = select.select([self._descriptor], [], [], WAIT_S)
        os.close(self._descriptor)
        return bool(ready)
