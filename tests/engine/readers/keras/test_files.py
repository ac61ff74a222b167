"""Files of both formats, as users have them, and what reading them leaves behind."""

import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch

from formats.errors import UnsafeFile
from tests.attacks import keras_exploits as honest
from tests.engine.writers import models
from tests.formats.test_keras import KERAS_2
from worker.engine.errors import UnreadableModelError
from worker.engine.readers.keras import read_h5, read_keras
from worker.engine.readers.keras.runtime import keras

# Keras's own warnings, about what its newer versions will do: of no concern to what is tested.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

_FRESH = """
import pathlib, sys
import worker.engine.readers
assert "keras" not in sys.modules and "h5py" not in sys.modules
from worker.engine.readers.keras import read_keras
before = set(pathlib.Path(sys.argv[2]).rglob("*"))
read_keras(pathlib.Path(sys.argv[1]))
left = set(pathlib.Path(sys.argv[2]).rglob("*")) - before
assert not left, left
"""


def run(source, inputs):
    with torch.no_grad():
        return source.exported.module()(inputs)


def test_both_formats_give_the_same(tmp_path):
    model = models.cnn()
    model.save(tmp_path / "model.keras")
    model.save(tmp_path / "model.h5")
    newer, older = read_keras(tmp_path / "model.keras"), read_h5(tmp_path / "model.h5")
    image = torch.randn(3, 16, 16, 3)
    assert torch.equal(run(newer, image), run(older, image))
    assert newer.exported.state_dict.keys() == older.exported.state_dict.keys()


def test_file_of_keras_2_is_read(tmp_path):
    random = np.random.default_rng(0)
    kernel = random.normal(size=(3, 3, 3, 1)).astype(np.float32)
    bias, gamma, beta, mean = random.normal(size=(4, 3)).astype(np.float32)
    variance = random.uniform(1, 2, size=3).astype(np.float32)
    weights = {
        "depthwise": {"depthwise_kernel:0": kernel, "bias:0": bias},
        "bn": {"gamma:0": gamma, "beta:0": beta, "moving_mean:0": mean},
    }
    weights["bn"]["moving_variance:0"] = variance
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.attrs["keras_version"], file.attrs["backend"] = "2.15.0", "tensorflow"
        file.attrs["model_config"] = json.dumps(KERAS_2)
        file.attrs["training_config"] = json.dumps({"loss": "mse"})
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = np.array([b"input_1", b"depthwise", b"bn", b"leaky"])
        group.attrs["keras_version"], group.attrs["backend"] = b"2.15.0", b"tensorflow"
        for layer in ("input_1", "depthwise", "bn", "leaky"):
            inner = group.create_group(layer)
            names = [f"{layer}/{name}".encode() for name in weights.get(layer, {})]
            inner.attrs["weight_names"] = names
            for name, value in weights.get(layer, {}).items():
                inner[f"{layer}/{name}"] = value
        file.create_group("optimizer_weights")["iteration"] = np.int64(3)
    source = read_h5(tmp_path / "model.h5")
    image = torch.randn(2, 8, 8, 3)
    channels_first = image.permute(0, 3, 1, 2)
    filters = torch.from_numpy(kernel).permute(2, 3, 0, 1)
    expected = torch.conv2d(channels_first, filters, torch.from_numpy(bias), groups=3).relu()
    expected = torch.nn.functional.batch_norm(
        expected, *map(torch.from_numpy, (mean, variance, gamma, beta)), eps=0.001
    )
    expected = torch.nn.functional.leaky_relu(expected, 0.3).permute(0, 2, 3, 1)
    assert torch.allclose(run(source, image), expected, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64", "float16"])
def test_other_precisions_are_kept(policy, tmp_path):
    library = keras()
    library.config.set_dtype_policy(policy)
    try:
        model = models.cnn()
    finally:
        library.config.set_dtype_policy("float32")
    model.save(tmp_path / "model.keras")
    source = read_keras(tmp_path / "model.keras")
    held = {tensor.dtype for tensor in source.exported.state_dict.values()}
    expected = getattr(torch, "float32" if policy.startswith("mixed") else policy)
    # Constants of the graph are of other kinds.
    assert source.exported.state_dict["conv2d.kernel"].dtype == expected
    assert expected in held


def test_weights_kept_as_bfloat16_are_read(tmp_path):
    library = keras()
    layers = library.layers
    model = library.Sequential([layers.Input((3,)), layers.Dense(2, dtype="bfloat16")])
    model.save(tmp_path / "model.keras")
    source = read_keras(tmp_path / "model.keras")
    kernel = next(value for name, value in source.exported.state_dict.items() if "kernel" in name)
    assert torch.equal(kernel.t(), model.layers[0].kernel.value)


def test_reading_leaves_nothing_behind_and_imports_nothing_before(tmp_path):
    path = honest.write_keras(honest.honest_config(), tmp_path / "model.keras")
    home = tmp_path / "home"
    (home / "tmp").mkdir(parents=True)
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FRESH, str(path), str(home)],
        env={
            **{name: value for name, value in os.environ.items() if name != "KERAS_HOME"},
            "HOME": str(home),
            "TMPDIR": str(home / "tmp"),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        check=True,
        timeout=120,
    )


def test_layer_that_gives_too_much_is_refused(tmp_path):
    config = honest.honest_config()
    repeat = honest._entry("RepeatVector", {"name": "repeat", "n": 2**31 - 1})
    config["config"]["layers"].append(repeat)
    with pytest.raises(Exception, match="numbers for 2 rows") as refusal:
        read_keras(honest.write_keras(config, tmp_path / "model.keras"))
    assert refusal.value.code == "model.unsupported"


def test_config_that_keras_cannot_build_is_told(tmp_path):
    config = honest.honest_config()
    config["config"]["layers"].append(
        honest._entry("Reshape", {"name": "reshape", "target_shape": [7]})
    )
    with pytest.raises(UnreadableModelError, match="cannot build this model"):
        read_keras(honest.write_keras(config, tmp_path / "model.keras"))


def test_layer_by_another_name_twice_is_refused(tmp_path):
    config = honest.honest_config()
    config["config"]["layers"].append(config["config"]["layers"][1])
    with pytest.raises((UnsafeFile, UnreadableModelError)):
        read_keras(honest.write_keras(config, tmp_path / "model.keras"))
