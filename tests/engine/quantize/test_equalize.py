"""Channels between two layers are scaled: outputs stay, and both weights become of one size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.engine.quantize.networks import mlp, normal, outputs, program, residual, tensors
from tests.zoo.exported import pattern_program
from worker.engine.difference import relative_error
from worker.engine.program import Program
from worker.engine.quantize.equalize import equalized
from worker.engine.quantize.fold import folded


def _conv(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *layers)


_PAIRS = {
    "linear": (nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)), (6,), 1),
    "mlp": (mlp(), (6,), 2),
    "linear_over_positions": (
        nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)),
        (3, 6),
        1,
    ),
    "convolutions": (_conv(nn.LeakyReLU(0.1), nn.Conv2d(8, 5, 3, bias=False)), (3, 6, 6), 1),
    "grouped": (_conv(nn.ReLU(inplace=True), nn.Conv2d(8, 6, 3, groups=2)), (3, 6, 6), 1),
    "depthwise": (
        _conv(nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1)),
        (3, 6, 6),
        2,
    ),
    "multiplied": (_conv(nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 4, 1)), (3, 6, 6), 2),
    "pooled": (
        _conv(nn.MaxPool2d(2), nn.ReLU(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(8, 4)),
        (3, 6, 6),
        1,
    ),
    "flattened": (_conv(nn.PReLU(), nn.Flatten(), nn.Linear(8 * 16, 4)), (3, 4, 4), 1),
    "dropped": (nn.Sequential(nn.Linear(6, 5), nn.Dropout(), nn.Linear(5, 4)), (6,), 1),
    "in_one_dimension": (
        nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(2), nn.Conv1d(8, 4, 2)),
        (3, 9),
        1,
    ),
}


@pytest.mark.parametrize("name", _PAIRS)
def test_outputs_stay_and_weights_become_of_one_size(name):
    module, shape, count = _PAIRS[name]
    original = program(module, *shape)
    before = tensors(original)
    result, found = equalized(original)
    assert found == count
    rows = normal(*shape)
    assert relative_error(outputs(result, rows), outputs(original, rows)) < 1e-5
    after = tensors(original)
    assert all(torch.equal(before[each], after[each]) for each in before)
    changed = tensors(result)
    assert changed.keys() == before.keys()
    weights = [each for each in changed if each.endswith("weight") and changed[each].dim() > 1]
    assert all(not torch.equal(before[each], changed[each]) for each in weights)
    again = Program.from_exported(result.export())
    assert all(map(torch.equal, outputs(again, rows), outputs(result, rows)))


def test_what_makes_a_channel_and_what_reads_it_are_as_large():
    result, _ = equalized(program(mlp(), 6))
    found = tensors(result)
    for first, second in (("0.weight", "2.weight"), ("2.weight", "4.weight")):
        made, read = found[first].abs().amax(1), found[second].abs().amax(0)
        torch.testing.assert_close(made, read, rtol=1e-2, atol=0)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), spread=st.floats(0, 4))
def test_weights_of_one_scale_lose_less(seed, spread):
    """Channels of very different sizes are what one scale for all of a weight cannot serve."""
    draw = torch.Generator().manual_seed(seed)
    sizes = torch.exp(spread * torch.randn(16, generator=draw))
    original = _MLP.copy()
    parameters = dict(original.module.named_parameters())
    for name, parameter in parameters.items():
        parameter.data = torch.randn(parameter.shape, generator=draw)
        if name in ("0.weight", "0.bias"):
            parameter.data *= sizes.view(-1, *[1] * (parameter.dim() - 1))
        if name == "2.weight":
            parameter.data /= sizes
    result, _ = equalized(original)
    rows = normal(6)
    assert relative_error(outputs(result, rows), outputs(original, rows)) < 1e-4
    before = original.module.get_parameter("0.weight").detach().abs()
    after = result.module.get_parameter("0.weight").detach().abs()
    # How much of one scale for all a channel makes use of.
    assert _use(after) >= _use(before) - 0.05


def _use(weight: Tensor) -> float:
    return float((weight.amax(1) / weight.amax()).log().mean())


_MLP = program(mlp(), 6)


def test_a_channel_that_nobody_makes_or_reads_stays_as_it_is():
    module = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    original = program(module, 6)
    original.module.get_parameter("0.weight").data[0] = 0
    original.module.get_parameter("2.weight").data[:, 1] = 0
    result, _ = equalized(original)
    rows = normal(6)
    assert relative_error(outputs(result, rows), outputs(original, rows)) < 1e-5
    before, after = tensors(original), tensors(result)
    assert torch.equal(before["0.bias"][:2], after["0.bias"][:2])


class ReadTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x) + x


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(self.first(x))


class Mixed(nn.Module):
    """The channels of one are the positions of the other."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Conv1d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Pooled(nn.Module):
    """Pooling runs over channels."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.max_pool1d(self.first(x), 2))


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (ReadTwice(), (6,)),
        (Shared(), (6,)),
        (Mixed(), (4, 6)),
        (Pooled(), (3, 6)),
        (nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 4)), (6,)),
        (nn.Sequential(nn.Linear(6, 5), nn.ReLU6(), nn.Linear(5, 4)), (6,)),
        (nn.Sequential(nn.Linear(6, 5), nn.PReLU(5), nn.Linear(5, 4)), (6,)),
        (nn.Linear(6, 5), (6,)),
    ],
    ids=["twice", "shared", "mixed", "pooled", "gelu", "relu6", "slopes", "alone"],
)
def test_other_pairs_are_left_alone(module, shape):
    original = program(module, *shape)
    assert equalized(original) == (original, 0)


@pytest.mark.parametrize(
    "name",
    ["residual", "encoder_decoder", "grouped_transposed", "reused", "tied_weights", "mixer",
     "concatenation", "split", "convolution_1d", "convolution_3d", "post_norm_encoder"],
)  # fmt: skip
def test_outputs_of_other_networks_stay(name):
    original = pattern_program(name)
    result, _ = equalized(original)
    with torch.no_grad():
        found, expected = (each.run(original.example_leaves) for each in (result, original))
    assert relative_error(found, expected) < 1e-4


def test_residual_blocks_have_no_pairs_around_their_sums():
    original = folded(residual())
    _, count = equalized(original)
    assert count == 0
