"""Which values are rounded, so that calls can compute with integers."""

import keyword

import pytest
import torch
from torch import Tensor, nn

from tests.engine.quantize.networks import Residual, encoder, mlp, program, residual
from tests.zoo.exported import pattern_program
from worker.engine.graph.weights import weight_calls
from worker.engine.program import Program
from worker.engine.quantize.fold import folded
from worker.engine.quantize.points import ENDINGS, Point, points_of


def _points(found: Program) -> list[Point]:
    return points_of(found, list(weight_calls(found)))


def _at(found: Program) -> dict[str, str]:
    """By name the operator whose value is rounded."""
    return {
        point.name: point.node.name if point.node.op == "placeholder" else str(point.node.target)
        for point in _points(found)
    }


@pytest.mark.parametrize(("inplace", "mark"), [(False, ""), (True, "_")])
def test_convolutions_and_sums_have_both_ends_rounded(inplace, mark):
    found = _at(folded(residual(inplace=inplace)))
    relu = f"aten.relu{mark}.default"
    assert list(found.items()) == [
        ("stem.input", "x"),
        ("stem.output", relu),
        ("first.output", "aten.conv2d.default"),
        ("add", relu),
        ("second.output", "aten.conv2d.default"),
        ("add_1", relu),
        ("head.input", "aten.flatten.using_ints"),
    ]


def test_matrix_products_have_their_inputs_rounded():
    assert _at(program(mlp(), 6)) == {
        "0.input": "input_1",
        "2.input": "aten.relu.default",
        "4.input": "aten.relu.default",
    }


def test_calls_that_read_one_value_share_its_point():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key = nn.Linear(6, 4), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.query(x) * self.key(x)

    assert _at(program(Heads(), 6)) == {"query.input": "x"}


def test_a_transformer_has_four_points():
    assert [point.name for point in _points(program(encoder(), 5, 16))] == [
        "self_attn.in_proj_input",
        "self_attn.out_proj.input",
        "linear1.input",
        "linear2.input",
    ]


def test_nothing_is_rounded_behind_what_gives_back_rounded_numbers():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.head = nn.Linear(4 * 9, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.max_pool2d(self.conv(x).relu(), 2)
            return self.head(x.permute(0, 1, 3, 2).flatten(1))

    assert list(_at(program(Pooled(), 3, 6, 6))) == ["conv.input", "conv.output"]


def test_an_average_is_rounded_where_a_call_reads_it():
    class Averaged(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(x).relu().mean((2, 3)))

    assert _at(program(Averaged(), 3, 6, 6))["head.input"] == "aten.mean.dim"


def test_an_output_is_not_rounded():
    found = program(nn.Conv2d(3, 4, 3), 3, 6, 6)
    assert list(_at(found)) == ["input"]


def test_a_sum_with_something_that_is_not_rounded_is_not_rounded_for_itself():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return (self.conv(x) + x.tanh()).relu().mean((2, 3))

    assert list(_at(program(Sum(), 3, 6, 6))) == ["conv.input", "conv.output"]


def test_what_is_written_later_is_not_rounded():
    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.head = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            made = self.conv(x)
            made[:, :2].mul_(2.0)
            return self.head(made).relu().mean((2, 3))

    found = _at(program(Written(), 3, 6, 6))
    assert "conv.output" not in found
    assert found.keys() == {"conv.input", "head.output"}


def test_whole_numbers_and_constants_are_not_rounded():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 6))
            self.register_buffer("table", torch.ones(3, 6))

        def forward(self, x: Tensor) -> Tensor:
            return (self.table * 2) @ self.weight.T + x.sum()

    assert _at(program(Constant(), 6)) == {}


@pytest.mark.parametrize(
    "name", ["mlp", "concatenation", "written_in_place", "reused", "vision_transformer", "mixer"]
)
def test_names_are_free_and_can_be_attributes(name):
    found = pattern_program(name)
    names = [point.name for point in _points(found)]
    assert len(set(names)) == len(names) > 0
    for each in names:
        owner, _, leaf = each.rpartition(".")
        holder = found.module.get_submodule(owner)
        assert not any(hasattr(holder, leaf + ending) for ending in ENDINGS)
        assert f"_{leaf}".isidentifier()
        assert not keyword.iskeyword(leaf)


def test_a_name_that_is_taken_gets_a_number():
    module = Residual()
    module.stem.register_buffer("input_scale", torch.ones(3, 1, 1))
    module.forward = lambda x: Residual.forward(module, x * module.stem.input_scale)
    found = program(module, 3, 8, 8)
    assert _points(found)[0].name == "stem.input_1"
