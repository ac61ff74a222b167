"""Parameters and inputs have the names of the file, through a saved program too."""

import numpy as np
import pytest
import torch
from onnx import helper

from tests.engine.readers.onnx.models import floats, model
from worker.engine.load import load_program
from worker.engine.program import Program
from worker.engine.readers.onnx import program_of
from worker.engine.readers.onnx.names import identifiers, parameter_names
from worker.engine.save import save_program


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conv1.weight", "conv1.weight"),
        ("layers.0.bias", "layers.0.bias"),
        ("onnx::MatMul_12", "onnx::MatMul_12"),
        ("model/dense/kernel:0", "model/dense/kernel:0"),
        ("training", "training_"),
        ("block.forward.weight", "block.forward_.weight"),
        ("else", "else_"),
        ("a..b", "a.b"),
        (".a.", "a"),
        ("__class__.x", "__class___.x"),
        ("x'];import os;", "x___import os_"),
        ("größe", "gr__e"),
        ("weight(1)", "weight_1_"),
    ],
)
def test_a_name_stays_or_becomes_the_nearest_allowed(name, expected):
    assert parameter_names([name]) == {name: expected}


def test_names_do_not_collide():
    found = parameter_names(["a", "a.b", "a_", "c(", "c_", "a.b.d"])
    assert found["a_"] == "a_"
    assert found["c_"] == "c_"
    assert len(set(found.values())) == 6
    leads = {full.rpartition(".")[0] for full in found.values()}
    assert not leads & set(found.values())


def test_inputs_have_names_of_variables():
    given = ["input.1", "x:0", "1", "for", "x_0", "x", "torch"]
    assert identifiers(given) == {
        "input.1": "input_1",
        "x:0": "x_0",
        "1": "input_1_2",
        "for": "input_for",
        "x_0": "x_0_2",
        "x": "x",
        "torch": "input_torch",
    }


NAMES = [
    "enc/dense/kernel:0",
    "onnx::MatMul_7",
    "layer.0.weight",
    "layer.weight",
    "else",
    "a b+c-d@e",
]


def test_names_live_through_saving_and_loading(tmp_path):
    arrays = {name: floats(4, 4, seed=at) for at, name in enumerate(NAMES)}
    nodes = []
    last = "in/put:0"
    for at, name in enumerate(NAMES):
        nodes.append(helper.make_node("MatMul", [last, name], [f"h{at}"]))
        last = f"h{at}"
    source = program_of(model(nodes, {"in/put:0": floats(2, 4)}, [last], arrays))
    expected = [name if name != "else" else "else_" for name in NAMES]
    assert sorted(source.exported.state_dict) == sorted(expected)
    program = Program.from_exported(source.exported)
    assert {name for name, _ in program.module.named_parameters()} == set(expected)
    save_program(program, tmp_path / "model.pt2")
    again = Program.from_exported(load_program(tmp_path / "model.pt2"))
    assert sorted(again.module.state_dict()) == sorted(expected)
    [wanted] = program.run(program.example_leaves)
    [found] = again.run(program.example_leaves)
    assert torch.equal(wanted, found)
    assert source.exported.graph_signature.user_inputs == ("in_put_0",)
    assert source.origin.names == dict(zip(NAMES, expected, strict=True))
    assert [given.name for given in source.origin.inputs] == ["in/put:0"]
    assert source.origin.outputs == (last,)


def test_what_each_constant_becomes():
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "g", "s", "mean", "var"], ["n"]),
        helper.make_node("Mul", ["n", "half"], ["m"]),
        helper.make_node("Gather", ["table", "places"], ["e"]),
        helper.make_node("Reshape", ["m", "shape"], ["r"]),
        helper.make_node("MatMul", ["r", "e"], ["y"]),
    ]
    constants = {
        "w": floats(4, 3, 3, 3),
        "b": floats(4),
        "g": floats(4),
        "s": floats(4),
        "mean": floats(4),
        "var": np.ones(4, np.float32),
        "half": np.array(0.5, np.float32),
        "table": floats(9, 5),
        "places": np.arange(100).reshape(2, 50) % 9,
        "shape": np.array([2, -1, 50]),
    }
    exported = program_of(model(nodes, {"x": floats(2, 3, 5, 10)}, ["y"], constants)).exported
    signature = exported.graph_signature
    assert set(signature.parameters) == {"w", "b", "g", "s", "table"}
    assert set(signature.buffers) == {"mean", "var", "places"}


def test_an_initializer_that_is_also_an_input_is_a_constant():
    made = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": floats(2, 3), "w": floats(3, 4)},
        ["y"],
        {"w": floats(3, 4)},
    )
    exported = program_of(made).exported
    assert exported.graph_signature.user_inputs == ("x",)
    assert [*exported.state_dict] == ["w"]
