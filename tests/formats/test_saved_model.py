"""What is found out about SavedModels, and which are refused before a library sees them."""

import shutil

import pytest

from formats import inspect_model
from formats.errors import (
    ArchiveTooLarge,
    FormatError,
    NotASavedModel,
    PickledModule,
    TruncatedFile,
    UnreadableFile,
    UnsafeFile,
    UnsupportedProgram,
)
from formats.protobuf import field_of, integer_of
from formats.saved_model import inspect_saved_model, open_saved_model
from formats.tensors import TensorInfo
from tests.formats.saved_models import (
    BARE,
    CONSTANT,
    DATA,
    FLOAT,
    FUNCTION,
    INT64,
    TEXT,
    USER,
    calling,
    constant,
    entry,
    function,
    members,
    node,
    saved_model,
    saved_object,
    tar_of,
    tensor_info,
    text,
    variable,
    zip_of,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.zip"


@pytest.fixture
def inspect(path):
    return lambda **parts: inspect_saved_model(zip_of(members(saved_model(**parts)), path))


@pytest.fixture
def refusal(path):
    def refusal(kind=FormatError, /, **parts):
        zip_of(members(saved_model(**parts)), path)
        with pytest.raises(kind) as error:
            inspect_saved_model(path)
        return error.value.detail

    return refusal


def test_model_is_described(inspect, path):
    info = inspect()
    assert info.inputs == (TensorInfo("x", "float32", ("dim_0", 4)),)
    assert info.outputs == (TensorInfo("y", "float32", ("dim_1", 3)),)
    assert info.parameter_count == 15
    assert inspect_model(path, "saved_model") == info


@pytest.mark.parametrize(
    ("name", "inputs", "outputs", "parameter_count"),
    [
        # Each weight, bias, and what a batch normalization has.
        ("cnn", ("image", 8, 8, 3), 5, 108 + 4 + 16 + 36 + 4 + 24 + 6 + 30 + 5),
        ("grouped", ("image", 6, 6, 4), 8, 144 + 8 + 16),
        ("recurrent", ("steps", 7, 4), 2, 96 + 144 + 24 + 90 + 75 + 30 + 10 + 2),
    ],
)
def test_model_that_keras_exported_is_described(name, inputs, outputs, parameter_count):
    info = inspect_saved_model(DATA / f"{name}.zip")
    assert info.inputs == (TensorInfo(inputs[0], "float32", ("dim_0", *inputs[1:])),)
    assert info.outputs == (TensorInfo("output_0", "float32", ("dim_1", outputs)),)
    assert info.parameter_count == parameter_count


@pytest.mark.parametrize("root", ["", "model/"])
@pytest.mark.parametrize("mode", ["zip", "w", "w:gz"])
def test_each_kind_of_archive_is_read(root, mode, tmp_path):
    files = {root + name: data for name, data in members().items()}
    files[root + "fingerprint.pb"] = files[root + "assets/a.txt"] = files[root + "README"] = b"x"
    files["__MACOSX/._saved"] = b""
    path = tmp_path / "model"
    zip_of(files, path) if mode == "zip" else tar_of(files, path, mode=mode)
    assert inspect_saved_model(path).parameter_count == 15
    target = tmp_path / "unpacked"
    with open_saved_model(path) as model:
        assert model.variable_bytes == 81
        model.unpack(target)
    assert sorted(str(each.relative_to(target)) for each in target.rglob("*")) == [
        "saved_model.pb",
        "variables",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    ]


@pytest.mark.parametrize("form", ["zip", "tar", "gztar"])
def test_folder_as_python_packs_it_is_read(form, tmp_path):
    folder = tmp_path / "in" / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "assets").mkdir()
    for name, data in members().items():
        (folder / name).write_bytes(data)
    path = shutil.make_archive(str(tmp_path / "model"), form, folder.parent)
    assert inspect_model(type(folder)(path), "saved_model").parameter_count == 15


