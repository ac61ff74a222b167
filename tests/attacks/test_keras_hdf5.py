"""Weights that are links, views, bombs: what HDF5 can do and no file of Keras does.

Those that reach other files are first shown to reach them, through plain h5py.
"""

import io
import struct

import h5py
import numpy as np
import pytest

from formats.errors import FormatError, KerasFileUnreadable, UnsafeFile
from formats.keras import inspect_h5, inspect_keras
from formats.keras.findings import Finding
from formats.keras.hdf5 import Hdf5
from tests.attacks import keras_exploits as exploits
from worker.engine.errors import UnreadableModelError
from worker.engine.readers.keras import read_keras
from worker.engine.readers.keras.weights import copy_checked

SECRET = np.full((3, 2), 7.0, np.float32)


@pytest.fixture
def other(tmp_path):
    """A file that no upload should reach."""
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = SECRET
        file.create_group("vars")["0"] = SECRET
    SECRET.tofile(tmp_path / "other.bin")
    return tmp_path


def external_link_to_an_array(file, other):
    file["layers/dense/vars/0"] = h5py.ExternalLink(str(other / "other.h5"), "/secret")


def external_link_to_a_group(file, other):
    del file["layers/dense/vars"]
    file["layers/dense/vars"] = h5py.ExternalLink(str(other / "other.h5"), "/vars")


def array_kept_in_another_file(file, other):
    file["layers/dense/vars"].create_dataset(
        "0", (3, 2), np.float32, external=[(str(other / "other.bin"), 0, 24)]
    )


def array_computed_from_another_file(file, other):
    layout = h5py.VirtualLayout((3, 2), np.float32)
    layout[:] = h5py.VirtualSource(str(other / "other.h5"), "secret", (3, 2))
    file["layers/dense/vars"].create_virtual_dataset("0", layout)


def soft_link(file, other):
    file["elsewhere"] = SECRET
    file["layers/dense/vars/0"] = h5py.SoftLink("/elsewhere")


def group_within_itself(file, other):
    file["layers/dense/vars/0"] = SECRET
    file["layers/dense/again"] = file["layers"]


def array_in_two_places(file, other):
    file["layers/dense/vars/0"] = SECRET
    file["layers/other"] = file["layers/dense/vars/0"]


def array_without_bytes(file, other):
    file["layers/dense/vars"].create_dataset("0", (2**40,), np.float32)


def array_of_packed_zeros(file, other):
    zeros = np.zeros((2**26,), np.uint8)
    file["layers/dense/vars"].create_dataset("0", data=zeros, compression="gzip")


def array_packed_by_a_plugin(file, other):
    file["layers/dense/vars"].create_dataset("0", data=SECRET, chunks=(3, 2), compression="lzf")


def array_of_texts(file, other):
    file["layers/dense/vars"].create_dataset("0", data=["a", "b"], dtype=h5py.string_dtype())


def array_of_references(file, other):
    file["layers/dense/vars"].create_dataset("0", (2,), h5py.ref_dtype)


def array_of_fields(file, other):
    file["layers/dense/vars"].create_dataset("0", (2,), np.dtype([("a", "f4"), ("b", "f4")]))


def array_of_complex_numbers(file, other):
    file["layers/dense/vars"]["0"] = np.zeros((3, 2), np.complex64)


def array_of_a_type_shared(file, other):
    file["type"] = np.dtype("f4")
    file["layers/dense/vars"].create_dataset("0", (3, 2), file["type"])


REACHING = (
    external_link_to_an_array,
    external_link_to_a_group,
    array_kept_in_another_file,
    array_computed_from_another_file,
)
EVERY = (
    *REACHING,
    soft_link,
    group_within_itself,
    array_in_two_places,
    array_without_bytes,
    array_of_packed_zeros,
    array_packed_by_a_plugin,
    array_of_texts,
    array_of_references,
    array_of_fields,
    array_of_complex_numbers,
    array_of_a_type_shared,
)


def build(attack, other, path):
    with h5py.File(path, "w") as file:
        values = file.create_group("layers/dense/vars")
        values["1"] = np.zeros(2, np.float32)
        attack(file, other)
    return path


@pytest.mark.parametrize("attack", REACHING)
def test_attack_reaches_another_file_in_plain_h5py(attack, other, tmp_path):
    with h5py.File(build(attack, other, tmp_path / "weights.h5")) as file:
        assert (file["layers/dense/vars/0"][()] == SECRET).all()


