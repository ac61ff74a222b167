"""Batch norms become parts of the layers in front of them, exactly."""

import pytest
import torch
from torch import Tensor, nn

from tests.engine.quantize.networks import normal, outputs, program, residual, tensors
from worker.engine.difference import TOLERANCE, relative_error
from worker.engine.program import Program
from worker.engine.quantize.fold import folded


def _norms(found: Program) -> int:
    return sum("batch_norm" in str(node.target) for node in found.graph.nodes)


def _names(found: Program) -> set[str]:
    return set(found.module.state_dict())


class Chain(nn.Module):
    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layer, self.norm, *rest = layers
        self.rest = nn.Sequential(*rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.norm(self.layer(x)))


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), (4, 9)),
        (nn.Conv1d(4, 6, 3, padding="same"), nn.BatchNorm1d(6), (4, 9)),
        (nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), (4, 7, 7)),
        (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False), (4, 7, 7)),
        (nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8), (4, 7, 7)),
        (nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4), (4, 7, 7)),
        (nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3), (2, 4, 4, 4)),
        (nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d(6), (4, 5)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6), (4, 5, 5)),
        (nn.ConvTranspose3d(2, 3, 2), nn.BatchNorm3d(3), (2, 3, 3, 3)),
        (nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6), (5,)),
        (nn.Linear(5, 6), nn.BatchNorm1d(6, eps=0.1), (5,)),
    ],
    ids=str,
)
def test_a_norm_becomes_a_part_of_its_layer(layer, norm, shape):
    original = program(Chain(layer, norm), *shape)
    before = tensors(original)
    result = folded(original)
    rows = normal(*shape)
    assert _norms(result) == 0
    assert relative_error(outputs(result, rows), outputs(original, rows)) < 1e-5
    assert _names(result) == {"layer.weight", "layer.bias"}
    assert result.input_sizes == original.input_sizes
    after = tensors(original)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert _norms(original) == 1


def test_two_norms_behind_each_other_are_folded_both():
    original = program(Chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)), 3, 6, 6)
    result = folded(original)
    rows = normal(3, 6, 6)
    assert _norms(result) == 0
    assert relative_error(outputs(result, rows), outputs(original, rows)) < 1e-5


@pytest.mark.parametrize("inplace", [False, True])
def test_a_network_with_residual_blocks_is_folded(inplace):
    original = residual(inplace=inplace)
    result = folded(original)
    rows = normal(3, 8, 8)
    assert _norms(result) == 0
    assert relative_error(outputs(result, rows), outputs(original, rows)) < TOLERANCE
    assert {name for name in _names(result) if "norm" in name} == set()
    again = Program.from_exported(result.export())
    assert relative_error(outputs(again, rows), outputs(result, rows)) == 0


class ReadTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        made = self.layer(x)
        return self.norm(made) + made


class SharedWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(self.layer(x)))


class NormAlongLength(nn.Module):
    """What a linear layer gives has its channels last; the norm is of the dimension before."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 5)
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x))


class ComputedWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 3, 3, 3))
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.conv2d(x, self.weight.tanh()))


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (ReadTwice(), (3, 6, 6)),
        (SharedWeight(), (3, 6, 6)),
        (NormAlongLength(), (5, 4)),
        (ComputedWeight(), (3, 6, 6)),
        (Chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), (3, 6, 6)),
        (Chain(nn.Tanh(), nn.BatchNorm2d(3)), (3, 6, 6)),
        (Chain(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.BatchNorm2d(4)), (3, 6, 6)),
    ],
    ids=["read_twice", "shared", "length", "computed", "no_statistics", "no_layer", "behind_tanh"],
)
def test_what_cannot_be_folded_stays(module, shape):
    original = program(module, *shape)
    assert folded(original) is original


def test_a_norm_that_is_used_twice_leaves_its_tensors_to_the_use_that_stays():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 3)
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.layer(self.norm(x)))

    original = program(Shared(), 3, 6, 6)
    result = folded(original)
    rows = normal(3, 6, 6)
    assert _norms(result) == 1
    assert relative_error(outputs(result, rows), outputs(original, rows)) < 1e-5
    assert "norm.running_mean" in _names(result)


def test_a_bias_gets_a_name_that_is_free():
    class Taken(nn.Module):
        """The name that the bias would have is one of a buffer."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 3, 3, 3))
            self.register_buffer("bias", torch.ones(4, 1, 1))
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(torch.conv2d(x, self.weight)) + self.bias

    original = program(Taken(), 3, 6, 6)
    result = folded(original)
    rows = normal(3, 6, 6)
    assert relative_error(outputs(result, rows), outputs(original, rows)) < 1e-5
    assert set(dict(result.module.named_parameters())) == {"weight", "bias_1"}
