"""Files of Keras: what is taken, what is said of it, and what is not."""

import json
import zipfile

import h5py
import numpy as np
import pytest

from formats.archive import Limits
from formats.errors import (
    ArchiveTooLarge,
    KerasFileUnreadable,
    PickledModule,
    UnsafeFile,
    UnsupportedKerasModel,
)
from formats.keras import checked_config, inspect_h5, inspect_keras, open_keras
from formats.keras.layers import LAYERS, OPERATIONS
from tests.attacks import keras_exploits as honest

KERAS_2 = {
    "class_name": "Functional",
    "config": {
        "name": "model",
        "trainable": True,
        "layers": [
            {
                "class_name": "InputLayer",
                "config": {
                    "batch_input_shape": [None, 8, 8, 3],
                    "dtype": "float32",
                    "sparse": False,
                    "ragged": False,
                    "name": "input_1",
                },
                "name": "input_1",
                "inbound_nodes": [],
            },
            {
                "class_name": "DepthwiseConv2D",
                "config": {
                    "name": "depthwise",
                    "trainable": True,
                    "dtype": "float32",
                    "kernel_size": [3, 3],
                    "strides": [1, 1],
                    "padding": "valid",
                    "data_format": "channels_last",
                    "dilation_rate": [1, 1],
                    "groups": 1,
                    "activation": "relu",
                    "use_bias": True,
                    "bias_initializer": {"class_name": "Zeros", "config": {}},
                    "bias_regularizer": None,
                    "activity_regularizer": None,
                    "bias_constraint": None,
                    "depth_multiplier": 1,
                    "depthwise_initializer": {
                        "class_name": "GlorotUniform",
                        "config": {"seed": None},
                    },
                    "depthwise_regularizer": None,
                    "depthwise_constraint": None,
                },
                "name": "depthwise",
                "inbound_nodes": [[["input_1", 0, 0, {}]]],
            },
            {
                "class_name": "BatchNormalization",
                "config": {"name": "bn", "axis": [3], "momentum": 0.99, "epsilon": 0.001},
                "name": "bn",
                "inbound_nodes": [[["depthwise", 0, 0, {}]]],
            },
            {
                "class_name": "LeakyReLU",
                "config": {"name": "leaky", "alpha": 0.3},
                "name": "leaky",
                "inbound_nodes": [[["bn", 0, 0, {}]]],
            },
        ],
        "input_layers": [["input_1", 0, 0]],
        "output_layers": [["leaky", 0, 0]],
    },
}


def test_inputs_and_weights_are_told(tmp_path):
    path = honest.write_keras(honest.honest_config(), tmp_path / "model.keras")
    facts = inspect_keras(path)
    [told] = facts.inputs
    assert (told.name, told.dtype, told.shape) == ("x", "float32", ("batch", 3))
    assert facts.outputs is None
    assert facts.parameter_count == 8


def test_how_the_optimizer_stood_is_not_counted(tmp_path):
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["layers/dense/vars/0"] = np.ones((3, 2), np.float32)
        file["layers/dense/vars/1"] = np.ones(2, np.float16)
        file["layers/dropout/seed_generator/vars/0"] = np.zeros(2, np.uint32)
        file["optimizer/vars/1"] = np.ones((3, 2), np.float32)
    weights = (tmp_path / "weights.h5").read_bytes()
    path = honest.write_keras(honest.honest_config(), tmp_path / "model.keras", weights)
    assert inspect_keras(path).parameter_count == 8


def test_weights_may_be_packed(tmp_path):
    path = honest.write_keras(honest.honest_config(), tmp_path / "model.keras")
    packed = tmp_path / "packed.keras"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert inspect_keras(packed) == inspect_keras(path)


def test_older_files_tell_the_same(tmp_path):
    newer = honest.write_keras(honest.honest_config(), tmp_path / "model.keras")
    older = honest.write_h5(honest.honest_config(), tmp_path / "model.h5")
    assert inspect_h5(older) == inspect_keras(newer)


def test_the_older_spelling_becomes_the_newer(tmp_path):
    checked = checked_config(json.dumps(KERAS_2), "model_config")
    assert checked.inputs[0].shape == ("batch", 8, 8, 3)
    image, depthwise, normal, leaky = checked.config["config"]["layers"]
    assert image["config"]["batch_shape"] == [None, 8, 8, 3]
    assert "groups" not in depthwise["config"]
    assert depthwise["module"] == "keras.layers"
    assert normal["config"]["axis"] == 3
    assert leaky["config"]["negative_slope"] == 0.3


