"""Honest programs pass, and what is said about them is right."""

import operator
import subprocess
import sys
import warnings
import zipfile
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from formats import inspect_model
from formats.errors import (
    NotAnArchive,
    PickledModule,
    TorchScriptFile,
    TruncatedFile,
    UnknownFormat,
)
from formats.pt2 import inspect_pt2
from formats.pt2.expressions import check_expression, readable
from formats.pt2.operators import ATEN, HIGHER_ORDER, PRIMS, SCALAR
from formats.pt2.schema import DTYPES
from formats.tensors import TensorInfo
from tests.formats.zoo import ZOO
from worker.engine.errors import UnreadableModelError
from worker.engine.load import load_program


@pytest.mark.parametrize("name", ZOO)
def test_honest_program_is_loaded_and_computes_what_it_did(name, exported, loaded):
    _, original = exported(name)
    args, kwargs = original.example_inputs
    expected = original.module(check_guards=False)(*args, **kwargs)
    found = loaded(name).module(check_guards=False)(*args, **kwargs)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    assert str(loaded(name).range_constraints) == str(original.range_constraints)
    assert loaded(name).call_spec == original.call_spec


@pytest.mark.parametrize("name", ZOO)
def test_loaded_program_can_be_saved_and_is_accepted_again(name, path_of, loaded, tmp_path):
    again = tmp_path / "again.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(loaded(name), again)
    first, second = inspect_pt2(path_of(name)), inspect_pt2(again)
    assert first.parameter_count == second.parameter_count
    assert first.buffer_count == second.buffer_count
    assert [tensor.name for tensor in first.inputs] == [tensor.name for tensor in second.inputs]


@pytest.mark.parametrize("name", ZOO)
def test_counts_are_those_of_the_program(name, exported):
    path, program = exported(name)
    info = inspect_pt2(path)
    parameters = {tensor.data_ptr(): tensor.numel() for tensor in program.parameters()}
    assert info.parameter_count == sum(parameters.values())
    assert info.buffer_count == sum(tensor.numel() for tensor in program.buffers())
    calls = [
        node
        for graph_module in program.graph_module.modules()
        if isinstance(graph_module, torch.fx.GraphModule)
        for node in graph_module.graph.nodes
        if node.op == "call_function" and node.target is not operator.getitem
    ]
    assert sum(info.operators.values()) == len(calls)


@pytest.mark.parametrize("name", ZOO)
def test_example_shapes_are_those_of_the_example_inputs(name, exported):
    path, program = exported(name)
    leaves = torch.utils._pytree.tree_leaves(program.example_inputs)
    shapes = [tuple(leaf.shape) for leaf in leaves if isinstance(leaf, torch.Tensor)]
    assert [tensor.example_shape for tensor in inspect_pt2(path).inputs] == shapes


def test_dynamic_dimensions_are_named_and_shared(path_of):
    info = inspect_pt2(path_of("derived_shapes"))
    x, y = info.inputs
    rows = x.shape[0]
    assert isinstance(rows, str)
    assert y.shape[0] == f"(2*{rows} + 1)"
    assert x.shape[1] == y.shape[1]
    assert (x.dtype, x.example_shape) == ("float32", (4, 6))


def test_program_info_tells_what_the_file_holds(path_of):
    info = inspect_pt2(path_of("keyed_with_tied_weights"))
    assert info.inputs == (
        TensorInfo("batch_input_ids", "int64", (1, 3), (1, 3)),
        TensorInfo("extra_0", "float32", (1, 3, 4), (1, 3, 4)),
    )
    assert (info.parameter_count, info.buffer_count) == (40, 8)
    assert info.weight_bytes == 4 * (40 + 8 + 1)
    assert info.torch_version == torch.__version__
    assert info.schema_version.startswith("8.")
    assert info.has_example_inputs
    assert info.operators["torch.ops.aten.embedding.default"] == 1


def test_operators_in_subgraphs_are_counted(path_of):
    operators = inspect_pt2(path_of("branching")).operators
    assert operators["torch.ops.higher_order.cond"] == 1
    assert operators["torch.ops.aten.sin.default"] == 1