def test_what_is_handed_on_has_no_savers_and_is_accepted_again(path, tmp_path):
    zip_of(members(saved_model(functions=[function("spare", node("StringJoin"))])), path)
    with open_saved_model(path) as model:
        model.unpack(tmp_path / "clean")
    clean = (tmp_path / "clean" / "saved_model.pb").read_bytes()
    for gone in (b"RestoreV2", b"SaveV2", b"StringJoin", b"saver_filename", b"Placeholder"):
        assert gone not in clean
    for kept in (b"MatMul", b"StatefulPartitionedCall", b"2.21.0", b"serving_default"):
        assert kept in clean
    assert inspect_saved_model(zip_of(members(clean), path)).parameter_count == 15


def test_constant_of_an_object_is_kept(path, tmp_path):
    objects = [
        saved_object(USER, signatures=1),
        saved_object(USER, serving_default=2),
        saved_object(BARE, text(1, "serve")),
        saved_object(CONSTANT, text(1, "kept")),
    ]
    nodes = [node("Const", "kept", value=constant(2)), node("Const", "left_out")]
    zip_of(members(saved_model(objects=objects, nodes=nodes, bound=(3,))), path)
    with open_saved_model(path) as model:
        assert model.info.parameter_count == 0
        model.unpack(tmp_path / "clean")
    clean = (tmp_path / "clean" / "saved_model.pb").read_bytes()
    assert b"kept" in clean
    assert b"left_out" not in clean


def test_output_without_a_shape_leaves_outputs_open(inspect):
    without = text(1, "y:0") + integer_of(2, FLOAT)
    signature = field_of(1, entry("x", tensor_info("x:0", FLOAT, 2)))
    assert inspect(signature=signature + field_of(2, entry("y", without))).outputs is None


def test_inputs_are_in_the_order_of_their_names(inspect):
    signature = b"".join(
        field_of(1, entry(name, tensor_info(name, INT64, 2))) for name in ("b", "a")
    ) + field_of(2, entry("y", tensor_info("y", FLOAT, 2)))
    assert [each.name for each in inspect(signature=signature).inputs] == ["a", "b"]


# Operations.


@pytest.mark.parametrize(
    ("operator", "kind", "reason"),
    [
        ("WriteFile", UnsafeFile, "reads or writes files"),
        ("ReadFile", UnsafeFile, "reads or writes files"),
        ("MatchingFiles", UnsafeFile, "reads or writes files"),
        ("ImmutableConst", UnsafeFile, "reads or writes files"),
        ("EagerPyFunc", UnsafeFile, "calls Python"),
        ("PyFunc", UnsafeFile, "calls Python"),
        ("PrintV2", UnsafeFile, "take tf.print out"),
        ("LookupTableFindV2", UnsupportedProgram, "lookup table"),
        ("HashTableV2", UnsupportedProgram, "lookup table"),
        ("TensorSliceDataset", UnsupportedProgram, "data pipeline"),
        ("IteratorGetNext", UnsupportedProgram, "data pipeline"),
        ("MadeUp", UnsupportedProgram, "'MadeUp'"),
        ("spare", UnsupportedProgram, "'spare'"),
    ],
)
@pytest.mark.parametrize("place", ["called", "not called", "the graph itself"])
def test_operation_that_is_not_on_the_list_is_refused(operator, kind, reason, place, refusal):
    harm = function("harm", node(operator))
    body = function("again", node("If", then_branch=calling("harm")))
    objects = saved_object(FUNCTION, text(1, "again"))
    parts = {
        "called": {"functions": [harm, body], "objects": [saved_object(USER), objects]},
        "not called": {"functions": [harm]},
        "the graph itself": {"nodes": [node(operator)]},
    }
    assert reason in refusal(kind, **parts[place])


@pytest.mark.parametrize("operator", ["RestoreV2", "SaveV2", "MergeV2Checkpoints", "StringJoin"])
def test_what_savers_do_is_refused_where_it_can_be_called(operator, refusal):
    harm = function("harm", node(operator))
    for objects in (
        [saved_object(USER), saved_object(FUNCTION, text(1, "harm"))],
        [saved_object(USER), saved_object(BARE, text(1, "harm"))],
        [saved_object(USER), saved_object(12, text(2, "harm"))],
    ):
        detail = refusal(UnsafeFile, functions=[harm], objects=objects)
        assert f"the operation {operator}, which reads or writes files" in detail


