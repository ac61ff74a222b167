"""Files that run code in Keras: each is proven to, and refused before Keras sees it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from formats.errors import FormatError
from formats.keras import checked_config, inspect_keras, open_keras
from tests.attacks import keras_exploits as exploits
from worker.engine.readers.keras import read_h5, read_keras


@pytest.fixture(scope="module")
def proven(tmp_path_factory):
    """Names of the attacks that created their marker in a process of plain Keras."""
    folder = tmp_path_factory.mktemp("proof")
    built = {exploit.__name__: exploits.build(exploit, folder) for exploit in exploits.EVERY}
    files = [
        f"{'safe' if exploit in exploits.SAFE_MODE else 'unsafe'}:{built[exploit.__name__][0]}"
        for exploit in exploits.EVERY
    ]
    home = {"KERAS_BACKEND": "torch", "KERAS_HOME": str(folder), "MPLBACKEND": "agg"}
    subprocess.run(
        [sys.executable, Path(exploits.__file__).with_name("keras_prove.py"), *files],
        cwd=folder,
        env={**os.environ, **home},
        check=True,
        timeout=120,
    )
    return {name for name, (_, marker) in built.items() if marker.exists()}


@pytest.mark.parametrize("exploit", exploits.EVERY)
def test_attack_runs_its_code_in_plain_keras(exploit, proven):
    assert exploit.__name__ in proven


@pytest.mark.parametrize("exploit", exploits.EVERY)
def test_attack_is_refused_and_leaves_no_marker(exploit, tmp_path):
    path, marker = exploits.build(exploit, tmp_path)
    read = read_h5 if exploit in exploits.OLDER else read_keras
    with pytest.raises(FormatError) as refusal:
        read(path)
    assert refusal.value.code in {"file.unsafe", "model.unsupported_layer"}
    assert not marker.exists()


@pytest.mark.parametrize("exploit", sorted(set(exploits.EVERY) - set(exploits.OLDER), key=str))
def test_attack_is_refused_by_the_check_alone(exploit, tmp_path):
    path, marker = exploits.build(exploit, tmp_path)
    with pytest.raises(FormatError):
        inspect_keras(path)
    assert not marker.exists()


def test_the_models_that_the_attacks_start_from_are_accepted(tmp_path):
    config = exploits.honest_config()
    newer = exploits.write_keras(config, tmp_path / "honest.keras")
    older = exploits.write_h5(config, tmp_path / "honest.h5")
    assert inspect_keras(newer).inputs[0].shape == ("batch", 3)
    for source in (read_keras(newer), read_h5(older)):
        assert source.exported.state_dict.keys() == {"dense.kernel", "dense.bias"}


def test_how_a_model_was_trained_is_left_out_unread(tmp_path):
    config = exploits.honest_config()
    marker = tmp_path / "trained.svg"
    config["compile_config"] = {"loss": exploits._activation(marker), "optimizer": "adam"}
    config["build_config"] = {"input_shape": exploits._activation(marker)}
    config["config"]["layers"][1]["build_config"] = exploits._activation(marker)
    path = exploits.write_keras(config, tmp_path / "trained.keras")
    with open_keras(path) as model:
        written = json.dumps(model.checked.config)
    assert "__lambda__" not in written
    assert "_config" not in written
    read_keras(path)
    assert not marker.exists()


def refused(config):
    with pytest.raises(FormatError) as refusal:
        checked_config(json.dumps(config), "config.json")
    return str(refusal.value)


@pytest.mark.parametrize(
    "class_name",
    [
        "Lambda", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer", "StringLookup",
        "IntegerLookup", "TextVectorization", "Hashing", "FeatureSpace", "Layer", "Wrapper",
        "MyLayer", "function", "__lambda__", "__typespec__", "__tensor__", "__numpy__",
    ],
)  # fmt: skip
def test_layers_outside_of_the_table_are_refused(class_name):
    config = exploits.honest_config()
    config["config"]["layers"][1]["class_name"] = class_name
    assert class_name in refused(config)


@pytest.mark.parametrize(
    "module",
    ["os", "builtins", "keras.layers; import os", "mykeras.layers", "keras..layers", "", 7],
)
def test_classes_from_elsewhere_are_refused(module):
    config = exploits.honest_config()
    config["config"]["layers"][1]["module"] = module
    assert "not from Keras" in refused(config)


def test_registered_classes_are_refused():
    config = exploits.honest_config()
    config["config"]["layers"][1]["registered_name"] = "custom>Dense"
    assert "custom>Dense" in refused(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("activation", "eval"),
        ("activation", {"class_name": "function", "config": "relu", "module": "os"}),
        ("activation", exploits._named("keras.utils", "get_file")),
        ("activation", exploits._named("builtins", "load_model")),
        ("activation", ["relu"]),
        ("kernel_initializer", "os.system"),
        ("kernel_initializer", {"class_name": "Constant", "config": {"value": {"a": 1}}}),
        ("kernel_initializer", {"class_name": "Zeros", "config": {}, "module": "os"}),
        ("kernel_initializer", {"class_name": "Zeros", "config": {"shape": [1]}}),
        ("kernel_regularizer", {"class_name": "Adam", "config": {}}),
        ("bias_constraint", {"class_name": "Custom", "config": {}}),
        ("units", {"class_name": "__tensor__", "config": {"value": [2], "dtype": "int32"}}),
        ("units", 2**40),
        ("units", 0),
        ("units", -2),
        ("units", True),
        ("units", 2.5),
        ("units", "2"),
        ("use_bias", "yes"),
        ("name", "../dense"),
        ("name", "a/b"),
        ("name", "x" * 300),
        ("name", {"class_name": "function"}),
        ("dtype", {"class_name": "QuantizedDTypePolicy", "config": {}}),
        ("dtype", "string"),
        ("quantization_config", {"class_name": "Int8", "config": {}}),
        ("function", "relu"),
        ("__class__", "relu"),
        ("custom_objects", {}),
        ("build_config", {}),
    ],
)
def test_arguments_that_no_layer_of_keras_has_are_refused(key, value):
    config = exploits.honest_config()
    config["config"]["layers"][1]["config"][key] = value
    assert "'dense'" in refused(config) or key == "name"


def functional(nodes, **more):
    config = exploits.honest_config()
    first, second = config["config"]["layers"]
    first.update(name="x", inbound_nodes=[])
    second.update(name="dense", inbound_nodes=nodes, **more)
    config["class_name"] = "Functional"
    config["config"].update(input_layers=[["x", 0, 0]], output_layers=[["dense", 0, 0]])
    return config


def tensor(**changes):
    config = {"shape": [None, 3], "dtype": "float32", "keras_history": ["x", 0, 0]}
    return {"class_name": "__keras_tensor__", "config": {**config, **changes}}


def test_calls_of_layers_are_accepted_as_keras_writes_them():
    for node in ({"args": [tensor()], "kwargs": {}}, [["x", 0, 0, {}]]):
        checked_config(json.dumps(functional([node])), "config.json")


@pytest.mark.parametrize(
    "node",
    [
        {"args": [{"class_name": "__lambda__", "config": {"value": "x"}}], "kwargs": {}},
        {"args": [exploits._named("keras.utils", "get_file"), tensor()], "kwargs": {}},
        {"args": [{"class_name": "__tensor__", "config": {"value": [1]}}], "kwargs": {}},
        {"args": [{"class_name": "__bytes__", "config": {"value": "x"}}], "kwargs": {}},
        {"args": [{"class_name": "Dense", "config": {"units": 3}}], "kwargs": {}},
        {"args": [tensor(keras_history=["x", -1, 0])], "kwargs": {}},
        {"args": [tensor(keras_history=["../x", 0, 0])], "kwargs": {}},
        {"args": [tensor(dtype="string")], "kwargs": {}},
        {"args": [tensor(), "/etc/passwd"], "kwargs": {}},
        {"args": [tensor()], "kwargs": {"__class__": 1}},
        {"args": [tensor()], "kwargs": {"mask": {"class_name": "function", "config": "x"}}},
        {"args": [tensor()]},
        {"args": [tensor()], "kwargs": {}, "module": "os"},
        [["x", 0]],
        [["x", 0, 0, {"training": {"class_name": "__lambda__"}}]],
        "x",
    ],
)
def test_calls_of_layers_hold_tensors_and_plain_values(node):
    refused(functional([node]))


@pytest.mark.parametrize("name", ["Map", "Scan", "WhileLoop", "Cond", "Switch", "VectorizedMap"])
def test_operations_that_call_functions_are_refused(name):
    node = {"args": [exploits._named("keras.utils", "plot_model"), tensor()], "kwargs": {}}
    config = functional([node], module="keras.src.ops.core", class_name=name)
    assert name in refused(config)


@pytest.mark.parametrize("module", ["keras.src.ops.nn", "keras.src.ops.numpy.os", "keras.src.opsx"])
def test_operations_of_other_modules_are_refused(module):
    config = functional([{"args": [tensor()], "kwargs": {}}], module=module, class_name="Add")
    config["config"]["layers"][1]["config"] = {"name": "dense"}
    if module == "keras.src.opsx":
        assert "opsx" in refused(config)
    else:
        assert "not among those taken" in refused(config)


def test_layers_within_layers_are_bounded():
    config = exploits.honest_config()
    for _ in range(40):
        outer = exploits.honest_config()
        outer["config"]["layers"].insert(1, config)
        config = outer
    with pytest.raises(FormatError):
        checked_config(json.dumps(config), "config.json")