def test_shared_weights_are_still_shared_after_loading(loaded):
    weights = loaded("keyed_with_tied_weights").state_dict
    assert weights["embed.weight"].data_ptr() == weights["out.weight"].data_ptr()


def test_guards_survive_the_check(loaded):
    assert loaded("derived_shapes")._guards_code


def test_program_that_was_exported_on_a_gpu_is_read_onto_the_cpu(path_of, tmp_path):
    path = tmp_path / "gpu.pt2"
    with zipfile.ZipFile(path_of("mlp")) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name).replace(
                b'{"type": "cpu", "index": null}', b'{"type": "cuda", "index": 0}'
            )
            target.writestr(name, data)
    assert {w.device.type for w in load_program(path).state_dict.values()} == {"cpu"}


def test_program_that_torch_does_not_understand_is_the_engines_refusal(path_of, tmp_path):
    path = tmp_path / "odd.pt2"
    with zipfile.ZipFile(path_of("mlp")) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("models/model.json"):
                data = data.replace(b'"parameter_name": "0.weight"', b'"parameter_name": "7.bias"')
            target.writestr(name, data)
    with pytest.raises(UnreadableModelError, match="export it again") as refusal:
        load_program(path)
    assert refusal.value.__cause__ is not None


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("Symbol('s77', positive=True, integer=True)", "s77"),
        ("Mul(Integer(2), Symbol('s0', integer=True))", "2*s0"),
        ("Add(Symbol('u0', integer=True), Integer(-1))", "(u0 + -1)"),
        ("FloorDiv(Symbol('s1', integer=True), Integer(2))", "(s1 // 2)"),
        ("Max(Integer(1), Symbol('s1', integer=True))", "Max(1, s1)"),
        ("Pow(Symbol('s1', integer=True), Integer(2))", "Pow(s1, 2)"),
        ("Mul(Rational(1, 2), Symbol('s1', integer=True))", "Rational(1, 2)*s1"),
        ("Float('0.5', precision=53)", "0.5"),
        ("2*s0 + 1", "2 * s0 + 1"),
        ("(s0**2)//4", "s0 ** 2 // 4"),
    ],
)
def test_expression_that_torch_writes_is_accepted_and_readable(expression, expected):
    assert check_expression(expression) == expression
    assert readable(expression) == expected


def test_dtypes_are_those_of_torch():
    from torch._export.serde.schema import ScalarType
    from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE

    known = {
        int(number): (str(dtype).removeprefix("torch."), dtype.itemsize)
        for number, dtype in _SERIALIZE_TO_TORCH_DTYPE.items()
    }
    assert known.items() <= DTYPES.items()
    assert DTYPES.keys() <= {int(number) for number in ScalarType}


def test_every_operator_on_the_list_exists_and_takes_no_file():
    for name in ATEN | {f"prims.{name}" for name in PRIMS}:
        namespace, _, op = name.rpartition(".")
        packet = getattr(getattr(torch.ops, namespace or "aten"), op)
        for overload in packet.overloads():
            for argument in getattr(packet, overload)._schema.arguments:
                is_text = "str" in str(argument.type)
                assert not (is_text and argument.name in ("filename", "file", "path", "url"))


def test_every_scalar_function_on_the_list_is_one_that_torch_writes():
    from torch._export.serde.serialize import _SYM_OPS

    written = {f"{function.__module__}.{function.__name__}" for function in _SYM_OPS}
    assert written <= SCALAR


def test_higher_order_operators_on_the_list_exist():
    for name in HIGHER_ORDER:
        assert hasattr(torch.ops.higher_order, name.rpartition(".")[2])


class _Module(torch.nn.Module):
    def forward(self, x):
        return x * 2


def as_state_dict(path):
    torch.save(_Module().state_dict(), path)


def as_old_torch_save(path):
    torch.save({"a": torch.ones(1)}, path, _use_new_zipfile_serialization=False)


def as_bare_pickle(path):
    path.write_bytes(b"\x80\x04N.")


