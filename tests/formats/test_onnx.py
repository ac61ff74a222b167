"""What is found out about ONNX models, and which are refused before a library sees them."""

import io
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from formats import inspect_model
from formats.errors import (
    ArchiveTooLarge,
    ExternalDataMissing,
    FormatError,
    NotOnnx,
    PickledModule,
    TorchScriptFile,
    TruncatedFile,
    UnreadableFile,
    UnsafeFile,
    UnsupportedProgram,
)
from formats.onnx import inspect_onnx, open_onnx
from formats.protobuf import field_of, integer_of
from formats.tensors import TensorInfo
from tests.formats import onnx_models
from tests.formats.onnx_models import FLOAT, external, linear, model_of, outside, value, zip_of
from worker.engine.readers.onnx_file import read_checked_onnx


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def inspect(model, path):
    return inspect_onnx(onnx_models.save(model, path))


def refusal(model, path, kind=FormatError):
    data = model if isinstance(model, bytes) else model.SerializeToString()
    path.write_bytes(data)
    with pytest.raises(kind) as error:
        inspect_onnx(path)
    return error.value.detail


def test_model_is_described(path):
    info = inspect(linear(), path)
    assert info.inputs == (TensorInfo("x", "float32", ("batch", 4)),)
    assert info.outputs == (TensorInfo("y", "float32", ("batch", 3)),)
    assert info.parameter_count == 15
    assert info.opsets == {"": 18}
    assert info.ir_version == 9
    assert info.operators == {"Add": 1, "MatMul": 1}
    assert inspect_model(path, "onnx") == info


def test_initializer_that_is_listed_as_an_input_is_none(path):
    model = linear()
    model.graph.input.append(value("weight", [4, 3]))
    assert [each.name for each in inspect(model, path).inputs] == ["x"]


def test_sizes_left_open_get_names_of_their_own(path):
    model = model_of(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        [value("a", [None, -1, "dim_1"]), value("b", ["", 3, 0])],
        [value("y", None)],
    )
    info = inspect(model, path)
    assert [each.shape for each in info.inputs] == [
        ("dim_0", "dim_2", "dim_1"),
        ("dim_3", 3, "dim_4"),
    ]
    assert info.outputs is None


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.DOUBLE, "float64"),
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.BFLOAT16, "bfloat16"),
        (TensorProto.INT64, "int64"),
        (TensorProto.BOOL, "bool"),
        (TensorProto.COMPLEX64, "complex64"),
    ],
)
def test_dtypes_are_named_as_torch_names_them(kind, dtype, path):
    node = helper.make_node("Identity", ["x"], ["y"])
    info = inspect(model_of([node], [value("x", [2], kind)], [value("y", [2], kind)]), path)
    assert info.inputs[0].dtype == info.outputs[0].dtype == dtype


@pytest.mark.parametrize("is_raw", [True, False])
@pytest.mark.parametrize(
    "kind",
    sorted(
        set(TensorProto.DataType.values())
        - {TensorProto.UNDEFINED, TensorProto.FLOAT6E2M3, TensorProto.FLOAT6E3M2}
    ),
)
def test_tensor_of_each_dtype_is_counted_by_its_own_rule(kind, is_raw, path):
    shape = (3, 5)
    if kind == TensorProto.STRING:
        values = np.array([b"a"] * 15, dtype=object)
    else:
        values = np.ones(shape).astype(helper.tensor_dtype_to_np_dtype(kind))
    raw = is_raw and kind != TensorProto.STRING
    if raw:
        tensor = numpy_helper.from_array(values.reshape(shape), "t")
        assert tensor.data_type == kind
        assert tensor.raw_data
    else:
        tensor = helper.make_tensor("t", kind, shape, values.flatten().tolist())
    node = helper.make_node("Identity", ["t"], ["y"])
    model = model_of([node], [], [value("y", shape)], [tensor])
    info = inspect(model, path)
    name = TensorProto.DataType.Name(kind)
    assert info.parameter_count == (15 if "FLOAT" in name or name == "DOUBLE" else 0)
    tensor.dims[0] = 300
    detail = refusal(model_of([node], [], [value("y", shape)], [tensor]), path, UnsafeFile)
    assert "(300, 5)" in detail


