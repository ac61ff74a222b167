"""Arrays on disk give the rows that arrays in memory give, and no more of them than asked for."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engine import arrays, load
from worker.engine.arrays import StoredArray, rows_first, unpacked
from worker.engine.errors import UnreadableDataError

ROOT = Path(__file__).resolve().parents[2]


def _stored(array: np.ndarray, *, before: int = 3) -> StoredArray:
    descriptor = unpacked([bytes(before), array.tobytes()])
    return StoredArray(descriptor, offset=before, shape=array.shape, dtype=array.dtype)


@given(st.lists(st.integers(0, 9), max_size=30))
def test_any_rows_in_any_order_are_those_of_the_array_in_memory(rows):
    array = np.arange(60, dtype=np.int16).reshape(10, 2, 3)
    stored = _stored(array)
    assert (len(stored), stored.shape, stored.dtype) == (10, (10, 2, 3), np.int16)
    np.testing.assert_array_equal(stored[np.array(rows, int)], array[np.array(rows, int)])


def test_rows_that_follow_each_other_are_one_read(monkeypatch):
    stored, reads = _stored(np.arange(20.0)), []

    def counted(descriptor, place, *, offset):
        reads.append((offset, len(place)))
        return arrays_read(descriptor, place, offset=offset)

    arrays_read = arrays.read_into
    monkeypatch.setattr(arrays, "read_into", counted)
    assert stored[np.array([4, 5, 6, 2, 9, 10])].tolist() == [4, 5, 6, 2, 9, 10]
    assert reads == [(3 + 4 * 8, 24), (3 + 2 * 8, 8), (3 + 9 * 8, 16)]


@pytest.mark.parametrize("rows", [[-1], [0, 10], [5, 11, 2]])
def test_a_row_that_is_not_there_is_no_row_of_another_array(rows):
    with pytest.raises(IndexError, match="of 10"):
        _stored(np.zeros((10, 2)))[np.array(rows)]


def test_rows_without_elements_are_rows():
    assert _stored(np.zeros((4, 0, 2)))[np.array([1, 3])].shape == (2, 0, 2)


def test_a_file_that_became_shorter_is_told():
    array = _stored(np.zeros(10))
    os.ftruncate(array._descriptor, 50)
    with pytest.raises(UnreadableDataError, match="ends at byte 50, where 33 more"):
        array[np.arange(10)]


def test_the_file_is_closed_with_the_array():
    array = _stored(np.zeros(10))
    descriptor = array._descriptor
    os.fstat(descriptor)
    del array
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    closed = _stored(np.zeros(10))
    closed.close()
    closed.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        closed[np.array([0])]


@pytest.mark.parametrize("tile_bytes", [1, 100, 2**25])
@pytest.mark.parametrize("shape", [(7, 5), (6, 2, 3, 4), (1, 9), (5, 0, 2)])
def test_columns_first_become_rows_a_tile_at_a_time(shape, tile_bytes, monkeypatch):
    monkeypatch.setattr(arrays, "_TILE_BYTES", tile_bytes)
    array = np.random.default_rng(0).random(shape).astype(np.float16)
    descriptor = unpacked([b"head", array.tobytes(order="F")])
    pieces = list(rows_first(descriptor, offset=4, shape=shape, dtype=array.dtype))
    os.close(descriptor)
    assert b"".join(pieces) == array.tobytes()
    assert max(map(len, pieces)) <= max(tile_bytes, array[:1].nbytes)


def test_no_room_to_unpack_is_told_with_what_to_do(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "data.npz", inputs=np.zeros((10, 2)))

    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(UnreadableDataError, match=r"No space left on device.*numpy\.savez"):
        load.load_arrays(tmp_path / "data.npz")


_IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.zoo.exported import export
from worker.engine.config import FinetuneConfig
from worker.engine.data import Rows
from worker.engine.measure.quality import quality
from worker.engine.program import Program
from worker.engine.recovery.finetune import finetune
from worker.engine.recovery.setting import Setting

torch.set_num_threads(1)
program = Program.from_exported(export(nn.Linear(4096, 2).eval(), torch.zeros(2, 4096)))

def ignore(done, total):
    pass

def use(rows):
    train, held_out = rows.split(0.1, seed=0)
    setting = Setting(seed=0, validation=held_out)
    finetune(program, FinetuneConfig(batch_size=256), train, setting)
    return quality(program, program, rows, batch_size=256, on_batch=ignore)["row_count"]

use(Rows((np.zeros((512, 4096), np.float32),), np.zeros(512, np.int64)))
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = used + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print(use(Rows.read(Path(sys.argv[1]), program)))
"""


def _save_mostly_zeros(path: Path, save, *, rows: int, order: str) -> int:
    """A data set that is written fast, and packed no tighter than a data set may be."""
    inputs = np.zeros((rows, 4096), np.float32, order=order)
    inputs[:, :64] = np.random.default_rng(0).random((rows, 64))
    save(path, inputs=inputs, targets=np.arange(rows) % 2)
    return inputs.nbytes


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and limits the address space")
@pytest.mark.parametrize("order", ["C", "F"], ids=["rows_first", "columns_first"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_more_data_than_memory_trains_and_is_measured(save, order, tmp_path):
    path = tmp_path / "data.npz"
    size_bytes = _save_mostly_zeros(path, save, rows=24_000, order=order)
    room = 160 * 2**20
    assert size_bytes > 2 * room
    done = subprocess.run(
        [sys.executable, "-c", _IN_LITTLE_MEMORY, str(path), str(room)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        check=False,
    )
    assert done.stdout.strip() == "24000", done.stderr[-2000:]
