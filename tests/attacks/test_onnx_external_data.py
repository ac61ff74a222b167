"""ONNX models that name files of others as their weights, and small ones that become large.

onnx#3991, #5917, #7040 and #7717 are paths, links and hard links that got past the checks of
ONNX's own loader. The installed version refuses them all. Where a library still falls for one, the
attack is proven; refused it is in any case, as no path from a model is ever opened here.
"""

import contextlib
import os
import stat
import zipfile

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
from onnx import helper

from formats.errors import ExternalDataMissing, UnsafeFile, UnsupportedProgram
from formats.onnx import inspect_onnx
from tests.formats.onnx_models import external, linear, model_of, outside, save, value, zip_of
from worker.engine.readers.onnx_file import read_checked_onnx

SECRET = np.arange(100, 112, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.bin"
    path.write_bytes(SECRET.tobytes())
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    return path


def outside_folder(folder, secret):
    return "../secret.bin"


def absolute(folder, secret):
    return str(secret)


def inner_detour(folder, secret):
    (folder / "inner").mkdir()
    return "inner/../../secret.bin"


def link(folder, secret):
    (folder / "weights.bin").symlink_to(secret)
    return "weights.bin"


def link_to_a_folder(folder, secret):
    (folder / "inner").symlink_to(secret.parent)
    return "inner/secret.bin"


def hard_link(folder, secret):
    os.link(secret, folder / "weights.bin")
    return "weights.bin"


def memory_of_onnxruntime(folder, secret):
    """onnxruntime's own mark for elements that are in its memory; the offset is an address."""
    return "*/_ORT_MEM_ADDR_/*"


def device(folder, secret):
    return "/dev/zero"


def web_address(folder, secret):
    return "https://127.0.0.1/weights.bin"


def network_share(folder, secret):
    return "\\\\127.0.0.1\\share\\weights.bin"


ATTACKS = [
    outside_folder,
    absolute,
    inner_detour,
    link,
    link_to_a_folder,
    hard_link,
    memory_of_onnxruntime,
    device,
    web_address,
    network_share,
]
# What onnxruntime 1.32 still reads.
PROVEN_IN_ONNXRUNTIME = {hard_link}


def bare(attack, folder, secret):
    return save(external(attack(folder, secret))[0], folder / "model.onnx")


def answer_of_onnxruntime(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options)
    return session.run(None, {"x": np.eye(4, dtype=np.float32)})[0] - 1


@pytest.mark.parametrize("attack", sorted(PROVEN_IN_ONNXRUNTIME, key=str))
def test_attack_reads_the_secret_in_plain_onnxruntime(attack, folder, secret):
    assert (answer_of_onnxruntime(bare(attack, folder, secret)) == SECRET).all()


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_installed_onnx_reads_no_secret(attack, folder, secret):
    # When this fails, it is a proof: the attack works against this version.
    with contextlib.suppress(onnx.checker.ValidationError):
        onnx.load(bare(attack, folder, secret))
        pytest.fail("onnx opened what the model names")


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_beside_a_bare_model_is_refused(attack, folder, secret):
    path = bare(attack, folder, secret)
    for read in (inspect_onnx, read_checked_onnx):
        with pytest.raises((UnsafeFile, ExternalDataMissing)):
            read(path)


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_in_an_archive_is_refused(attack, folder, secret):
    model, _ = external(attack(folder, secret))
    path = zip_of({"model/model.onnx": model, "secret.bin": bytes(48)}, folder / "model.zip")
    for read in (inspect_onnx, read_checked_onnx):
        with pytest.raises((UnsafeFile, ExternalDataMissing)):
            read(path)


def test_link_as_a_member_of_the_archive_is_refused(folder, secret):
    model, _ = external("weights.bin")
    path = zip_of({"model.onnx": model}, folder / "model.zip")
    with zipfile.ZipFile(path, "a") as archive:
        entry = zipfile.ZipInfo("weights.bin")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, str(secret))
    with pytest.raises(UnsafeFile, match="link"):
        inspect_onnx(path)


def test_member_that_is_called_as_a_path_outside_is_refused(folder):
    model, data = external("../secret.bin")
    path = zip_of({"model/model.onnx": model, "model/../secret.bin": data}, folder / "model.zip")
    with pytest.raises(UnsafeFile, match="leaves its folder"):
        inspect_onnx(path)


def many_tensors_of_the_same_bytes(folder):
    """A file of 4 MB that is 25 times as much in memory."""
    model = model_of([helper.make_node("Identity", ["t0"], ["y"])], [], [value("y", None)])
    for index in range(25):
        tensor = model.graph.initializer.add(name=f"t{index}", data_type=1, dims=[1_000_000])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights.bin")
    (folder / "weights.bin").write_bytes(bytes(4_000_000))
    return save(model, folder / "model.onnx")


def test_many_tensors_of_the_same_bytes_fill_memory_in_plain_onnx(folder):
    model = onnx.load(many_tensors_of_the_same_bytes(folder))
    assert sum(len(tensor.raw_data) for tensor in model.graph.initializer) == 100_000_000


def test_many_tensors_of_the_same_bytes_are_refused(folder):
    path = many_tensors_of_the_same_bytes(folder)
    members = {name: (folder / name).read_bytes() for name in ("model.onnx", "weights.bin")}
    assert path.stat().st_size < 10_000
    with pytest.raises(UnsafeFile, match="claim the same bytes"):
        inspect_onnx(zip_of(members, folder / "model.zip"))


def doubling(levels):
    """Functions that each call the next one twice."""
    opset = helper.make_opsetid("", 18)
    functions = []
    for level in range(levels):
        callee = ("Relu", "") if level == levels - 1 else (f"f{level + 1}", "own")
        nodes = [
            helper.make_node(callee[0], ["x"], ["h"], domain=callee[1]),
            helper.make_node(callee[0], ["h"], ["y"], domain=callee[1]),
        ]
        opsets = [opset, helper.make_opsetid("own", 1)]
        functions.append(helper.make_function("own", f"f{level}", ["x"], ["y"], nodes, opsets))
    return model_of(
        [helper.make_node("f0", ["x"], ["y"], domain="own")],
        [value("x", [2])],
        [value("y", [2])],
        opsets=[("", 18), ("own", 1)],
        functions=functions,
    )


def test_functions_that_double_grow_without_end_in_plain_onnx():
    model = doubling(12)
    assert model.ByteSize() < 3000
    assert len(onnx.inliner.inline_local_functions(model).graph.node) == 4096


def test_functions_that_double_are_refused(tmp_path):
    with pytest.raises(UnsupportedProgram, match="nodes"):
        inspect_onnx(save(doubling(40), tmp_path / "m.onnx"))


def test_weight_that_claims_a_terabyte_is_refused(tmp_path):
    model = linear()
    outside(model.graph.initializer[0], "weights.bin")
    model.graph.initializer[0].dims[0] = 2**38
    path = zip_of({"m.onnx": model, "weights.bin": bytes(48)}, tmp_path / "m.zip")
    with pytest.raises(UnsafeFile, match="reaches to byte"):
        inspect_onnx(path)


def test_honest_model_that_the_attacks_start_from_is_read(tmp_path):
    model, data = external()
    path = zip_of({"m.onnx": model, "weights.bin": data}, tmp_path / "m.zip")
    assert read_checked_onnx(path).graph.initializer == linear().graph.initializer
