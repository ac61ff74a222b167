"""Quantized programs as ONNX: what onnxruntime computes, and with which kernels."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tests.engine.quantize.networks import (
    SETTING,
    Residual,
    config,
    encoder,
    mlp,
    normal,
    program,
)
from worker.engine.data import Rows
from worker.engine.program import Program
from worker.engine.quantize import quantize
from worker.engine.writers import WRITERS

WEIGHTS = {
    "int8": {},
    "int8 per tensor": {"granularity": "per_tensor"},
    "int8 around anything": {"symmetric": False},
    "int4 in groups": {
        "weights": "int4", "granularity": "per_group", "group_size": 8, "symmetric": False
    },
    "int4 in ragged groups": {"weights": "int4", "granularity": "per_group", "group_size": 7},
    "int4 per channel": {"weights": "int4"},
    "int2": {"weights": "int2", "granularity": "per_group", "group_size": 8, "symmetric": False},
    "ternary": {"weights": "ternary"},
    "codebook of 2": {"weights": "codebook", "codebook_size": 2},
    "codebook of 6": {"weights": "codebook", "codebook_size": 6, "granularity": "per_tensor"},
    "codebook of 100": {"weights": "codebook", "codebook_size": 100, "granularity": "per_tensor"},
}  # fmt: skip


def written(changed: Program, path: Path) -> onnx.ModelProto:
    WRITERS["onnx"].write(changed, None, path)
    return onnx.load(path)


def session(path: Path, *, exact: bool = False) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    if exact:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def kernels(path: Path) -> list[str]:
    """The operators that are left once onnxruntime has optimized the file."""
    session(path)
    return [node.op_type for node in onnx.load(path.with_suffix(".optimized.onnx")).graph.node]


def error(path: Path, changed: Program, x: Tensor, *, exact: bool = False) -> float:
    found = session(path, exact=exact).run(None, feed(path, x))[0]
    with torch.no_grad():
        expected = changed.run([x])[0].numpy()
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def feed(path: Path, x: Tensor) -> dict[str, np.ndarray]:
    return {onnx.load(path).graph.input[0].name: x.numpy()}


def wide() -> Residual:
    net = Residual()
    net.head = nn.Linear(8, 16)
    return net


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_of_codes_are_what_the_program_computes_with(name: str, tmp_path: Path):
    changed = quantize(program(wide(), 3, 8, 8), config(**WEIGHTS[name]), None, SETTING).program
    path = tmp_path / "model.onnx"
    model = written(changed, path)
    # With another batch than the example's; products that round what they read are told not to.
    assert error(path, changed, torch.randn(5, 3, 8, 8), exact=True) < 1e-4
    floats = [each for each in model.graph.initializer if each.data_type == onnx.TensorProto.FLOAT]
    assert max(np.prod(each.dims) for each in floats) < 300
    onnx.checker.check_model(path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("int4 in ragged groups", onnx.TensorProto.UINT4),
        ("codebook of 6", onnx.TensorProto.UINT4),
        ("int2", onnx.TensorProto.UINT2),
        ("ternary", onnx.TensorProto.UINT2),
        ("codebook of 2", onnx.TensorProto.UINT2),
        ("codebook of 100", onnx.TensorProto.UINT8),
    ],
)
def test_codes_take_the_bits_that_onnx_has_for_them(name: str, kind: int, tmp_path: Path):
    changed = quantize(program(wide(), 3, 8, 8), config(**WEIGHTS[name]), None, SETTING).program
    model = written(changed, tmp_path / "model.onnx")
    kinds = {each.data_type for each in model.graph.initializer if "codes" in each.name}
    assert kinds == {kind}


def test_a_product_with_codes_is_a_kernel_of_few_bits(tmp_path: Path):
    net = program(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16)), 64)
    for name in ("int8", "int4 in groups", "int4 per channel"):
        options = {**WEIGHTS[name], **({"group_size": 32} if "groups" in name else {})}
        changed = quantize(net, config(**options), None, SETTING).program
        path = tmp_path / "model.onnx"
        written(changed, path)
        assert kernels(path).count("MatMulNBits") == 2
        x = torch.randn(3, 64)
        assert error(path, changed, x) < 0.05


def test_rounded_convolutions_and_sums_are_integer_kernels(tmp_path: Path):
    rows = normal(3, 8, 8)
    changed = quantize(
        program(Residual(), 3, 8, 8), config(activations="static"), rows, SETTING
    ).program
    path = tmp_path / "model.onnx"
    written(changed, path)
    found = kernels(path)
    assert found.count("QLinearConv") == 3
    assert found.count("QLinearAdd") == 2
    assert not {"Conv", "Add", "Relu", "MatMul", "Gemm"} & set(found)
    assert error(path, changed, torch.from_numpy(np.asarray(rows.inputs[0])[:5])) < 0.05


def test_rounded_linear_layers_are_integer_kernels(tmp_path: Path):
    for net, shape in ((mlp(), (6,)), (encoder(), (6, 16))):
        rows = normal(*shape)
        float_program = program(net, *shape)
        for activations, kernel in (
            ("static", {"QGemm", "MatMulIntegerToFloat", "QLinearMatMul"}),
            ("dynamic", {"DynamicQuantizeMatMul"}),
        ):
            asked = config(activations=activations)
            changed = quantize(float_program, asked, rows, SETTING)
            path = tmp_path / "model.onnx"
            written(changed.program, path)
            count = sum(line.reason is None for line in changed.layers)
            integer = [each for each in kernels(path) if each in kernel]
            # Attention's packed projection is one product of three.
            assert len(integer) >= count - 1
            x = torch.from_numpy(np.asarray(rows.inputs[0])[:5])
            assert error(path, changed.program, x) < 0.05


def test_pools_and_reshapes_move_codes(tmp_path: Path):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3)
            self.second = nn.Conv2d(8, 8, 3)
            self.head = nn.Linear(8 * 4, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.max_pool2d(self.first(x).relu(), 2)
            return self.head(nn.functional.max_pool2d(self.second(x).relu(), 2).flatten(1))

    rows = normal(3, 14, 14)
    net = program(Pooled(), 3, 14, 14)
    changed = quantize(net, config(activations="static"), rows, SETTING).program
    path = tmp_path / "model.onnx"
    written(changed, path)
    found = kernels(path)
    assert found.count("QLinearConv") == 2
    assert "MaxPool" not in found or found.count("DequantizeLinear") <= 1
    assert error(path, changed, torch.from_numpy(np.asarray(rows.inputs[0])[:5])) < 0.05


def test_a_recurrent_layer_with_codes_is_written(tmp_path: Path):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(8, 12, batch_first=True)
            self.head = nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0][:, -1])

    net = program(Recurrent(), 6, 8)
    rows = Rows((np.random.default_rng(0).normal(size=(48, 6, 8)).astype(np.float32),), None)
    for options in ({}, {"weights": "int4"}, {"activations": "static"}):
        changed = quantize(net, config(**options), rows, SETTING).program
        path = tmp_path / "model.onnx"
        written(changed, path)
        assert error(path, changed, torch.randn(5, 6, 8), exact=True) < 0.02
