"""Rounded programs in onnxruntime: the same outputs, by kernels of integers."""

from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from tests.engine.quantize.networks import SETTING, Residual, encoder, mlp, normal, program
from worker.engine.config import QuantizeConfig
from worker.engine.difference import relative_error
from worker.engine.program import Program
from worker.engine.quantize import quantize
from worker.engine.writers import onnx as writer

STATIC = QuantizeConfig(activations="static", sample_count=32)


class Padded(nn.Module):
    """A residual block whose shortcut has no parameters: every second pixel, and more channels."""

    def __init__(self, pad: tuple[int, ...], channels: int = 8, mode: str = "constant"):
        super().__init__()
        self.pad, self.mode = pad, mode
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.branch = nn.Conv2d(4, channels, 3, 2, 1)
        self.head = nn.Conv2d(channels, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        shortcut = functional.pad(x[:, :, ::2, ::2], self.pad, mode=self.mode)
        branch = functional.pad(self.branch(x), self.pad[:4], mode=self.mode)
        return self.head((branch + shortcut).relu()).mean((2, 3))


def quantized(module: nn.Module, *shape: int) -> Program:
    shape = shape or (3, 8, 8)
    return quantize(program(module, *shape), STATIC, normal(*shape), SETTING).program


def kernels(found: Program, folder: Path) -> Counter[str]:
    """What onnxruntime runs, once it has given the program's outputs."""
    path, optimized = folder / "model.onnx", folder / "optimized.onnx"
    writer.write(found, None, path)
    [example] = found.example_leaves
    inputs = torch.from_numpy(normal(*example.shape[1:]).inputs[0][:5])
    expected = found.run([inputs])
    assert relative_error(writer.run(path, [[inputs]]), expected) <= 0.02, "a code apart"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimized)
    onnxruntime.InferenceSession(path, options)
    return Counter(node.op_type for node in onnx.load(optimized).graph.node)


@torch.no_grad()
def test_convolutions_and_residual_sums_are_of_integers(tmp_path):
    found = kernels(quantized(Residual()), tmp_path)
    assert found["QLinearConv"] == 3
    assert found["QLinearAdd"] == 2
    assert found["Conv"] == found["Add"] == 0


@torch.no_grad()
def test_products_are_of_integers_where_another_follows(tmp_path):
    """The relu between two is left out, as codes end there: the product's own sum is rounded."""
    found = kernels(quantized(mlp(), 6), tmp_path)
    assert found["QGemm"] == 3
    assert found["MatMul"] == found["Gemm"] == 0


@torch.no_grad()
def test_a_transformer_runs_with_rounded_activations(tmp_path):
    found = kernels(quantized(encoder(), 5, 16), tmp_path)
    assert found["MatMul"] + found["FusedMatMul"] == 2, "those of attention are of activations"


@torch.no_grad()
def test_a_shortcut_that_pads_channels_pads_codes(tmp_path):
    found = kernels(quantized(Padded((0, 0, 0, 0, 2, 2))), tmp_path)
    assert found["QLinearConv"] == 3
    assert found["QLinearAdd"] == 1
    # One for the mean, which is of floats; none for what is padded.
    assert found["DequantizeLinear"] == 1
    assert found["QuantizeLinear"] == 1


@torch.no_grad()
def test_padding_by_what_is_no_zero_stays_as_it_is(tmp_path):
    found = kernels(quantized(Padded((1, 1, 1, 1), channels=4, mode="replicate")), tmp_path)
    assert found["Add"] == 1


@settings(max_examples=6, deadline=None)
@given(
    width=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    height=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    channels=st.none() | st.integers(0, 4),
)
@torch.no_grad()
def test_each_end_is_padded_as_torch_does(tmp_path_factory, width, height, channels):
    behind = () if channels is None else (channels, 4 - channels)
    module = Padded((*width, *height, *behind), channels=4 if channels is None else 8)
    kernels(quantized(module), tmp_path_factory.mktemp("padded"))


@torch.no_grad()
def test_shapes_of_inner_values_take_no_room(tmp_path):
    kernels(quantized(Residual()), tmp_path)
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert not graph.value_info
    assert [dim.dim_value for dim in graph.output[0].type.tensor_type.shape.dim][1:] == [5]


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "entropy", "mse"])
@torch.no_grad()
def test_every_calibration_is_written(tmp_path, calibration):
    asked = QuantizeConfig(activations="static", sample_count=32, calibration=calibration)
    found = quantize(program(Residual(), 3, 8, 8), asked, normal(3, 8, 8), SETTING).program
    assert kernels(found, tmp_path)["QLinearConv"] == 3
