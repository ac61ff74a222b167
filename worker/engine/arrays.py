"""Arrays that stay on disk: whoever reads rows has these in memory, and no others.

A data set may be larger than memory. Nothing is mapped: a mapping counts as address space, and its
pages as memory of the process for as long as nobody else wants them.
"""

import math
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np

from worker.engine.errors import UnreadableDataError

_TILE_BYTES = 2**25
"""How much of an array is in memory while its rows are put together."""


class RowArray(Protocol):
    """What has rows that can be taken: an array in memory, or one on disk."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray: ...


class StoredArray:
    """The rows of an array that lie one after another in a file.

    Args:
        descriptor: Of the open file, which belongs to the array from here on: it is closed with
            :meth:`close`, or when nobody has the array any more.
        offset: Where in the file its first element is.
        shape: Rows first.
        dtype: Of plain numbers.
    """

    def __init__(
        self, descriptor: int, *, offset: int, shape: tuple[int, ...], dtype: np.dtype
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self._descriptor = descriptor
        self._offset = offset
        self._row_bytes = math.prod(shape[1:]) * dtype.itemsize
        self._closed = weakref.finalize(self, os.close, descriptor)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Read rows, in the order given; rows that follow each other are one read.

        Args:
            rows: Row numbers, each in [0, len), any number of times; int64, ``(n,)``.

        Returns:
            A new array ``(n, *shape[1:])``.

        Raises:
            IndexError: A number of a row that is not there.
            UnreadableDataError: The file has become shorter than it was.
        """
        rows = np.asarray(rows, np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        if not found.size:
            return found
        into = found.reshape(-1).view(np.uint8).data
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        starts = np.concatenate([[0], breaks])
        ends = np.append(breaks, len(rows)) * self._row_bytes
        offsets = self._offset + rows[starts] * self._row_bytes
        places = (starts * self._row_bytes).tolist()
        for start, end, offset in zip(places, ends.tolist(), offsets.tolist(), strict=True):
            read_into(self._descriptor, into[start:end], offset=offset)
        return found

    @property
    def size_bytes(self) -> int:
        """Of all its elements."""
        return len(self) * self._row_bytes

    def close(self) -> None:
        """Close the file; no row can be read after it. May be called again."""
        self._closed()


def read_into(descriptor: int, place: memoryview, *, offset: int) -> None:
    """Fill a piece of memory from a file.

    Raises:
        UnreadableDataError: The file ends before.
    """
    while (count := os.preadv(descriptor, [place], offset)) < len(place):
        if not count:
            raise UnreadableDataError(
                f"the data set ends at byte {offset}, where {len(place)} more are expected: the "
                "file was changed while it was read; upload it again"
            )
        place, offset = place[count:], offset + count


def unpacked(pieces: Iterable[bytes]) -> int:
    """Write what comes piece by piece into a temporary file without a name.

    Returns:
        A descriptor of the file, which is gone when that is closed.

    Raises:
        UnreadableDataError: There is no room for it.
    """
    try:
        with tempfile.TemporaryFile(prefix="secateur-data-") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            return os.dup(file.fileno())
    except OSError as error:
        raise UnreadableDataError(
            "a data set that is compressed, or whose arrays lie columns first, is unpacked before "
            f"it is read, and there is no room for that ({error.strerror}): save it with "
            "numpy.savez, with arrays made by numpy.ascontiguousarray, and upload it again"
        ) from error


def rows_first(
    descriptor: int, *, offset: int, shape: tuple[int, ...], dtype: np.dtype
) -> Iterator[bytes]:
    """The rows of an array that lies columns first (Fortran's order) in a file, some at a time.

    Args:
        descriptor: Of the open file; stays open.
        offset: Where in the file the array's first element is.
        shape: Rows first, at least one.
        dtype: Of plain numbers.
    """
    count, columns = shape[0], math.prod(shape[1:])
    step = max(1, _TILE_BYTES // max(1, columns * dtype.itemsize))
    for first in range(0, count, step):
        tile = np.empty((columns, min(step, count - first)), dtype)
        for column in range(columns):
            read_into(
                descriptor,
                tile[column].view(np.uint8).data,
                offset=offset + (column * count + first) * dtype.itemsize,
            )
        yield tile.reshape(*shape[:0:-1], tile.shape[1]).T.tobytes()