@pytest.mark.parametrize(
    "hidden",
    [
        {"f": calling("harm")},
        {"branches": field_of(1, field_of(9, text(1, "harm")))},
        {"f": field_of(10, text(1, "body"), field_of(2, entry("g", calling("harm"))))},
    ],
)
def test_function_that_is_named_anywhere_counts_as_called(hidden, refusal):
    functions = [function("harm", node("RestoreV2")), function("way", node("Case", **hidden))]
    objects = [saved_object(USER), saved_object(FUNCTION, text(1, "way"))]
    assert "RestoreV2" in refusal(UnsafeFile, functions=functions, objects=objects)
    functions[1] = function("way", node("NoOp"), **hidden)
    assert "RestoreV2" in refusal(UnsafeFile, functions=functions, objects=objects)


def test_function_that_is_not_there_is_refused(refusal):
    objects = [saved_object(USER), saved_object(FUNCTION, text(1, "none"))]
    assert "is not there" in refusal(UnsafeFile, objects=objects)


def test_functions_that_double_or_call_themselves_are_refused(refusal):
    objects = [saved_object(USER), saved_object(FUNCTION, text(1, "f0"))]

    def twice(index, called):
        call = node("PartitionedCall", f=calling(called))
        return function(f"f{index}", call, call)

    doubling = [twice(index, f"f{index + 1}") for index in range(30)]
    functions = [*doubling, function("f30", node("NoOp"))]
    detail = refusal(UnsupportedProgram, functions=functions, objects=objects)
    assert "more than 1000000 nodes" in detail
    detail = refusal(UnsupportedProgram, functions=[twice(0, "f0")], objects=objects)
    assert "or themselves" in detail


@pytest.mark.parametrize("shape", [(2**20, 2**20), (2**14, 2**15), (2**41,), (-1,), (1,) * 99])
def test_constant_that_becomes_too_large_is_refused(shape, refusal):
    functions = [function("big", node("Const", value=constant(*shape)))]
    assert refusal(UnsafeFile, functions=functions)


def test_constant_that_is_no_number_is_refused(refusal):
    for number in (14, 15):
        handle = field_of(8, integer_of(1, FLOAT), field_of(number, b""))
        functions = [function("odd", node("Const", value=handle))]
        assert "no number" in refusal(UnsafeFile, functions=functions)


# Objects.


@pytest.mark.parametrize(
    ("which", "reason"),
    [
        (saved_object(5, b""), "files of its own"),
        (saved_object(10, b""), "lookup table"),
        (saved_object(13, b"package.Class"), "a class of its own"),
        (saved_object(14, b""), "a class of its own"),
        (saved_object(16, b"saver"), "a class of its own"),
        (variable(TEXT, 2), "data type or shape"),
        (variable(FLOAT, -1), "data type or shape"),
    ],
)
def test_object_that_is_not_taken_is_named(which, reason, refusal):
    objects = [saved_object(USER), which]
    assert reason in refusal(UnsupportedProgram, objects=objects)


def test_object_of_two_kinds_is_refused(refusal):
    objects = [saved_object(USER), variable(FLOAT, 2) + field_of(5)]
    assert "2 kinds" in refusal(UnsafeFile, objects=objects)


def test_variables_that_are_not_there_are_refused(refusal):
    objects = [saved_object(USER), *[variable(FLOAT, 2**20)] * 5]
    assert "need 20971520 bytes, and 76" in refusal(UnsafeFile, objects=objects)