def test_scalars_and_whole_numbers_are_no_parameters(path):
    model = linear()
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.float32(1), "scalar"),
            numpy_helper.from_array(np.arange(7), "numbers"),
        ]
    )
    assert inspect(model, path).parameter_count == 15


def nested(depth):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "leaf",
        [],
        [value("y", [2])],
        [numpy_helper.from_array(np.ones(2, np.float32), "inner")],
    )
    for _ in range(depth):
        branch = helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([branch], "branch", [], [value("y", [2])])
    return graph


def with_branches(depth):
    graph = nested(depth)
    graph.input.extend([value("x", [2]), value("c", [], TensorProto.BOOL)])
    model = model_of([], [], [])
    model.graph.CopyFrom(graph)
    return model


def test_graphs_in_graphs_are_counted(path):
    info = inspect(with_branches(2), path)
    assert info.operators == {"If": 3, "Identity": 4}
    assert info.parameter_count == 8


def test_graphs_too_deep_in_graphs_are_refused(path):
    leaf = nested(0)
    for _ in range(17):
        branch = helper.make_node("If", ["c"], ["y"], then_branch=leaf)
        leaf = helper.make_graph([branch], "branch", [], [value("y", [2])])
    model = model_of([], [], [])
    model.graph.CopyFrom(leaf)
    assert "more than 16 deep" in refusal(model, path, UnsupportedProgram)


def function(name, calls):
    nodes = [
        helper.make_node(op, ["x"], ["x"], domain="own" if op[0] == "f" else "") for op in calls
    ]
    return helper.make_function("own", name, ["x"], ["x"], nodes, [helper.make_opsetid("", 18)])


def calling(functions):
    return model_of(
        [helper.make_node("f0", ["x"], ["y"], domain="own")],
        [value("x", [2])],
        [value("y", [2])],
        opsets=[("", 18), ("own", 1)],
        functions=functions,
    )


def test_functions_of_the_model_are_counted(path):
    info = inspect(calling([function("f0", ["f1", "f1"]), function("f1", ["Relu"])]), path)
    assert info.operators == {"own::f0": 1, "own::f1": 2, "Relu": 1}
    assert info.opsets == {"": 18, "own": 1}


def test_functions_that_double_thirty_times_are_refused(path):
    functions = [function(f"f{index}", [f"f{index + 1}"] * 2) for index in range(30)]
    detail = refusal(calling([*functions, function("f30", ["Relu"])]), path, UnsupportedProgram)
    assert "more than 1000000 nodes" in detail


@pytest.mark.parametrize("calls", [[["f0"]], [["f1"], ["f0"]]])
def test_functions_that_call_themselves_are_refused(calls, path):
    functions = [function(f"f{index}", called) for index, called in enumerate(calls)]
    assert "or themselves" in refusal(calling(functions), path, UnsupportedProgram)


# What is no ONNX model, and what it is said to look like.


