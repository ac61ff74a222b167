"""Rounding whose errors make up for each other."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.engine.quantize.networks import SETTING, Residual, config, distance, program
from worker.engine.data import Rows
from worker.engine.errors import DataMismatchError, NotFiniteError
from worker.engine.program import Program
from worker.engine.quantize import quantize
from worker.engine.quantize.codes import Scheme, about_weight, coded, grid_of
from worker.engine.quantize.compensate import compensated
from worker.engine.quantize.outputs import output_errors


def correlated(*shape: int, count: int = 96) -> Rows:
    """Inputs that say in many numbers what four would."""
    draw = np.random.default_rng(0)
    size = int(np.prod(shape))
    hidden, mixing = draw.normal(size=(count, 4)), draw.normal(size=(4, size))
    inputs = hidden @ mixing + 0.05 * draw.normal(size=(count, size))
    return Rows((inputs.reshape(count, *shape).astype(np.float32),), None)


def mlp() -> Program:
    return program(nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 5)), 24)


SCHEMES = {
    "int4 per channel": {"weights": "int4"},
    "int4 in groups": {"weights": "int4", "granularity": "per_group", "group_size": 8},
    "int4 in ragged groups": {"weights": "int4", "granularity": "per_group", "group_size": 7},
    "int4 per tensor": {"weights": "int4", "granularity": "per_tensor"},
    "int2": {"weights": "int2", "symmetric": False},
    "ternary": {"weights": "ternary"},
    "codebook": {"weights": "codebook", "codebook_size": 6, "granularity": "per_tensor"},
    "codebook per channel": {"weights": "codebook", "codebook_size": 4},
}


@pytest.mark.parametrize("name", SCHEMES)
def test_outputs_change_less_than_with_the_nearest_codes(name: str):
    float_program, rows = mlp(), correlated(24)
    found = {
        rounding: quantize(
            float_program, config(**SCHEMES[name], rounding=rounding), rows, SETTING
        ).program
        for rounding in ("nearest", "compensated")
    }
    errors = {each: distance(found[each], float_program, rows) for each in found}
    assert errors["compensated"] < 0.6 * errors["nearest"]


def test_inputs_without_a_common_cause_leave_nothing_to_make_up_for():
    layer = program(nn.Linear(8, 6), 8)
    # Every input by itself: their second moment is a multiple of the identity.
    rows = Rows((np.eye(8, dtype=np.float32).repeat(4, 0) * 3,), None)
    scheme = Scheme.of(config(weights="int4"))
    weight = layer.module.get_parameter("weight").detach()
    about = about_weight(("weight",), weight, scheme, axis=0)
    stored = {"weight": (about, lambda sets: grid_of(sets, scheme))}
    found = compensated(layer.copy(), stored, config(), rows, SETTING)["weight"]
    assert torch.equal(found.codes, coded(weight, about, scheme).codes)


def test_convolutions_in_groups_are_rounded_each_by_what_it_reads():
    net = program(Residual(), 3, 8, 8)
    rows = correlated(3, 8, 8)
    changed = quantize(net, config(weights="int4", rounding="compensated"), rows, SETTING)
    nearest = quantize(net, config(weights="int4"), rows, SETTING)
    lines = {line.layer: line for line in changed.layers}
    assert lines["second.weight"].became.startswith("int4")
    assert distance(changed.program, net, rows) < distance(nearest.program, net, rows)


def test_the_same_seed_gives_the_same_codes():
    rows = correlated(24)
    asked = config(weights="int4", rounding="compensated", sample_count=40)
    first, second = (quantize(mlp(), asked, rows, SETTING).program for _ in range(2))
    for name, tensor in first.module.state_dict().items():
        assert torch.equal(tensor, second.module.state_dict()[name])


def test_too_few_rows_are_refused_and_said_to_be():
    rows = correlated(24, count=9)
    with pytest.raises(DataMismatchError, match=r"has 9 rows, too few .* at least 16"):
        quantize(mlp(), config(weights="int4", rounding="compensated"), rows, SETTING)


def test_infinity_inside_is_refused():
    class Explodes(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x.exp().exp().exp())

    with pytest.raises(NotFiniteError, match=r"head\.weight reads NaN or infinity"):
        quantize(
            program(Explodes(), 24),
            config(weights="int4", rounding="compensated"),
            correlated(24),
            SETTING,
        )


def test_an_output_error_is_that_of_the_outputs():
    net, rows = mlp(), correlated(24)
    other = net.copy()
    with torch.no_grad():
        other.module.get_parameter("2.weight").mul_(1.25)
        other.module.get_parameter("2.bias").mul_(1.25)
    found = output_errors(net, other, rows, seed=0)
    assert found["0.weight"] == 0
    assert found["2.weight"] == pytest.approx(0.25, rel=1e-4)
