"""From scores and a budget to the channels that stay."""

import pytest
import torch
from torch import nn

from tests.zoo.exported import export, pattern_coupling, randomized
from worker.engine.config import PruneConfig
from worker.engine.criteria.magnitude import _sums
from worker.engine.errors import NotFiniteError, NothingToPruneError, TargetUnreachableError
from worker.engine.graph.counts import count_macs
from worker.engine.graph.coupling import Coupling, couple
from worker.engine.program import Program
from worker.engine.prune.plan import decide


def _program(module: nn.Module, *shape: int) -> Program:
    return Program.from_exported(export(module.eval(), torch.ones(2, *shape)))


def _kept(coupling: Coupling, config: PruneConfig, seed: int = 0) -> list[int]:
    plan = decide(coupling, config, seed=seed)
    return [int(plan.keep[group.channels].sum()) for group in coupling.groups]


@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (300, 5, 300), (70_000, 5), (0, 5), (5, 5, 0)])
def test_magnitude_adds_up_parts_of_a_weight(shape: tuple[int, ...]):
    weight = torch.randn(shape, dtype=torch.float64)
    others = [dim for dim in range(len(shape)) if dim != 1]
    torch.testing.assert_close(_sums(weight, 1, 2.0), weight.square().sum(others).float())


def test_the_same_seed_draws_the_same_plan_and_another_seed_another():
    coupling = pattern_coupling("mlp")
    config = PruneConfig(criterion="random", scope="local", channel_ratio=0.5)
    first, again, other = (decide(coupling, config, seed=seed).keep for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_local_ratio_takes_the_same_share_of_every_group():
    coupling = pattern_coupling("mlp")
    assert _kept(coupling, PruneConfig(scope="local", channel_ratio=0.25)) == [12, 9]


def test_a_global_ratio_takes_its_share_of_all_channels():
    coupling = pattern_coupling("mlp")
    assert sum(_kept(coupling, PruneConfig(scope="global", channel_ratio=0.5))) == 14


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("name", ["residual", "concatenation", "vision_transformer"])
def test_a_macs_budget_is_met_and_one_channel_less_would_not(name, scope):
    coupling = pattern_coupling(name)
    plan = decide(coupling, PruneConfig(scope=scope, macs=0.5), seed=0)
    assert plan.predicted.macs <= 0.5 * plan.baseline.macs
    assert plan.predicted.macs == count_macs(coupling, plan.keep)


def test_weights_that_are_not_finite_are_not_ranked():
    module = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1))
    with torch.no_grad():
        module[1].weight[0, 2] = torch.nan
    with pytest.raises(NotFiniteError, match=r"channels of 0\.weight is NaN"):
        decide(couple(_program(module, 2)), PruneConfig(channel_ratio=0.5), seed=0)


def test_an_unreachable_budget_says_what_can_be_reached():
    coupling = pattern_coupling("residual")
    with pytest.raises(TargetUnreachableError, match=r"at most 0.0001 .* remain"):
        decide(coupling, PruneConfig(macs=0.0001), seed=0)


@pytest.mark.parametrize("name", ["split", "concatenation", "encoder_decoder"])
def test_every_part_of_a_split_or_concatenation_keeps_a_channel(name):
    coupling = pattern_coupling(name)
    for seed in range(5):
        config = PruneConfig(criterion="random", scope="local", channel_ratio=0.9)
        keep = decide(coupling, config, seed=seed).keep
        assert all(bool(keep[channels].any()) for channels in coupling.sets)


def test_counts_are_multiples_of_what_the_hardware_likes():
    coupling = pattern_coupling("mlp")
    config = PruneConfig(scope="local", channel_ratio=0.4, channel_multiple=4)
    assert _kept(coupling, config) == [12, 8]


def test_an_excluded_parameter_keeps_its_shape_and_the_rest_is_pruned():
    program = pattern_coupling("mlp").program
    coupling = couple(program, exclude=("0.*",))
    assert [group.name for group in coupling.groups] == ["2.weight"]


def test_a_pattern_that_matches_nothing_is_a_warning():
    coupling = couple(pattern_coupling("mlp").program, exclude=("encoder.*",))
    plan = decide(coupling, PruneConfig(scope="local", channel_ratio=0.5), seed=0)
    assert "'encoder.*'" in plan.warnings[0]


def test_a_single_layer_has_nothing_to_prune():
    with pytest.raises(NothingToPruneError, match="two linear layers"):
        decide(couple(_program(nn.Linear(4, 2), 4)), PruneConfig(channel_ratio=0.5), seed=0)


class _Sorted(nn.Module):
    """Sorting has no rule: what it touches is frozen."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.second = nn.Linear(6, 8)
        self.third = nn.Linear(8, 2)

    def forward(self, x):
        return self.third(self.second(self.first(x).cummax(dim=-1).values).relu())


def test_an_operator_without_a_rule_freezes_what_it_touches_and_is_named():
    coupling = couple(_program(randomized(_Sorted()), 4))
    assert [group.name for group in coupling.groups] == ["second.weight"]
    assert [(f.operator, f.reason) for f in coupling.frozen] == [
        ("aten.cummax.default", "no rule for aten.cummax.default")
    ]


class _OnlySorted(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.second = nn.Linear(6, 2)

    def forward(self, x):
        return self.second(self.first(x).cummax(dim=-1).values)


def test_nothing_to_prune_names_the_operators_that_froze_it():
    with pytest.raises(NothingToPruneError, match=r"aten\.cummax\.default"):
        decide(couple(_program(_OnlySorted(), 4)), PruneConfig(channel_ratio=0.5), seed=0)
