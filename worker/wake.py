"""Waking whoever waits for a child process: its job has changed, or the worker stops."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Wake:
    """An event that can be waited for together with pipes."""

    def __init__(self) -> None:
        self.descriptor, self._write = os.pipe()
        os.set_blocking(self.descriptor, False)
        os.set_blocking(self._write, False)
        self.is_stopping = False

    def set(self) -> None:
        try:
            os.write(self._write, b"\0")
        except BlockingIOError:  # It is set, many times over.
            return

    def clear(self) -> None:
        try:
            os.read(self.descriptor, 4096)
        except BlockingIOError:  # It was not set.
            return

    def close(self) -> None:
        os.close(self.descriptor)
        os.close(self._write)


class Wakes:
    """The attempts that run in this worker, by job."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_job: dict[str, Wake] = {}
        self._is_stopping = False

    @contextmanager
    def listening(self, job_id: str) -> Iterator[Wake]:
        """A wake that is set when something is said about this job."""
        wake = Wake()
        with self._lock:
            wake.is_stopping = self._is_stopping
            self._by_job[job_id] = wake
        try:
            yield wake
        finally:
            with self._lock:
                del self._by_job[job_id]
                wake.close()

    def wake(self, job_id: str) -> None:
        with self._lock:
            if job_id in self._by_job:
                self._by_job[job_id].set()

    @property
    def is_stopping(self) -> bool:
        return self._is_stopping

    def stop(self) -> None:
        """Have every attempt end, those that begin later too."""
        with self._lock:
            self._is_stopping = True
            for wake in self._by_job.values():
                wake.is_stopping = True
                wake.set()