# Signatures.


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"tags": ("train",)}, "its tags: 'train'"),
        ({"tags": ("serve", "tpu")}, "'serve', 'tpu'"),
        ({"tags": ()}, "its tags: none"),
        ({"objects": ()}, "as TensorFlow 1 wrote it"),
        ({"signature_name": "predict"}, "its signatures: 'predict'"),
        ({"signature": field_of(1, entry("x", tensor_info("x", TEXT, 2)))}, "no dense tensor"),
        ({"signature": field_of(1, entry("x", integer_of(2, FLOAT)))}, "has no shape"),
        ({"signature": field_of(1, entry("x", tensor_info("x", FLOAT, 2)))}, "no outputs"),
    ],
)
def test_what_cannot_be_taken_is_named(parts, reason, refusal):
    assert reason in refusal(UnsupportedProgram, **parts)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"functions": [function("body")]}, "two functions"),
        ({"functions": [function("")]}, "two functions"),
        ({"functions": [function("a\x1b[31m")]}, "characters"),
        ({"functions": [function("f", node("NoOp", "a" * 3000))]}, "too long"),
    ],
)
def test_what_no_honest_model_holds_is_refused(parts, reason, refusal):
    assert reason in refusal(UnsafeFile, **parts)


def test_text_that_is_none_and_fields_that_are_not_known_are_refused(path):
    for graph in (field_of(2, field_of(99)), saved_model().replace(b"MatMul", b"\xffatMul")):
        zip_of(members(graph), path)
        with pytest.raises(UnreadableFile, match=r"saved_model\.pb"):
            inspect_saved_model(path)


# Files.


@pytest.mark.parametrize(
    ("data", "looks_like"),
    [
        (b"", "an empty file"),
        (b"GGUF" + bytes(600), "a GGUF model"),
        (saved_model(), r"saved_model\.pb without the rest of its folder"),
    ],
)
def test_what_is_no_archive_is_named(data, looks_like, path):
    path.write_bytes(data)
    with pytest.raises(NotASavedModel, match=looks_like):
        inspect_saved_model(path)


def test_pickle_is_refused_with_the_recipe(path):
    path.write_bytes(b"\x80\x04N.")
    with pytest.raises(PickledModule):
        inspect_saved_model(path)


@pytest.mark.parametrize(
    ("files", "looks_like"),
    [
        ({"m.onnx": b""}, "an ONNX model"),
        ({"archive_format": b""}, "an exported program"),
        ({"a/b/saved_model.pb": b""}, "at 'a/b/saved_model.pb'"),
        ({"a/saved_model.pb": b"", "saved_model.pb": b""}, "or twice"),
        ({"saved_model.pbtxt": b""}, "as text"),
        ({"saved_model.pb": b""}, "cut short"),
    ],
)
def test_archive_of_something_else_is_named(files, looks_like, path):
    with pytest.raises(NotASavedModel, match=looks_like):
        inspect_saved_model(zip_of(files, path))


@pytest.mark.parametrize(
    "change",
    [
        lambda files: files.pop("variables/variables.index"),
        lambda files: files.pop("variables/variables.data-00000-of-00001"),
        lambda files: files.update({"variables/variables.data-00001-of-00002": b""}),
        lambda files: files.update({"variables/variables.data-00000-of-00001.tmp": b""}),
        lambda files: files.update({"variables/variables/x": b""}),
    ],
)
def test_files_with_variables_that_are_missing_or_others_are_refused(change, path):
    files = members()
    change(files)
    with pytest.raises(UnsafeFile, match="are missing, or others are there"):
        inspect_saved_model(zip_of(files, path))


def test_model_without_variables_is_read(path):
    objects = [saved_object(USER)]
    files = {"saved_model.pb": saved_model(objects=objects, bound=())}
    assert inspect_saved_model(zip_of(files, path)).parameter_count == 0


def test_graph_cut_short_is_refused(path):
    graph = saved_model()
    for length in range(0, len(graph), 7):
        with pytest.raises(FormatError):
            inspect_saved_model(zip_of(members(graph[:length]), path))
    with pytest.raises(TruncatedFile):
        inspect_saved_model(zip_of(members(graph[:-1]), path))


def test_bomb_in_a_tar_is_refused(tmp_path):
    files = members() | {"assets/zeros": bytes(30_000_000)}
    path = tar_of(files, tmp_path / "model.tgz", mode="w:gz")
    with pytest.raises(ArchiveTooLarge):
        inspect_saved_model(path)
