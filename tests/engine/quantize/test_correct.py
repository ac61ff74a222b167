"""Biases make up for what quantization moves in the mean: exactly where nothing else moves."""

import pytest
import torch
from torch import Tensor, nn

from tests.engine.quantize.networks import (
    SETTING,
    config,
    distance,
    encoder,
    mlp,
    normal,
    outputs,
    program,
    residual,
    tensors,
)
from worker.engine.errors import DataMismatchError, NotFiniteError
from worker.engine.graph.weights import weight_calls
from worker.engine.program import Program
from worker.engine.quantize.activations import with_static
from worker.engine.quantize.calibrate import Range, calibrated
from worker.engine.quantize.correct import bias_corrected
from worker.engine.quantize.fold import folded
from worker.engine.quantize.points import points_of


def _coarse(original: Program, levels: int = 3) -> Program:
    """All weights of few levels, and all biases as they are."""
    result = original.copy()
    for parameter in result.module.parameters():
        if parameter.dim() > 1:
            scale = parameter.detach().abs().amax() / levels
            parameter.data = (parameter.detach() / scale).round() * scale
    return result


def _corrected(quantized: Program, original: Program, *shape: int, **options: object) -> Program:
    calls = list(weight_calls(original))
    rows = normal(*shape)
    return bias_corrected(quantized, original, config(**options), rows, SETTING, calls)


@pytest.mark.parametrize("batch_size", [16, 48])
def test_each_layer_has_the_mean_that_it_had(batch_size):
    original = program(mlp(), 6)
    quantized = _coarse(original)
    before = tensors(quantized)
    result = _corrected(quantized, original, 6, batch_size=batch_size)
    rows = normal(6)
    found, expected = outputs(result, rows)[0], outputs(original, rows)[0]
    torch.testing.assert_close(found.mean(0), expected.mean(0), rtol=1e-4, atol=1e-5)
    was = outputs(quantized, rows)[0]
    assert (was.mean(0) - expected.mean(0)).abs().max() > 1e-2
    after = tensors(quantized)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_first_bias_is_that_of_a_computation_by_hand():
    original = program(nn.Conv2d(3, 4, 3), 3, 6, 6)
    quantized = _coarse(original)
    result = _corrected(quantized, original, 3, 6, 6)
    rows = normal(3, 6, 6)
    lacks = (outputs(original, rows)[0] - outputs(quantized, rows)[0]).mean((0, 2, 3))
    expected = tensors(original)["bias"] + lacks
    torch.testing.assert_close(tensors(result)["bias"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "shape"),
    [(lambda: folded(residual()), (3, 8, 8)), (lambda: program(encoder(), 5, 16), (5, 16))],
    ids=["residual", "encoder"],
)
def test_outputs_come_nearer(make, shape):
    original = make()
    quantized = _coarse(original)
    result = _corrected(quantized, original, *shape)
    rows = normal(*shape)
    assert distance(result, original, rows) < 0.7 * distance(quantized, original, rows)


def test_rounded_activations_are_corrected_too():
    original, rows = folded(residual()), normal(3, 8, 8)
    points = points_of(original, list(weight_calls(original)))
    ranges = calibrated(original, points, config(), rows, SETTING)
    narrow = [Range.of(0.0, each.scale * 100) for each in ranges]
    quantized, _ = with_static(original, points, narrow)
    result = _corrected(quantized, original, 3, 8, 8)
    means = [outputs(each, rows)[0].mean(0) for each in (original, quantized, result)]
    assert (means[1] - means[0]).abs().max() > 1e-2
    torch.testing.assert_close(means[2], means[0], rtol=1e-3, atol=1e-4)


def test_nothing_moves_where_nothing_was_lost():
    original = program(mlp(), 6)
    result = _corrected(original, original, 6)
    before, after = tensors(original), tensors(result)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_biases_that_are_not_a_layer_s_own_stay():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv_first, self.conv_last = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            made = self.conv_first(x).relu() + self.conv_first.bias
            return self.conv_last(made)

    original = program(Shared(), 6)
    quantized = _coarse(original)
    before, after = tensors(quantized), tensors(_corrected(quantized, original, 6))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_few_rows_are_refused():
    original = program(mlp(), 6)
    calls = list(weight_calls(original))
    with pytest.raises(DataMismatchError, match="at least 16"):
        bias_corrected(original, original, config(), normal(6, count=9), SETTING, calls)


def test_what_is_not_finite_is_refused():
    original = program(mlp(), 6)
    quantized = original.copy()
    next(quantized.module.parameters()).data.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match=r"the layer of 0\.bias"):
        _corrected(quantized, original, 6)
