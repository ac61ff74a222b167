"""Every layer and operation of the tables gives in the program what it gives in Keras."""

import pytest
import torch
from torch import Tensor

from formats.keras.layers import LAYERS, OPERATIONS
from tests.engine.readers.keras import cases
from worker.engine.load import load_program
from worker.engine.program import Program
from worker.engine.readers.keras import read_keras
from worker.engine.readers.keras.runtime import keras
from worker.engine.save import save_program

# Keras's own warnings, about what its newer versions will do: of no concern to what is tested.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def seen_in(config):
    """Classes in a configuration, with whether they are operations."""
    if isinstance(config, dict):
        if "class_name" in config and isinstance(config.get("config"), dict):
            module = str(config.get("module"))
            yield config["class_name"], module.startswith("keras.src.ops")
        for value in config.values():
            yield from seen_in(value)
    elif isinstance(config, list):
        for value in config:
            yield from seen_in(value)


@pytest.fixture(scope="module")
def seen():
    return set()


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.__name__)
@torch.no_grad()
def test_program_gives_what_keras_gives(case, tmp_path, seen):
    model = cases.built(case)
    path = tmp_path / "model.keras"
    model.save(path)
    source = read_keras(path)
    seen |= set(seen_in(source.origin.config))
    inputs, _ = source.exported.example_inputs
    ours = source.exported.module()(*inputs)
    ours = [ours] if isinstance(ours, Tensor) else ours
    structure = inputs[0] if len(inputs) == 1 else list(inputs)
    theirs = keras().tree.flatten(model(structure, training=False))
    for output, our, their in zip(model.outputs, ours, theirs, strict=True):
        layer = output._keras_history.operation
        assert our.shape == their.shape, layer
        error = (our.double() - their.double()).norm() / their.double().norm().clamp_min(1e-9)
        assert error < 1e-4, layer
    assert not [warning for warning in source.warnings if "fixed" in warning]
    assert Program.from_exported(source.exported).row_limits == (1, None)


def test_every_layer_and_operation_has_a_case_or_a_reason(seen):
    layers = {name for name, is_operation in seen if not is_operation}
    assert LAYERS.keys() - layers <= cases.EXEMPT.keys()
    assert {name for name, is_operation in seen if is_operation} == OPERATIONS.keys()
    assert cases.EXEMPT.keys() <= LAYERS.keys()


@torch.no_grad()
def test_names_of_parameters_survive_the_programs_own_format(tmp_path):
    library = keras()
    layers = library.layers
    model = library.Sequential(
        [
            layers.Input((4,), name="x y"),
            layers.Dense(3, name="a-c d"),
            layers.Dense(2, name="code"),
        ]
    )
    model.save(tmp_path / "model.keras")
    source = read_keras(tmp_path / "model.keras")
    save_program(Program.from_exported(source.exported), tmp_path / "model.pt2")
    loaded = load_program(tmp_path / "model.pt2")
    assert loaded.state_dict.keys() == {
        "a_c_d.kernel",
        "a_c_d.bias",
        "k_code.kernel",
        "k_code.bias",
    }
    names = {name for variable in source.origin.variables for name in variable.names}
    assert names == loaded.state_dict.keys()


def test_masked_steps_are_left_out(tmp_path):
    library = keras()
    layers = library.layers
    x = layers.Input((4,), dtype="int32")
    y = layers.Embedding(9, 4, mask_zero=True)(x)
    y = layers.SimpleRNN(3, return_sequences=True)(y)
    outputs = [
        layers.SimpleRNN(3)(y),
        layers.SimpleRNN(3, return_sequences=True)(y),
        layers.SimpleRNN(3, return_sequences=True, zero_output_for_mask=True)(y),
        layers.GRU(3, go_backwards=True)(y),
        layers.Bidirectional(layers.LSTM(3, return_sequences=True))(y),
    ]
    model = library.Model(x, outputs)
    model.save(tmp_path / "model.keras")
    source = read_keras(tmp_path / "model.keras")
    words = torch.tensor([[1, 2, 0, 0], [3, 4, 5, 6], [0, 0, 0, 0], [0, 8, 0, 3]]).int()
    with torch.no_grad():
        expected = model(words, training=False)
        found = source.exported.module()(words)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_open_dimensions_stay_open(tmp_path):
    library = keras()
    layers = library.layers
    model = library.Sequential(
        [layers.Input((None, None, 3)), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()]
    )
    model.save(tmp_path / "model.keras")
    source = read_keras(tmp_path / "model.keras")
    assert source.warnings == ()
    image = torch.randn(5, 11, 9, 3)
    assert torch.allclose(source.exported.module()(image), model(image, training=False), atol=1e-5)
    assert source.exported.module()(image[:1]).shape == (1, 4)


def test_dimensions_that_become_fixed_are_told(tmp_path):
    library = keras()
    layers = library.layers
    model = library.Sequential(
        [layers.Input((None, 3), name="sequence"), layers.GRU(4, reset_after=False)]
    )
    model.save(tmp_path / "model.keras")
    told = " ".join(read_keras(tmp_path / "model.keras").warnings)
    assert "unrolled over its time steps" in told
    assert "dimension 1 of input 'sequence'" in told
    assert "fixed at 16" in told


def test_graph_is_convolutions_without_turns_between_them(tmp_path):
    library = keras()
    layers = library.layers
    model = library.Sequential(
        [
            layers.Input((8, 8, 3)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.DepthwiseConv2D(2),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2),
        ]
    )
    model.save(tmp_path / "model.keras")
    called = [
        node.target._schema.name.removeprefix("aten::")
        for node in read_keras(tmp_path / "model.keras").exported.graph.nodes
        if node.op == "call_function"
    ]
    assert called.count("permute") <= 2
    assert [name for name in called if name != "permute"] == [
        "conv2d", "relu", "batch_norm", "max_pool2d", "conv2d", "mean", "linear",
    ]  # fmt: skip


def test_recurrent_layers_are_operators(tmp_path):
    library = keras()
    layers = library.layers
    model = library.Sequential(
        [
            layers.Input((5, 4)),
            layers.LSTM(3, return_sequences=True, go_backwards=True),
            layers.Bidirectional(layers.GRU(3)),
        ]
    )
    model.save(tmp_path / "model.keras")
    called = [
        str(node.target) for node in read_keras(tmp_path / "model.keras").exported.graph.nodes
    ]
    assert called.count("aten.lstm.input") == 1
    assert called.count("aten.gru.input") == 1
