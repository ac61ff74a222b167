"""Temporary folders that go away whatever happens to those who made them."""

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_log = logging.getLogger(__name__)


@contextmanager
def scratch_folder(parent: Path, *, prefix: str) -> Iterator[Path]:
    """A new empty folder, removed at the end.

    It is locked as long as this process lives, which tells `remove_leftovers` that it is in use.
    """
    folder, lock = _make(parent, prefix)
    try:
        yield folder
    finally:
        _remove(folder)
        os.close(lock)


def remove_leftovers(parent: Path) -> None:
    """Remove the folders of processes that were killed before they could."""
    if not parent.is_dir():
        return
    for folder in parent.iterdir():
        try:
            lock = _lock(folder)
        except OSError:  # In use, or removed by another worker just now.
            continue
        _remove(folder)
        os.close(lock)


def _make(parent: Path, prefix: str) -> tuple[Path, int]:
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=parent))
        try:
            return folder, _lock(folder)
        except OSError:  # A worker that is tidying up has taken it for a leftover.
            continue


def _lock(folder: Path) -> int:
    """Lock a folder that still exists, or raise OSError. Closing the descriptor unlocks it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink == 0:
            raise FileNotFoundError(folder)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError:
        _log.exception("cannot remove %s", folder)