@pytest.mark.parametrize("attack", EVERY)
def test_attack_is_refused_by_the_check(attack, other, tmp_path):
    weights = build(attack, other, tmp_path / "weights.h5")
    path = exploits.write_keras(
        exploits.honest_config(), tmp_path / "model.keras", weights.read_bytes()
    )
    with pytest.raises(UnsafeFile):
        inspect_keras(path)
    with pytest.raises(FormatError):
        read_keras(path)


@pytest.mark.parametrize("attack", EVERY)
def test_attack_is_not_copied(attack, other, tmp_path):
    weights = build(attack, other, tmp_path / "weights.h5")
    with pytest.raises((UnsafeFile, KerasFileUnreadable)):
        copy_checked(weights, tmp_path / "copy.h5", where="model.weights.h5")


@pytest.mark.parametrize("version", ["latest", "v108"])
def test_layouts_that_keras_does_not_write_are_refused(version, tmp_path):
    with h5py.File(tmp_path / "weights.h5", "w", libver=version) as file:
        file["layers/dense/vars/0"] = SECRET
    path = exploits.write_keras(
        exploits.honest_config(), tmp_path / "model.keras", (tmp_path / "weights.h5").read_bytes()
    )
    with pytest.raises(UnsafeFile):
        inspect_keras(path)


def test_configurations_that_need_more_than_the_file_holds_are_refused(tmp_path):
    config = exploits.honest_config()
    config["config"]["layers"][1]["config"]["units"] = 2**30
    with pytest.raises(UnsafeFile, match="the file holds"):
        read_keras(exploits.write_keras(config, tmp_path / "model.keras"))


def test_weights_of_another_model_are_refused(tmp_path):
    config = exploits.honest_config()
    config["config"]["layers"][1]["config"]["units"] = 3
    with pytest.raises(UnreadableModelError, match="not those of its model"):
        read_keras(exploits.write_keras(config, tmp_path / "model.keras"))


def test_weights_that_are_missing_are_refused(tmp_path):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_group("layers/dense/vars")
    path = exploits.write_keras(
        exploits.honest_config(), tmp_path / "model.keras", buffer.getvalue()
    )
    with pytest.raises(UnreadableModelError):
        read_keras(path)


def test_files_changed_at_random_are_read_or_refused(tmp_path):
    """Every answer is one of ours, and comes soon."""
    random = np.random.default_rng(0)
    honest = np.frombuffer(exploits.honest_weights(), np.uint8)
    for _ in range(400):
        changed = honest.copy()
        for _ in range(random.integers(1, 4)):
            at = random.integers(8, len(changed))
            changed[at] = random.choice([0, 1, 255, random.integers(256), changed[at] ^ 8])
        content = changed[: random.integers(96, len(changed) + 1)].tobytes()
        try:
            hdf5 = Hdf5(io.BytesIO(content), offset=0, size_bytes=len(content))
            list(hdf5.arrays())
            hdf5.text_attribute("model_config")
        except Finding:
            pass


def test_parts_that_are_read_again_and_again_are_refused():
    """A header that goes on in the whole file, as often as it may."""
    block = 2**16
    parts = struct.pack("<HHB3xQQ", 16, 16, 0, 0x88, block - 8) * 2000
    content = bytearray(block + 0x80)
    content[:96] = exploits.honest_weights()[:96]
    struct.pack_into("<Q", content, 64, 0x60)
    struct.pack_into("<BxHLL4x", content, 0x60, 1, 65535, 1, 24)
    struct.pack_into("<HHB3xQQ", content, 0x70, 16, 16, 0, 0x88, block - 8)
    content[0x88 : 0x88 + len(parts)] = parts
    with pytest.raises(Finding, match="again and again"):
        list(Hdf5(io.BytesIO(content), offset=0, size_bytes=len(content)).arrays())


def test_addresses_outside_of_the_file_are_refused():
    content = bytearray(exploits.honest_weights())
    struct.pack_into("<Q", content, 64, 2**60)
    with pytest.raises(Finding, match="outside of the file"):
        list(Hdf5(io.BytesIO(content), offset=0, size_bytes=len(content)).arrays())


def test_older_files_are_checked_in_the_same_way(other, tmp_path):
    path = exploits.write_h5(exploits.honest_config(), tmp_path / "model.h5")
    with h5py.File(path, "a") as file:
        del file["model_weights/dense/dense/kernel"]
        file["model_weights/dense/dense/kernel"] = h5py.ExternalLink(
            str(other / "other.h5"), "/secret"
        )
    with pytest.raises(UnsafeFile):
        inspect_h5(path)
