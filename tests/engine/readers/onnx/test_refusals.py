"""What is refused, before anything runs, and in which words."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from formats.errors import ExternalDataMissing, NotOnnx
from tests.engine.readers.onnx.models import floats, held, model, of_one_node, weights
from worker.engine.errors import QuantizedModelError, UnreadableModelError, UnsupportedModelError
from worker.engine.readers import read_model
from worker.engine.readers.onnx import program_of

X = floats(2, 3)


def _chain(*ops, **fields):
    names = ["x", *(f"h{at}" for at in range(len(ops) - 1)), "y"]
    nodes = [
        helper.make_node(
            op.rpartition("::")[2],
            [names[at]],
            [names[at + 1]],
            name=f"{op}_{at}",
            domain=op.rpartition("::")[0],
        )
        for at, op in enumerate(ops)
    ]
    return model(nodes, {"x": X}, **fields)


def test_names_every_unknown_operator_with_its_first_node():
    made = _chain("Relu", "NonZero", "Relu", "Unique", "NonZero")
    with pytest.raises(UnsupportedModelError) as error:
        program_of(made)
    assert "NonZero (first at node 'NonZero_1'), Unique (first at node 'Unique_3')" in str(
        error.value
    )


def test_names_an_operator_of_an_unknown_domain_and_what_is_allowed():
    with pytest.raises(UnsupportedModelError) as error:
        program_of(_chain("my.domain::Fancy", domains=["my.domain"]))
    assert "my.domain::Fancy (first at node 'my.domain::Fancy_0')" in str(error.value)
    assert "com.microsoft::FusedConv" in str(error.value)


@pytest.mark.parametrize("opset", [6, 999])
def test_names_the_opset_and_those_that_are_allowed(opset):
    with pytest.raises(UnsupportedModelError, match=f"of opset {opset}; opsets 7 to "):
        program_of(_chain("Relu", opset=opset))


@pytest.mark.parametrize("op", ["DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv"])
def test_a_quantized_model_is_refused_as_such(op):
    with pytest.raises(
        QuantizedModelError, match=rf"node {op}_1 is {op}\): upload the float model"
    ):
        program_of(_chain("Relu", op))


def test_what_no_output_needs_is_not_looked_at():
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("NonZero", ["x"], ["z"])]
    assert program_of(model(nodes, {"x": X}, ["y"])).warnings == ()


VALUES = "known while the model is read, and depends on the values of inputs"
STEPS = floats(4, 2, 3)
LSTM = (STEPS, weights(1, 20, 3), weights(1, 20, 5))


@pytest.mark.parametrize(
    ("name", "inputs", "attributes", "why"),
    [
        ("Reshape", (X, np.array([3, 2])), {}, VALUES),
        ("LSTM", LSTM, {"activations": ["Relu"] * 3}, "Relu, Relu, Relu"),
        ("LSTM", (*LSTM, None, held([4, 2], np.int32)), {}, "sequence_lens are shorter"),
        ("LSTM", (*LSTM, None, np.array([4, 2], np.int32)), {}, "sequence_lens that are not known"),
        ("GRU", (STEPS, weights(1, 15, 3), weights(1, 15, 5)), {"clip": 1.0}, "clips its gates"),
        ("Dropout", (X, held(0.5, np.float32), held(True, bool)), {}, "evaluation mode"),
        ("Einsum", (X, X), {"equation": "ij,i$->j"}, "equation"),
        ("Pad", (X, held([0, 1, 0, 1])), {"mode": "odd"}, "mode is 'odd'"),
    ],
)
def test_says_which_node_asks_for_what(name, inputs, attributes, why):
    made, _ = of_one_node(name, inputs, attributes, 1, 23)
    with pytest.raises(UnsupportedModelError) as error:
        program_of(made)
    assert str(error.value).startswith(f"node 'node' ({name}) cannot be taken: ")
    assert why in str(error.value)


def test_a_choice_that_depends_on_inputs_is_refused():
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["a"])],
        "b",
        [],
        [helper.make_tensor_value_info("a", 1, None)],
    )
    node = helper.make_node(
        "If", ["c"], ["y"], name="choice", then_branch=branch, else_branch=branch
    )
    made = model([node], {"x": X, "c": np.array(True)})
    with pytest.raises(UnsupportedModelError, match=r"'choice' \(If\).*depends on the values"):
        program_of(made)


def test_types_that_torch_has_not_are_named():
    made, _ = of_one_node("Relu", (X.astype(np.uint16),), {}, 1, 23)
    with pytest.raises(UnsupportedModelError, match="type UINT16; these can be taken: FLOAT,"):
        program_of(made)


def test_an_input_that_is_no_tensor_is_named():
    made = _chain("Relu")
    made.graph.input[0].CopyFrom(
        helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)
    )
    with pytest.raises(UnsupportedModelError, match="input 'x' is of kind sequence_type"):
        program_of(made)


def test_an_input_without_a_rank_is_named():
    made = _chain("Relu")
    made.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UnsupportedModelError, match="how many dimensions the input 'x' has"):
        program_of(made)


def test_an_input_that_is_too_large_is_named():
    made = _chain("Relu")
    made.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", 1, ["n", 2**20, 2**20]))
    with pytest.raises(UnsupportedModelError, match=r"input 'x' of shape .* has more than"):
        program_of(made)


def test_a_name_that_nothing_makes_is_named():
    made = model([helper.make_node("Add", ["x", "lost"], ["y"], name="sum")], {"x": X})
    with pytest.raises(UnreadableModelError, match=r"node 'sum' \(Add\) reads 'lost'"):
        program_of(made)


def test_a_name_that_is_made_twice_is_named():
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["y"])]
    with pytest.raises(UnreadableModelError, match="'y' is made twice"):
        program_of(model(nodes, {"x": X}))


def test_data_outside_of_the_file_is_refused(tmp_path):
    made = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": X}, constants={"w": floats(3, 300)}
    )
    onnx.save(made, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    with pytest.raises(ExternalDataMissing, match="elements of tensor 'w' are in another file"):
        read_model(tmp_path / "m.onnx", "onnx")


def test_a_file_of_something_else_is_unreadable(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"\xff\xfe no protobuf")
    with pytest.raises(NotOnnx, match="none of the kinds of file known here"):
        read_model(tmp_path / "m.onnx", "onnx")


def test_a_damaged_tensor_is_named():
    made = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": X}, constants={"w": floats(3, 4)}
    )
    made.graph.initializer[0].raw_data = b"abc"
    with pytest.raises(UnreadableModelError, match="tensor 'w' is damaged"):
        program_of(made)


def test_functions_that_grow_without_end_are_refused():
    functions = []
    for at in range(12):
        calls = [
            helper.make_node(
                f"f{at - 1}" if at else "Relu", [f"v{n}"], [f"v{n + 1}"], domain="own" if at else ""
            )
            for n in range(4)
        ]
        imports = [helper.make_opsetid("", 23), helper.make_opsetid("own", 1)]
        functions.append(helper.make_function("own", f"f{at}", ["v0"], ["v4"], calls, imports))
    node = helper.make_node("f11", ["x"], ["y"], domain="own")
    made = model([node], {"x": X}, domains=["own"], functions=functions)
    with pytest.raises(UnsupportedModelError, match="more than 200000 nodes"):
        program_of(made)


def test_sparse_initializers_are_refused():
    made = _chain("Relu")
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    places = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [3]))
    with pytest.raises(UnsupportedModelError, match="sparse initializers"):
        program_of(made)


def test_a_model_without_inputs_is_refused(tmp_path):
    made = model([helper.make_node("Relu", ["w"], ["y"])], {}, constants={"w": floats(3, 4)})
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 4]))
    onnx.save(made, tmp_path / "m.onnx")
    with pytest.raises(UnreadableModelError, match="no inputs"):
        read_model(tmp_path / "m.onnx", "onnx")


def test_a_size_of_zero_is_one_that_nobody_knew():
    made = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": X}, constants={"w": floats(3, 4)}
    )
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 0
    found = program_of(made).exported
    [x] = [node for node in found.graph.find_nodes(op="placeholder") if node.name == "x"]
    assert not isinstance(x.meta["val"].shape[0], int)


def test_an_initializer_that_nobody_reads_is_no_input():
    """Files of old versions list all of them among the inputs."""
    made = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": X},
        constants={"w": floats(3, 4), "unread": floats(2, 2)},
    )
    for name, shape in (("w", [3, 4]), ("unread", [2, 2])):
        made.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    found = program_of(made).exported
    assert found.graph_signature.user_inputs == ("x",)
