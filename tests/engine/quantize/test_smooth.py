"""Norms give less extreme numbers to linear layers, whose weights make up for it exactly."""

import numpy as np
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
    tensors,
)
from tests.zoo.exported import pattern_program
from worker.engine.difference import relative_error
from worker.engine.errors import DataMismatchError, NotFiniteError
from worker.engine.graph.weights import weight_calls
from worker.engine.program import Program
from worker.engine.quantize.activations import with_dynamic
from worker.engine.quantize.smooth import smoothed


class Heads(nn.Module):
    """A norm that three linear layers read, one of which is a matrix product."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm
        self.query, self.key = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.table = nn.Parameter(torch.ones(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.query(x) * self.key(x) + x @ self.table


class WrittenRMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


_NORMS = {
    "layer_norm": lambda: nn.LayerNorm(6),
    "layer_norm_without_bias": lambda: nn.LayerNorm(6, bias=False),
    "rms_norm": lambda: nn.RMSNorm(6),
    "written": WrittenRMSNorm,
}


def _smoothed(original: Program, *shape: int, alpha: float = 0.5) -> tuple[Program, int]:
    return smoothed(original, alpha, config(), normal(*shape), SETTING)


@pytest.mark.parametrize("name", _NORMS)
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_outputs_stay_and_scales_are_those_of_the_paper(name, alpha):
    original = program(Heads(_NORMS[name]()), 4, 6)
    before = tensors(original)
    result, count = _smoothed(original, 4, 6, alpha=alpha)
    assert count == 1
    rows = normal(4, 6)
    assert relative_error(outputs(result, rows), outputs(original, rows)) < 1e-4
    module = Heads(_NORMS[name]())
    module.load_state_dict(before)
    with torch.no_grad():
        largest = module.norm(torch.from_numpy(np.asarray(rows.inputs[0]))).abs().amax((0, 1))
    weights = [before["query.weight"].T, before["key.weight"].T, before["table"]]
    read = torch.stack([weight.abs().amax(1) for weight in weights]).amax(0)
    scale = largest**alpha / read ** (1 - alpha)
    after = tensors(result)
    for each, factor in {
        "norm.weight": 1 / scale,
        "query.weight": scale,
        "key.weight": scale,
        "table": scale[:, None],
    }.items():
        torch.testing.assert_close(after[each], before[each] * factor, rtol=1e-4, atol=1e-6)
    assert torch.equal(after["query.bias"], before["query.bias"])
    assert all(torch.equal(before[each], tensors(original)[each]) for each in before)
    again = Program.from_exported(result.export())
    assert relative_error(outputs(again, rows), outputs(result, rows)) == 0


def test_a_loud_channel_costs_less_once_it_is_smoothed():
    module = Heads(nn.LayerNorm(6))
    original = program(module, 4, 6)
    original.module.get_parameter("norm.weight").data[2] = 100.0
    for name in ("query.weight", "key.weight"):
        original.module.get_parameter(name).data[:, 2] /= 100
    original.module.get_parameter("table").data[2] /= 100
    result, _ = _smoothed(original, 4, 6)
    rows = normal(4, 6)
    errors = [
        distance(with_dynamic(each, list(weight_calls(each)))[0], original, rows)
        for each in (original, result)
    ]
    assert errors[1] < 0.05 * errors[0]


def test_a_transformer_has_both_of_its_norms_smoothed():
    original = program(encoder(), 5, 16)
    result, count = _smoothed(original, 5, 16)
    assert count == 2
    rows = normal(5, 16)
    assert relative_error(outputs(result, rows), outputs(original, rows)) < 1e-4


def test_a_channel_that_is_always_zero_stays():
    original = program(Heads(nn.LayerNorm(6, bias=False)), 4, 6)
    original.module.get_parameter("norm.weight").data[1] = 0
    result, _ = _smoothed(original, 4, 6)
    before, after = tensors(original), tensors(result)
    assert torch.equal(after["table"][1], before["table"][1])
    assert all(tensor.isfinite().all() for tensor in after.values())


class Residual(nn.Module):
    """Something else than a linear layer reads the norm's result."""

    def __init__(self):
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return x + self.layer(x)


class Turned(nn.Module):
    """The linear layer reads another dimension than the norm's."""

    def __init__(self):
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.norm(x).transpose(1, 2))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(self.norm(x)))


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (Residual(), (4, 6)),
        (Turned(), (6, 6)),
        (Tied(), (4, 6)),
        (nn.Sequential(nn.LayerNorm(6, elementwise_affine=False), nn.Linear(6, 6)), (4, 6)),
        (nn.Sequential(nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 6)), (4, 6)),
        (nn.LayerNorm(6), (4, 6)),
        (mlp(), (6,)),
    ],
    ids=["residual", "turned", "tied", "no_weight", "relu_between", "output", "no_norm"],
)
def test_other_norms_are_left_alone(module, shape):
    original = program(module, *shape)
    assert _smoothed(original, *shape) == (original, 0)


@pytest.mark.parametrize("name", ["fused_rms_norm", "written_rms_norm", "vision_transformer"])
def test_outputs_of_other_networks_stay(name):
    original = pattern_program(name)
    [example] = original.example_leaves
    result, _ = _smoothed(original, *example.shape[1:])
    with torch.no_grad():
        found, expected = (each.run([example]) for each in (result, original))
    assert relative_error(found, expected) < 1e-4


def test_few_rows_are_refused():
    original = program(Heads(nn.LayerNorm(6)), 4, 6)
    with pytest.raises(DataMismatchError, match="at least 16"):
        smoothed(original, 0.5, config(), normal(4, 6, count=5), SETTING)


def test_what_is_not_finite_is_refused():
    original = program(Heads(nn.LayerNorm(6)), 4, 6)
    original.module.get_parameter("norm.weight").data[1] = float("inf")
    with pytest.raises(NotFiniteError, match=r"the norm of norm\.weight"):
        _smoothed(original, 4, 6)
