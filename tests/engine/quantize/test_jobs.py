"""Whole jobs that quantize: sizes of real files, and products behind products in ONNX."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from tests.engine.verified import verify_here
from tests.zoo.exported import export
from worker.engine.compress import compress
from worker.engine.config import EvaluationConfig, QuantizeConfig, Request
from worker.engine.load import load_program
from worker.engine.quantize.codes import Scheme, about_weight

GRAPH_BYTES = 48 * 1024
"""What a file has besides codes: the graph's text and what stays float."""

INT8 = QuantizeConfig()
STATIC = QuantizeConfig(activations="static")
DYNAMIC = QuantizeConfig(activations="dynamic")
INT4 = QuantizeConfig(weights="int4", granularity="per_group", symmetric=False)
INT2 = QuantizeConfig(weights="int2", granularity="per_group", symmetric=False)
TERNARY = QuantizeConfig(weights="ternary")


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    verify_here(monkeypatch)


def compressed(tmp_path, module, step, *, width):
    """The files that a job makes of a module which reads so many numbers, and its report."""
    torch.export.save(export(module.eval(), torch.randn(2, width)), tmp_path / "upload.pt2")
    inputs = np.random.default_rng(0).normal(size=(64, width)).astype(np.float32)
    np.savez(tmp_path / "data.npz", inputs=inputs)
    output = tmp_path / "output"
    output.mkdir()
    request = Request(
        model=tmp_path / "upload.pt2",
        model_sha256="0" * 64,
        recipe=(step,),
        output_dir=output,
        train=tmp_path / "data.npz",
        evaluation=EvaluationConfig(latency_rounds=0),
        output_formats=("onnx",),
    )
    return output, compress(request, on_progress=lambda *_: None), inputs


def wide():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 5)
    )


@pytest.mark.parametrize(
    ("step", "share"),
    [(INT4, 0.15), (INT2, 0.09), (TERNARY, 0.09)],
    ids=["int4", "int2", "ternary"],
)
def test_files_are_as_small_as_the_format_promises(tmp_path, step, share):
    output, report, _ = compressed(tmp_path, wide(), step, width=64)
    weights = report["before"]["counts"]["size_bytes"]
    assert weights > 4e6
    assert report["after_recovery"]["counts"]["size_bytes"] <= share * weights
    for name in ("model.pt2", "model.safetensors", "model.onnx"):
        assert (output / name).stat().st_size <= share * weights + GRAPH_BYTES, name


def chain(*between):
    """Products whose outputs are read by products at once, or behind what is given."""
    torch.manual_seed(1)
    layers = [nn.Linear(16, 32), *between, nn.Linear(32, 24), *between, nn.Linear(24, 4)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("step", "between"),
    [(INT8, ()), (STATIC, ()), (STATIC, (nn.ReLU(),)), (DYNAMIC, ())],
    ids=["int8", "static", "static-relu", "dynamic"],
)
def test_what_a_product_gives_is_read_by_the_next_in_onnx(tmp_path, step, between):
    output, report, inputs = compressed(tmp_path, chain(*between), step, width=16)
    [found] = report["formats"]
    assert found["reason"] is None
    with torch.no_grad():
        expected = load_program(output / "model.pt2").module()(torch.from_numpy(inputs)).numpy()
    session = onnxruntime.InferenceSession(
        output / "model.onnx", providers=["CPUExecutionProvider"]
    )
    [outputs] = session.run(None, {session.get_inputs()[0].name: inputs})
    assert np.abs(outputs - expected).max() <= 0.03 * np.abs(expected).max()


@pytest.mark.parametrize(("inputs", "size"), [(8, 8), (64, 64), (160, 64)])
def test_a_group_is_no_larger_than_the_inputs(inputs, size):
    about = about_weight(("weight",), torch.zeros(6, inputs), Scheme.of(INT4), axis=0)
    assert about.group_size == size
