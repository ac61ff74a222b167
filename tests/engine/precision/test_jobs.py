"""Whole jobs with a cast: reports, files and other formats."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.engine.precision.nets import (
    LENGTH,
    Convolutional,
    FusedMask,
    Recurrent,
    tokens_of,
)
from tests.engine.verified import verify_here
from tests.zoo.exported import export, randomized
from worker.engine.compress import compress
from worker.engine.config import (
    CastConfig,
    EvaluationConfig,
    ObjectiveConfig,
    PruneConfig,
    QuantizeConfig,
    Request,
)
from worker.engine.load import load_program
from worker.engine.program import Program

GRAPH_BYTES = 64 * 1024
"""What a graph of some layers takes in a file, whatever its weights are."""

HALF = PruneConfig(macs=0.6)


def draws(shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def images():
    targets = np.arange(40) % 5
    return randomized(Convolutional()), torch.randn(2, 1, 8, 8), draws((40, 1, 8, 8)), targets


def texts(module):
    tokens = np.random.default_rng(0).integers(0, 40, (40, LENGTH))
    return module.eval(), tokens_of(), tokens, np.arange(40) % 5


def recurrent():
    return texts(Recurrent())


def attention():
    module, example, inputs, _ = texts(FusedMask())
    return module, example, inputs, np.random.default_rng(1).integers(0, 5, (40, LENGTH))


MODELS = {"images": images, "recurrent": recurrent, "attention": attention}


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    verify_here(monkeypatch)


def compressed(tmp_path, name, *recipe, output_formats=(), **evaluation):
    torch.manual_seed(0)
    module, example, inputs, targets = MODELS[name]()
    torch.export.save(export(module, example), tmp_path / "upload.pt2")
    np.savez(tmp_path / "data.npz", inputs=inputs, targets=targets)
    output = tmp_path / "output"
    output.mkdir()
    request = Request(
        model=tmp_path / "upload.pt2",
        model_sha256="0" * 64,
        recipe=recipe,
        output_dir=output,
        train=tmp_path / "data.npz",
        test=tmp_path / "data.npz",
        objective=ObjectiveConfig(task="tagging" if targets.ndim > 1 else "classification"),
        evaluation=EvaluationConfig(latency_rounds=1, **evaluation),
        output_formats=output_formats,
    )
    return output, compress(request, on_progress=lambda *_: None)


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize(
    "recipe",
    [(CastConfig("bfloat16"),), (HALF, CastConfig("float16"))],
    ids=["bfloat16", "pruned-float16"],
)
def test_a_recipe_with_a_cast(tmp_path, name, recipe):
    output, report = compressed(tmp_path, name, *recipe)
    step = report["steps"][-1]
    dtype = recipe[-1].dtype
    assert (step["step"], step["index"]) == ("cast", len(recipe) - 1)
    assert {line["became"] for line in step["layers"]} == {dtype}
    after = report["after_recovery"]
    assert step["counts"] == after["counts"]
    planned = report["after_prune"] or report["before"]
    assert after["counts"]["parameters"] == planned["counts"]["parameters"]
    if planned is report["before"]:
        assert after["quality"]["agreement"] > 0.95
    saved = Program.from_exported(load_program(output / "model.pt2"))
    stored = load_file(output / "model.safetensors")
    low = getattr(torch, dtype)
    for line in step["layers"]:
        assert stored[line["layer"]].dtype == low
        assert saved.module.get_parameter(line["layer"]).dtype == low


def test_inputs_of_the_type_are_measured_with_the_same_data(tmp_path):
    step = CastConfig("float16", cast_inputs=True)
    output, report = compressed(tmp_path, "images", step, noise_std=0.01, fgsm_epsilon=0.01)
    quality = report["after_recovery"]["quality"]
    assert quality["output_mse"] < 1e-4
    assert quality["fgsm_accuracy"] is not None
    saved = Program.from_exported(load_program(output / "model.pt2"))
    assert saved.example_leaves[0].dtype == torch.float16


@pytest.mark.parametrize(
    "asked",
    [{}, {"rounding": "compensated"}, {"bias_correction": True, "float_layers": 1, "smooth": 0.5}],
    ids=["plain", "compensated", "all"],
)
def test_inputs_of_the_type_are_quantized_with_the_same_data(tmp_path, asked):
    recipe = CastConfig("float16", cast_inputs=True), QuantizeConfig(sample_count=32, **asked)
    _, report = compressed(tmp_path, "images", *recipe)
    assert {line["became"] for line in report["steps"][1]["layers"]} >= {"int8 per_channel"}
    assert report["after_recovery"]["quality"]["output_mse"] < 1e-3


def wide():
    module = nn.Sequential(
        nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.LayerNorm(1024)
    )
    return (
        module.append(nn.Linear(1024, 5)).eval(),
        torch.randn(2, 64),
        draws((8, 64)),
        np.arange(8) % 5,
    )


@pytest.mark.parametrize(("dtype", "share"), [("float16", 0.51), ("float8_e4m3fn", 0.265)])
def test_files_are_of_half_and_of_a_quarter_the_size(tmp_path, monkeypatch, dtype, share):
    monkeypatch.setitem(MODELS, "wide", wide)
    output, report = compressed(tmp_path, "wide", CastConfig(dtype))
    weights = report["before"]["counts"]["size_bytes"]
    assert weights > 4e6
    for name in ("model.pt2", "model.safetensors"):
        assert (output / name).stat().st_size <= share * weights + GRAPH_BYTES
    assert report["after_recovery"]["counts"]["size_bytes"] <= share * weights


def test_onnx_has_float16_and_says_what_it_has_not(tmp_path):
    _, report = compressed(tmp_path, "images", CastConfig("float16"), output_formats=("onnx",))
    [found] = report["formats"]
    assert found["reason"] is None
    assert found["max_relative_error"] < 1e-2


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn"])
def test_onnx_says_that_it_has_no_such_type(tmp_path, dtype):
    _, report = compressed(tmp_path, "recurrent", CastConfig(dtype), output_formats=("onnx",))
    [found] = report["formats"]
    assert found["file"] is None
    assert "onnxruntime has no" in found["reason"]
    assert "ask for float16" in found["reason"]
