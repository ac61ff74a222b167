"""The weights that outputs miss most are found one by one, against a loop by hand."""

import pytest
import torch
from torch import Tensor, nn

from tests.engine.quantize.networks import (
    SETTING,
    config,
    distance,
    mlp,
    normal,
    program,
    residual,
    tensors,
)
from worker.engine.errors import DataMismatchError
from worker.engine.graph.weights import WeightCall, weight_calls
from worker.engine.program import Program
from worker.engine.quantize.fold import folded
from worker.engine.quantize.sensitivity import most_sensitive


def _coarse(original: Program, call: WeightCall) -> Tensor:
    weight = original.module.get_parameter(call.parameter).detach()
    scale = weight.abs().amax() / 3
    return (weight / scale).round() * scale


def _names(original: Program, count: int, *shape: int, become=_coarse) -> list[str]:
    calls = list(weight_calls(original))
    found = most_sensitive(
        original,
        calls,
        lambda call: become(original, call),
        config(),
        normal(*shape),
        SETTING,
        count,
    )
    return [call.parameter for call in found]


@pytest.mark.parametrize(
    ("make", "shape"),
    [(lambda: folded(residual()), (3, 8, 8)), (lambda: program(mlp(), 6), (6,))],
    ids=["residual", "mlp"],
)
def test_they_are_those_of_a_loop_by_hand(make, shape):
    original = make()
    before = tensors(original)
    calls = list(weight_calls(original))
    errors = {}
    for call in calls:
        changed = original.copy()
        changed.module.get_parameter(call.parameter).data = _coarse(original, call)
        errors[call.parameter] = distance(changed, original, normal(*shape))
    for count in range(1, len(calls) + 2):
        worst = sorted(errors, key=errors.__getitem__, reverse=True)[:count]
        in_order = [call.parameter for call in calls if call.parameter in worst]
        assert _names(original, count, *shape) == in_order
    after = tensors(original)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_none_are_wanted():
    assert _names(program(mlp(), 6), 0, 6) == []


def test_a_weight_that_is_read_twice_is_one():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)
            self.last.weight = self.first.weight
            self.middle = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.middle(self.first(x).relu()).relu())

    original = program(Tied(), 6)

    def become(of: Program, call: WeightCall) -> Tensor:
        weight = of.module.get_parameter(call.parameter).detach()
        return weight if "middle" in call.parameter else torch.zeros_like(weight)

    found = _names(original, 1, 6, become=become)
    assert len(found) == 2
    assert "middle.weight" not in found
    assert len(_names(original, 2, 6, become=become)) == 3


def test_what_is_not_finite_is_the_worst():
    def become(of: Program, call: WeightCall) -> Tensor:
        weight = of.module.get_parameter(call.parameter).detach()
        return weight * float("nan") if call.parameter == "2.weight" else weight * 1.5

    assert _names(program(mlp(), 6), 1, 6, become=become) == ["2.weight"]


def test_few_rows_are_refused():
    original = program(mlp(), 6)
    with pytest.raises(DataMismatchError, match="at least 16"):
        most_sensitive(
            original,
            list(weight_calls(original)),
            lambda call: _coarse(original, call),
            config(),
            normal(6, count=3),
            SETTING,
            1,
        )
