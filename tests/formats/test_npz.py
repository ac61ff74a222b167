"""Data sets in .npz files."""

import io
import zipfile

import numpy as np
import pytest

from formats import inspect_dataset
from formats.errors import DatasetUnreadable, FormatError, UnknownFormat, UnsafeFile
from formats.npz import inspect_npz
from formats.tensors import TensorInfo
from worker.engine import load
from worker.engine.load import load_arrays


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.npz"


def refusal(path):
    with pytest.raises(FormatError) as error:
        inspect_dataset(path, "npz")
    return error.value


def write_member(path, data, name="inputs.npy"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, data)


def read(array):
    """All rows, which may be on disk."""
    return array[np.arange(len(array))]


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.fixture(params=["read at once", "left on disk"])
def either(request, monkeypatch):
    """Small arrays are read at once: what is on disk must be the same."""
    if request.param == "left on disk":
        monkeypatch.setattr(load, "_SMALL_BYTES", -1)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_data_set_of_numpy_is_accepted_described_and_opened(save, path):
    inputs = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    targets = np.arange(4)
    save(path, inputs=inputs, targets=targets)
    info = inspect_npz(path)
    assert info.arrays == {
        "inputs": TensorInfo("inputs", "float32", (4, 2, 3)),
        "targets": TensorInfo("targets", "int64", (4,)),
    }
    assert info.row_count == 4
    arrays = load_arrays(path)
    np.testing.assert_array_equal(read(arrays["inputs"]), inputs)
    np.testing.assert_array_equal(read(arrays["targets"]), targets)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize(
    "dtype",
    ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"],
)
def test_numbers_of_ordinary_dtypes_are_accepted(dtype, path):
    array = np.ones((3, 2), dtype=dtype)
    np.savez(path, inputs=array)
    assert inspect_npz(path).arrays["inputs"].dtype == dtype
    np.testing.assert_array_equal(read(load_arrays(path)["inputs"]), array)


@pytest.mark.usefixtures("either")
def test_columns_first_is_accepted_and_read_right(path):
    array = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    np.savez(path, inputs=array)
    assert inspect_npz(path).locations["inputs"].fortran_order
    np.testing.assert_array_equal(read(load_arrays(path)["inputs"]), array)


def test_several_inputs_are_numbered(path):
    np.savez(path, inputs_0=np.ones((3, 2)), inputs_1=np.ones((3, 5)), targets=np.ones(3))
    assert inspect_npz(path).row_count == 3


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_numpys_header_is_read(version, path):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ones((2, 3)), version=version)
    write_member(path, buffer.getvalue())
    assert inspect_npz(path).arrays["inputs"].shape == (2, 3)


@pytest.mark.parametrize(
    "names",
    [
        ["x"],
        ["targets"],
        ["inputs", "inputs_0"],
        ["inputs_1"],
        ["inputs_0", "inputs_2"],
        ["inputs", "labels"],
    ],
)
def test_array_of_another_name_is_refused_with_the_names_that_are_taken(names, path):
    np.savez(path, **{name: np.ones((3, 2)) for name in names})
    error = refusal(path)
    assert isinstance(error, DatasetUnreadable)
    assert "'inputs'" in str(error)
    assert "'targets'" in str(error)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"inputs": np.ones((3, 2)), "targets": np.ones(4)}, "inputs 3, targets 4"),
        ({"inputs": np.ones((0, 2))}, "no rows"),
        ({"inputs": np.array(1.0)}, "no rows"),
        ({"inputs": np.array([{}, []], dtype=object)}, "pickles"),
        ({"inputs": np.zeros(2, dtype=[("a", "f4"), ("b", "i4")])}, "fields"),
        ({"inputs": np.zeros(2, dtype=">f4")}, ">f4"),
        ({"inputs": np.zeros(2, dtype=complex)}, "<c16"),
        ({"inputs": np.array(["a", "b"])}, "<U1"),
    ],
)
def test_array_that_cannot_be_used_is_refused_with_the_reason(arrays, reason, path):
    np.savez(path, **arrays)
    error = refusal(path)
    assert isinstance(error, DatasetUnreadable)
    assert reason in str(error)
    with pytest.raises(FormatError):
        load_arrays(path)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (__import__('os').getpid(),), }\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': exec('1')}\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999999999999,), }\n",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (1,), }\n",
        "{'shape': (1,)}\n",
        "\n",
        "(" * 1000,
    ],
)
def test_header_that_numpy_would_not_write_is_refused(header, path):
    text = header.encode()
    write_member(path, b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(4))
    assert isinstance(refusal(path), UnsafeFile)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01",
        b"\x93NUMPY\x09\x00" + bytes(200),
        b"not an array",
        npy(np.ones((3, 2)))[:-1],
        npy(np.ones((3, 2))) + b"\x00",
    ],
)
def test_member_that_is_no_whole_array_is_refused(data, path):
    write_member(path, data)
    assert refusal(path).code in {"dataset.unreadable", "file.unsafe"}


def test_header_longer_than_the_member_is_refused(path):
    write_member(path, b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little") + b"{}")
    assert isinstance(refusal(path), UnsafeFile)


@pytest.mark.parametrize(
    ("data", "looks_like"), [(npy(np.ones(3)), "NumPy array"), (b"a,b\n1,2\n", "none of the kinds")]
)
def test_file_that_is_no_archive_is_a_data_sets_error(data, looks_like, path):
    path.write_bytes(data)
    error = refusal(path)
    assert error.code == "dataset.unreadable"
    assert looks_like in str(error)


def test_archive_of_something_else_is_refused(path):
    write_member(path, b"x", name="readme.txt")
    assert refusal(path).code == "dataset.unreadable"


def test_damaged_elements_are_found_when_they_are_unpacked(path):
    np.savez_compressed(path, inputs=np.random.default_rng(0).random((50, 50)))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(FormatError):
        load_arrays(path)


def test_format_of_a_model_is_no_format_of_a_data_set(path):
    with pytest.raises(UnknownFormat, match="npz"):
        inspect_dataset(path, "pt2")