def test_checking_what_was_checked_changes_nothing():
    for config in (KERAS_2, honest.honest_config()):
        once = checked_config(json.dumps(config), "config.json").config
        assert checked_config(json.dumps(once), "config.json").config == once


def test_first_layer_of_a_sequential_model_may_say_what_it_takes():
    config = honest.honest_config()
    layers = config["config"]["layers"]
    del layers[0]
    layers[0]["config"]["batch_input_shape"] = [None, 3]
    assert checked_config(json.dumps(config), "config.json").inputs[0].shape == ("batch", 3)
    del layers[0]["config"]["batch_input_shape"]
    config["config"]["build_input_shape"] = [None, 3]
    assert checked_config(json.dumps(config), "config.json").inputs[0].shape == ("batch", 3)
    del config["config"]["build_input_shape"]
    with pytest.raises(UnsupportedKerasModel, match="does not say what it takes"):
        checked_config(json.dumps(config), "config.json")


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (b"", KerasFileUnreadable, "an empty file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), KerasFileUnreadable, "HDF5"),
        (b"\x80\x04cposix\nsystem\n", PickledModule, "a pickle"),
        (b"{}", KerasFileUnreadable, "JSON"),
    ],
)
def test_other_files_are_told_apart(content, error, says, tmp_path):
    (tmp_path / "model.keras").write_bytes(content)
    with pytest.raises(error, match=says):
        inspect_keras(tmp_path / "model.keras")


@pytest.mark.parametrize(
    ("members", "error", "says"),
    [
        (["a/data.pkl", "a/version"], PickledModule, "pickle"),
        (["model/archive_format"], KerasFileUnreadable, "an exported program of torch"),
        (["x.npy"], KerasFileUnreadable, "NumPy arrays"),
        (["config.json", "model.weights.npz"], UnsupportedKerasModel, "model.weights.h5"),
    ],
)
def test_other_archives_are_told_apart(members, error, says, tmp_path):
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        for name in members:
            archive.writestr(name, b"x")
    with pytest.raises(error, match=says):
        inspect_keras(tmp_path / "model.keras")
    with pytest.raises((KerasFileUnreadable, PickledModule)):
        inspect_h5(tmp_path / "model.keras")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("assets/vocabulary.txt", UnsupportedKerasModel),
        ("model.weights.npz", UnsafeFile),
        ("model.weights.json", UnsafeFile),
        ("config.json.bak", UnsafeFile),
        ("../config.json", UnsafeFile),
    ],
)
def test_other_members_are_refused(name, error, tmp_path):
    path = honest.write_keras(honest.honest_config(), tmp_path / "m.keras", **{name: b"x"})
    with pytest.raises(error):
        inspect_keras(path)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"7", b'"x"', b"{", b"[" * 100_000, b'{"class_name": 1, "class_name": 2}',
        b'{"class_name": "Sequential"}', b'{"class_name": "Sequential", "config": []}',
        b'{"class_name": "Sequential", "config": {"layers": 1}}',
        b'{"class_name": "Functional", "config": {"name": "m", "layers": [7]}}',
        b'{"class_name": ["Functional"], "config": {}}', b"\xff\xfe",
    ],
)  # fmt: skip
def test_other_configurations_are_refused(text):
    with pytest.raises((UnsafeFile, UnsupportedKerasModel)):
        checked_config(text, "config.json")


def test_subclassed_models_are_told_what_to_do():
    config = {"class_name": "MyModel", "module": None, "registered_name": None, "config": {}}
    with pytest.raises(UnsupportedKerasModel, match="'MyModel' is no layer that is taken"):
        checked_config(json.dumps(config), "config.json")


def test_files_of_weights_alone_are_told_what_to_do(tmp_path):
    (tmp_path / "weights.h5").write_bytes(honest.honest_weights())
    with pytest.raises(UnsupportedKerasModel, match="weights without a model"):
        inspect_h5(tmp_path / "weights.h5")


def test_too_many_members_are_refused(tmp_path):
    more = {f"assets/{at}": b"" for at in range(Limits(member_count=64).member_count)}
    path = honest.write_keras(honest.honest_config(), tmp_path / "model.keras", **more)
    with pytest.raises(ArchiveTooLarge), open_keras(path):
        pass


def test_tables_name_nothing_that_runs_what_it_reads():
    dangerous = {"Lambda", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer", "Map"}
    assert not dangerous & (LAYERS.keys() | OPERATIONS.keys())
    assert set(OPERATIONS.values()) <= {
        "keras.src.ops.numpy",
        "keras.src.ops.nn",
        "keras.src.ops.core",
    }
