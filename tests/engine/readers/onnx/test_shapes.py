"""Sizes are numbers while a model is read, so that dynamic dimensions stay dynamic."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from tests.engine.readers.onnx.models import floats, model, reference, relative_error
from worker.engine.errors import UnsupportedModelError
from worker.engine.program import Program
from worker.engine.readers.onnx import program_of


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def _sizes(source) -> list[tuple[int | None, ...]]:
    return Program.from_exported(source.exported).input_sizes


def _agrees(made, source, *arrays, inputs=("x",)) -> None:
    """The program computes what ONNX Runtime computes at sizes that it was not traced at."""
    found = source.exported.module(check_guards=False)(*map(torch.from_numpy, arrays))
    [wanted] = reference(made, dict(zip(inputs, arrays, strict=True)))
    assert relative_error(wanted, found) < 1e-4


def test_a_shape_that_exporters_compute_keeps_its_batch():
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n", axis=0),
        node("Unsqueeze", "n axes", "n1"),
        node("Concat", "n1 rest", "shape", axis=0),
        node("Reshape", "x shape", "y"),
    ]
    constants = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1])}
    made = model(nodes, {"x": floats(2, 3, 4)}, ["y"], constants, shapes={"x": ["batch", 3, 4]})
    source = program_of(made)
    assert _sizes(source) == [(None, 3, 4)]
    assert source.warnings == ()
    _agrees(made, source, floats(5, 3, 4))


def test_arithmetic_on_sizes_leads_to_windows_that_follow_the_input():
    nodes = [
        node("Shape", "x", "w", start=2, end=3),
        node("Div", "w two", "half"),
        node("Sub", "w half", "rest"),
        node("Mul", "half minus", "low"),
        node("Cast", "w", "float", to=TensorProto.FLOAT),
        node("Mul", "float share", "part"),
        node("Floor", "part", "floor"),
        node("Cast", "floor", "whole", to=TensorProto.INT64),
        node("Min", "rest whole", "end"),
        node("Slice", "x low end axes", "y"),
    ]
    constants = {
        "two": np.array([2]),
        "minus": np.array([-1]),
        "share": np.array([0.75], np.float32),
        "axes": np.array([2]),
    }
    made = model(nodes, {"x": floats(2, 3, 8)}, ["y"], constants, shapes={"x": ["n", 3, "length"]})
    source = program_of(made)
    assert _sizes(source)[0][:2] == (None, 3)
    assert [*source.exported.state_dict] == []


def test_expand_as_exporters_write_it():
    nodes = [
        node("Shape", "x", "s"),
        node("Shape", "wanted", "r"),
        node("ConstantOfShape", "r", "ones", value=helper.make_tensor("v", 7, [1], [1])),
        node("Mul", "ones minus", "free"),
        node("Equal", "wanted free", "is_free"),
        node("Where", "is_free ones wanted", "shape"),
        node("Expand", "row shape", "rows"),
        node("Gather", "s zero", "n", axis=0),
        node("Range", "zero n one", "numbers"),
        node("Cast", "numbers", "steps", to=TensorProto.FLOAT),
        node("Unsqueeze", "steps axes", "column"),
        node("Add", "rows column", "sum"),
        node("Add", "sum x", "y"),
    ]
    constants = {
        "wanted": np.array([-1, 4]),
        "minus": np.array(-1),
        "row": floats(4),
        "zero": np.array(0),
        "one": np.array(1),
        "axes": np.array([1]),
    }
    made = model(nodes, {"x": floats(2, 4)}, ["y"], constants, shapes={"x": ["n", 4]})
    source = program_of(made)
    assert _sizes(source) == [(None, 4)]
    _agrees(made, source, floats(7, 4))


def test_dimensions_of_one_name_are_one_dimension():
    made = model(
        [node("Add", "a b", "y")],
        {"a": floats(2, 8), "b": floats(2, 8)},
        shapes={"a": ["batch", "seq len"], "b": ["batch", "seq len"]},
    )
    source = program_of(made)
    module = Program.from_exported(source.exported).module
    [first, second] = [n.meta["val"].shape for n in module.graph.find_nodes(op="placeholder")]
    assert list(map(str, first)) == list(map(str, second))
    assert len({str(size) for size in first}) == 2


def test_a_dimension_without_a_name_or_size_is_dynamic():
    made = model([node("Relu", "x", "y")], {"x": floats(2, 3)}, shapes={"x": [None, 3]})
    assert _sizes(program_of(made)) == [(None, 3)]


def test_a_dimension_that_cannot_be_dynamic_becomes_fixed_with_a_warning():
    constants = {"shape": np.array([2, 12])}
    made = model(
        [node("Reshape", "x shape", "y")],
        {"x": floats(2, 3, 4)},
        constants=constants,
        shapes={"x": ["batch", 3, 4]},
    )
    source = program_of(made)
    [warning] = source.warnings
    assert warning.startswith(
        "dimension 0 (batch) of input 'x' is dynamic in the file and became fixed at 2: "
    )
    assert _sizes(source) == [(2, 3, 4)]


@pytest.mark.parametrize(("batch", "side"), [(2, 224), (2, 64), (2, 32)])
def test_sizes_are_tried_until_the_model_runs(batch, side):
    constants = {"w": floats(3 * side * side, 5), "shape": np.array([0, 3 * side * side])}
    made = model(
        [node("Reshape", "x shape", "r"), node("MatMul", "r w", "y")],
        {"x": floats(1)},
        constants=constants,
        shapes={"x": ["N", 3, "H", "W"]},
    )
    source = program_of(made)
    assert _sizes(source) == [(None, 3, side, side)]
    assert len(source.warnings) == 2
    assert source.exported.example_inputs[0][0].shape == (batch, 3, side, side)


def test_a_batch_of_one_in_a_file_that_calls_it_dynamic():
    made = model(
        [node("Reshape", "x shape", "y")],
        {"x": floats(1)},
        constants={"shape": np.array([1, 12])},
        shapes={"x": ["batch", 3, 4]},
    )
    source = program_of(made)
    assert _sizes(source) == [(1, 3, 4)]
    assert "became fixed at 1" in source.warnings[0]


def test_whole_inputs_stay_inside_the_tables_they_are_looked_up_in():
    nodes = [
        node("Gather", "words x", "a"),
        node("Gather", "kinds k", "b"),
        node("Add", "a b", "c"),
        node("Cast", "mask", "m", to=TensorProto.FLOAT),
        node("Unsqueeze", "m axes", "m1"),
        node("Mul", "c m1", "y"),
    ]
    constants = {"words": floats(50, 4), "kinds": floats(2, 4), "axes": np.array([2])}
    whole = np.zeros((1, 1), np.int64)
    shape = ["batch", "sequence"]
    made = model(
        nodes,
        {"x": whole, "k": whole, "mask": whole},
        constants=constants,
        shapes=dict.fromkeys(("x", "k", "mask"), shape),
    )
    source = program_of(made)
    words, kinds, mask = source.exported.example_inputs[0]
    assert words.shape == (2, 8)
    assert words.max() < 50
    assert words.unique().numel() > 4
    assert set(kinds.unique().tolist()) == {0, 1}
    assert bool((mask == 1).all())
    assert _sizes(source) == [(None, None)] * 3


def test_a_choice_by_shape_is_made_while_the_model_is_read():
    def branch(name, op):
        result = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([node(op, "x", name)], name, [], [result])

    nodes = [
        node("Shape", "x", "n", start=1, end=2),
        node("Equal", "n three", "is_three"),
        node("Squeeze", "is_three", "c"),
        node("If", "c", "y", then_branch=branch("a", "Relu"), else_branch=branch("b", "Neg")),
    ]
    made = model(
        nodes, {"x": floats(2, 3)}, ["y"], {"three": np.array([3])}, shapes={"x": ["n", 3]}
    )
    source = program_of(made)
    assert [n.target for n in source.exported.graph.nodes if n.op == "call_function"] == [
        torch.ops.aten.relu.default
    ]


def test_local_functions_are_put_in_their_places():
    body = [node("Relu", "a", "b"), node("Neg", "b", "c")]
    made = model(
        [node("Twice", "x", "h", domain="own"), node("Twice", "h", "y", domain="own")],
        {"x": floats(2, 3)},
        domains=["own"],
        functions=[
            helper.make_function("own", "Twice", ["a"], ["c"], body, [helper.make_opsetid("", 23)])
        ],
    )
    _agrees(made, program_of(made), floats(2, 3, seed=4))


@pytest.mark.parametrize("transform", ["half_pixel", "asymmetric", "pytorch_half_pixel"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_a_resize_of_a_dynamic_image_stays_dynamic(mode, transform):
    made = model(
        [
            helper.make_node(
                "Resize",
                ["x", "", "scales"],
                ["y"],
                mode=mode,
                coordinate_transformation_mode=transform,
            )
        ],
        {"x": floats(2, 3, 6, 6)},
        constants={"scales": np.array([1, 1, 2, 2], np.float32)},
        shapes={"x": ["n", 3, "h", "w"]},
    )
    source = program_of(made)
    assert _sizes(source) == [(None, 3, None, None)]
    _agrees(made, source, floats(3, 3, 5, 7))


def test_pads_that_follow_the_input_stay_dynamic():
    made = model(
        [node("Conv", "x w", "y", auto_pad="SAME_UPPER", strides=[2, 2])],
        {"x": floats(2, 3, 6, 6)},
        constants={"w": floats(4, 3, 3, 3)},
        shapes={"x": ["n", 3, "h", "w"]},
    )
    source = program_of(made)
    assert _sizes(source) == [(None, 3, None, None)]
    for size in ((5, 7), (6, 8)):
        _agrees(made, source, floats(3, 3, *size))


def test_numbers_that_would_grow_without_end_are_refused():
    nodes = [node("Shape", "x", "n0")]
    nodes += [node("Mul", f"n{at} n{at}", f"n{at + 1}") for at in range(40)]
    nodes += [node("ConstantOfShape", "n40", "o"), node("Add", "x o", "y")]
    with pytest.raises(UnsupportedModelError, match="more than 64 bits"):
        program_of(model(nodes, {"x": floats(9, 9)}))


def test_many_numbers_are_a_tensor():
    nodes = [
        node("Range", "zero many one", "row"),
        node("Unsqueeze", "row axes", "column"),
        node("Less", "row column", "below"),
        node("Cast", "below", "mask", to=TensorProto.FLOAT),
        node("MatMul", "x mask", "y"),
    ]
    constants = {
        "zero": np.array(0),
        "many": np.array(60),
        "one": np.array(1),
        "axes": np.array([1]),
    }
    made = model(nodes, {"x": floats(2, 60)}, constants=constants)
    source = program_of(made)
    _agrees(made, source, floats(2, 60))


def test_dimensions_of_one_name_are_one_where_a_table_ends_it():
    """The exporter takes no shared dimension that may be longer than what is cut to it."""
    nodes = [
        node("Shape", "a", "length", start=1, end=2),
        node("Slice", "table zero length", "part"),
        node("Add", "a part", "s"),
        node("ReduceMean", "b last", "m", keepdims=1),
        node("Mul", "s m", "y"),
    ]
    constants = {"table": floats(20), "zero": np.array([0]), "last": np.array([1])}
    made = model(
        nodes,
        {"a": floats(2, 8), "b": floats(2, 8)},
        constants=constants,
        shapes={"a": ["batch", "length"], "b": ["batch", "length"]},
    )
    source = program_of(made)
    placeholders = Program.from_exported(source.exported).module.graph.find_nodes(op="placeholder")
    [first, second] = [list(map(str, n.meta["val"].shape)) for n in placeholders]
    assert first == second
    assert _sizes(source) == [(None, None)] * 2
    assert source.warnings == ()