@pytest.mark.parametrize("write", [as_state_dict, as_old_torch_save, as_bare_pickle])
def test_pickle_is_refused_with_the_recipe_for_an_export(write, tmp_path):
    path = tmp_path / "model.pt2"
    write(path)
    with pytest.raises(
        PickledModule, match=r"torch\.export\.save\(torch\.export\.export\("
    ) as error:
        inspect_model(path, "pt2")
    assert error.value.code == "model.pickled"


def test_torchscript_is_refused_by_its_name(tmp_path):
    path = tmp_path / "model.pt2"
    # What torch.jit.save writes; the function itself is deprecated and warns.
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("model/data.pkl", "model/constants.pkl", "model/code/__torch__.py"):
            archive.writestr(name, b"")
    with pytest.raises(TorchScriptFile, match="TorchScript") as error:
        inspect_model(path, "pt2")
    assert error.value.code == "model.torchscript"


@pytest.mark.parametrize(
    ("head", "looks_like"),
    [
        (b"", "an empty file"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b'\x40\x00\x00\x00\x00\x00\x00\x00{"__metadata__"', "safetensors"),
        (b"\x08\x09\x12\x07pytorch", "ONNX"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"<!DOCTYPE html>", "web page"),
        (bytes(257) + b"ustar", "tar"),
        (b"\x1c\x00\x00\x00TFL3", "TensorFlow Lite"),
        (b"random", "starts with 72 61 6e 64 6f 6d"),
    ],
)
def test_other_file_is_refused_by_what_it_looks_like(head, looks_like, tmp_path):
    path = tmp_path / "model.pt2"
    path.write_bytes(head)
    with pytest.raises(NotAnArchive, match=looks_like) as error:
        inspect_model(path, "pt2")
    assert error.value.code == "model.not_an_archive"


def test_archive_of_something_else_is_refused_by_what_it_looks_like(tmp_path):
    keras, arrays = tmp_path / "model.keras", tmp_path / "arrays.npz"
    with zipfile.ZipFile(keras, "w") as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(name, b"{}")
    np.savez(arrays, inputs=np.ones(3))
    for path, looks_like in ((keras, "Keras"), (arrays, "NumPy")):
        with pytest.raises(NotAnArchive, match=looks_like):
            inspect_model(path, "pt2")


def test_half_an_upload_is_refused_as_cut_short(path_of, tmp_path):
    path = tmp_path / "half.pt2"
    data = path_of("mlp").read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(TruncatedFile, match="whole file"):
        inspect_model(path, "pt2")


def test_unknown_format_is_refused_with_the_known_ones(path_of):
    with pytest.raises(UnknownFormat, match=r"known formats: .*pt2"):
        inspect_model(path_of("mlp"), "tflite")


def test_checks_bring_neither_torch_nor_numpy_into_the_process():
    code = (
        "import sys, formats; "
        "found = {'torch', 'numpy', 'pydantic'} & set(sys.modules); "
        "sys.exit(1 if found else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@dataclass
class Answer:
    """An output of a class of its own; the second field stays empty."""

    logits: torch.Tensor
    states: torch.Tensor | None = None


class Answering(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 4)

    def forward(self, x):
        return Answer(self.layer(x))


def test_output_of_a_class_becomes_a_dictionary(tmp_path):
    torch.export.register_dataclass(Answer, serialized_type_name="tests.Answer")
    x = torch.randn(2, 3)
    module = Answering().eval()
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(module, (x,)), path)
    found = load_program(path).module()(x)
    assert found.keys() == {"logits"}
    assert torch.equal(found["logits"], module(x).logits)


def test_example_inputs_that_the_exporter_marked_as_dynamic_are_taken(tmp_path):
    x = torch.randn(2, 3)
    program = torch.export.export(
        torch.nn.Linear(3, 4), (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    assert x.__dict__, "the exporter no longer marks its inputs: this test shows nothing"
    path = tmp_path / "model.pt2"
    torch.export.save(program, path)
    ((loaded,), _) = load_program(path).example_inputs
    assert torch.equal(loaded, x)
    assert not loaded.__dict__