@pytest.mark.parametrize(
    ("data", "looks_like"),
    [
        (b"", "an empty file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
        (b"GGUF" + bytes(99), "a GGUF model"),
        (b"<html>", "a web page"),
        (b"hello world", "none of the kinds of file known here"),
        (integer_of(1, 9) + field_of(2, b"maker"), "or a model that is cut short"),
        (integer_of(1, 1) + field_of(2, field_of(1, b"")), "or a model that is cut short"),
        (integer_of(1, 1) + b"\x12\x00" + integer_of(99, 1), "another kind of protobuf"),
    ],
)
def test_what_is_no_model_is_named(data, looks_like, path):
    detail = refusal(data, path, NotOnnx)
    assert looks_like in detail
    assert "torch.onnx.export(" in detail


def test_pickles_are_refused_with_the_recipe(path):
    assert "torch.export.save(" in refusal(b"\x80\x02}q\x00.", path, PickledModule)
    zip_of({"m/data.pkl": b"", "m/version": b"3"}, path)
    assert "torch.export.save(" in refusal(path.read_bytes(), path, PickledModule)
    zip_of({"m/data.pkl": b"", "m/constants.pkl": b""}, path)
    assert "TorchScript" in refusal(path.read_bytes(), path, TorchScriptFile)


@pytest.mark.parametrize(
    ("members", "looks_like"),
    [
        ({"model.weights.h5": b"", "config.json": b""}, "a Keras model"),
        ({"m/archive_format": b"pt2"}, "an exported program of torch"),
        ({"m/saved_model.pb": b"", "m/variables/x": b""}, "a TensorFlow SavedModel"),
        ({"a.onnx": linear(), "b/b.onnx": linear()}, "2 ONNX models, 'a.onnx' and 'b/b.onnx'"),
        ({"x": b""}, "a zip archive of something else"),
    ],
)
def test_archive_of_something_else_is_named(members, looks_like, path):
    zip_of(members, path)
    assert looks_like in refusal(path.read_bytes(), path, NotOnnx)


def test_model_cut_short_is_refused(path):
    data = linear().SerializeToString()
    for length in range(len(data)):
        refusal(data[:length], path)
    assert "middle of a field" in refusal(data[: len(data) // 2], path, TruncatedFile)


def test_model_with_damage_within_is_refused(path):
    data = (
        integer_of(1, 9) + field_of(8, integer_of(2, 18)) + field_of(7, field_of(1, b"\x0a\x05x"))
    )
    assert "NodeProto" in refusal(data, path, UnreadableFile)


# Zips.


def test_zip_with_external_data_is_read(tmp_path):
    model, data = external(offset=8, length=48)
    for root in ("", "folder/"):
        path = zip_of(
            {root + "m.onnx": model, root + "weights.bin": bytes(8) + data},
            tmp_path / "model.zip",
            method=zipfile.ZIP_DEFLATED,
        )
        assert inspect_onnx(path).parameter_count == 15
        with open_onnx(path) as checked:
            assert checked.external_locations == ("weights.bin",)
            assert b"".join(checked.external_chunks("weights.bin")) == bytes(8) + data
        read = read_checked_onnx(path)
        assert read.SerializeToString() == linear().SerializeToString()


@pytest.mark.parametrize("tool", ["shutil", "zipfile"])
def test_zip_of_a_folder_as_tools_make_it_is_read(tool, tmp_path):
    folder = tmp_path / "in" / "folder"
    (folder / "weights").mkdir(parents=True)
    model, data = external("weights/w.bin")
    onnx_models.save(model, folder / "model.onnx")
    (folder / "weights" / "w.bin").write_bytes(data)
    (folder / "README.md").write_text("not looked at")
    path = tmp_path / "model.zip"
    if tool == "shutil":
        shutil.make_archive(str(path.with_suffix("")), "zip", folder.parent)
    else:
        subprocess.run([sys.executable, "-m", "zipfile", "-c", path, folder], check=True)
    assert inspect_onnx(path).parameter_count == 15


def test_shadows_that_macos_writes_are_passed_over(tmp_path):
    members = {"m.onnx": linear(), "__MACOSX/._m.onnx": b"", "._m.onnx": b""}
    assert inspect_onnx(zip_of(members, tmp_path / "model.zip")).parameter_count == 15


def test_large_model_in_a_zip_is_read_by_way_of_a_file(tmp_path):
    model = linear()
    model.graph.initializer.append(numpy_helper.from_array(np.ones(5_000_000, np.float32), "big"))
    path = zip_of({"m.onnx": model}, tmp_path / "model.zip")
    assert inspect_onnx(path).parameter_count == 5_000_015


def test_external_data_beside_a_bare_model_are_asked_for(path):
    model, _ = external()
    detail = refusal(model, path, ExternalDataMissing)
    assert "'weights.bin'" in detail
    assert "zip the whole folder" in detail


def test_external_data_that_are_not_in_the_zip_are_asked_for(tmp_path):
    path = zip_of({"a/m.onnx": external()[0], "weights.bin": bytes(48)}, tmp_path / "m.zip")
    with pytest.raises(ExternalDataMissing):
        inspect_onnx(path)


@pytest.mark.parametrize(
    ("places", "reason"),
    [
        ({"offset": 8}, "reaches to byte 56 of it, and it has 48"),
        ({"length": 44}, "has 44 bytes, not 48"),
        ({"offset": -1}, "'-1' as its offset"),
        ({"length": "0x30"}, "'0x30' as its length"),
        ({"offset": 2**63}, "reaches to byte"),
        ({"basepath": "/etc"}, "'basepath'"),
    ],
)
def test_external_data_in_a_wrong_place_are_refused(places, reason, tmp_path):
    model, data = external(**places)
    path = zip_of({"m.onnx": model, "weights.bin": data}, tmp_path / "m.zip")
    with pytest.raises(UnsafeFile) as error:
        inspect_onnx(path)
    assert reason in error.value.detail


def test_tensors_that_share_bytes_are_refused(tmp_path):
    model = linear()
    outside(model.graph.initializer[0], "w", offset=0)
    outside(model.graph.initializer[1], "w", offset=44)
    path = zip_of({"m.onnx": model, "w": bytes(60)}, tmp_path / "m.zip")
    with pytest.raises(UnsafeFile, match="claim the same bytes"):
        inspect_onnx(path)


def test_external_data_of_a_constant_are_filled_in_too(tmp_path):
    tensor = numpy_helper.from_array(np.arange(4, dtype=np.float32), "c")
    data = outside(tensor, "c.bin")
    constant = helper.make_node("Constant", [], ["y"], value=tensor)
    path = zip_of(
        {"m.onnx": model_of([constant], [], [value("y", [4])]), "c.bin": data}, tmp_path / "m"
    )
    assert inspect_onnx(path).parameter_count == 0
    [node] = read_checked_onnx(path).graph.node
    assert numpy_helper.to_array(node.attribute[0].t).tolist() == [0, 1, 2, 3]


def test_texts_training_and_metadata_do_not_get_through(path):
    model = linear()
    model.doc_string = "text"
    model.metadata_props.add(key="a", value="b")
    model.training_info.add()
    onnx_models.save(model, path)
    assert read_checked_onnx(path).SerializeToString() == linear().SerializeToString()


# What no honest model holds.


def changed(change):
    model = linear()
    change(model)
    return model


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.graph.initializer[0].dims.__setitem__(0, 2**39), "not"),
        (lambda m: m.graph.initializer[0].dims.__setitem__(0, -4), "cannot have the shape (-4, 3)"),
        (lambda m: m.graph.initializer[0].dims.extend([1] * 99), "cannot have the shape"),
        (lambda m: m.graph.initializer[0].dims.__setitem__(0, 2**62), "cannot have the shape"),
        (lambda m: setattr(m.graph.initializer[0], "raw_data", bytes(44)), "44 bytes, not 48"),
        (lambda m: m.graph.initializer[0].float_data.append(1), "in two places"),
        (lambda m: setattr(m.graph.initializer[0], "data_location", 1), "does not say clearly"),
        (lambda m: m.graph.initializer[0].external_data.add(key="location"), "in two places"),
        (lambda m: setattr(m.graph.initializer[1], "name", "weight"), "two initializers"),
        (lambda m: m.graph.input.append(value("x", [1])), "two inputs"),
        (lambda m: setattr(m.graph.node[0], "name", "a\x1b[31m"), "characters"),
        (lambda m: setattr(m.graph.node[0], "name", "a" * 3000), "too long"),
        (lambda m: m.opset_import.add(domain="ai.onnx", version=3), "two versions"),
    ],
)
def test_what_no_honest_model_holds_is_refused(change, reason, path):
    assert reason in refusal(changed(change), path, UnsafeFile)


def sequence(model):
    model.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("y", FLOAT, [2]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (sequence, "output 'y' is no tensor"),
        (lambda m: m.graph.input[0].ClearField("type"), "input 'x' is without a type"),
        (lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"), "has no shape"),
        (
            lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 8),
            "8 as its data type",
        ),
        (lambda m: setattr(m.graph.initializer[0], "data_type", 99), "99 as its data type"),
        (lambda m: m.graph.sparse_initializer.add(), "sparse"),
        (lambda m: m.graph.initializer[0].segment.SetInParent(), "segments"),
    ],
)
def test_what_cannot_be_taken_is_named(change, reason, path):
    assert reason in refusal(changed(change), path, UnsupportedProgram)


def test_compression_bomb_is_refused(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m.onnx", bytes(10_000_000))
    path = tmp_path / "m.zip"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ArchiveTooLarge):
        inspect_onnx(path)


def test_what_onnx_itself_saves_is_read(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    onnx.save_model(
        linear(),
        folder / "model.onnx",
        save_as_external_data=True,
        location="all.bin",
        size_threshold=0,
    )
    path = zip_of({each.name: each.read_bytes() for each in folder.iterdir()}, tmp_path / "m.zip")
    assert inspect_onnx(path).parameter_count == 15
    assert read_checked_onnx(path).graph.initializer == linear().graph.initializer
