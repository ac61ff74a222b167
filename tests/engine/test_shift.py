"""Shift: what is removed is read from what resembles it, exactly where it is the same."""

import json

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from secateur import apply_plan
from secateur.amounts import Override
from secateur.spec import GivenPlan
from tests.zoo.exported import export, pattern_coupling, pattern_program, randomized
from tests.zoo.patterns import PATTERNS
from worker.engine.config import (
    ApplyPlanConfig,
    GroupConfig,
    MergeConfig,
    OverrideConfig,
    PruneConfig,
)
from worker.engine.difference import TOLERANCE, relative_error
from worker.engine.errors import OutputsDifferError, PairError, PlanMismatchError
from worker.engine.graph.counts import count
from worker.engine.graph.coupling import Coupling, couple
from worker.engine.program import Program
from worker.engine.prune.cut import cut
from worker.engine.prune.given import given
from worker.engine.prune.plan import Plan, decide
from worker.engine.prune.shift import shifted, stand_ins
from worker.engine.prune.verify import verify_cut

SHA256 = "0" * 64
NAMES = sorted(PATTERNS)


def program_of(module: nn.Module, *inputs: Tensor) -> Program:
    return Program.from_exported(export(module.eval(), *inputs))


def done(plan: Plan) -> Program:
    """A shift, carried out."""
    with plan.coupling.program.holding(shifted(plan.coupling, plan.merges)):
        return cut(plan.coupling, plan.keep)


def proved(plan: Plan) -> Program:
    result = done(plan)
    stood_in = stand_ins(plan.coupling, plan.merges)
    proof = verify_cut(plan.coupling, plan.keep, result, seed=1, stand_ins=stood_in)
    assert proof.max_relative_error <= TOLERANCE
    assert count(couple(result)) == plan.predicted
    return result


def planned(coupling: Coupling, algorithm: str = "shift", **asked) -> Plan:
    return decide(coupling, PruneConfig(algorithm=algorithm, **asked), seed=3)


def loss(plan: Plan, result: Program) -> float:
    """How far a result is from the original as it was."""
    original = plan.coupling.program
    leaves = original.example_leaves
    with torch.no_grad():
        return relative_error(result.run(leaves), original.run(leaves))


# Every pattern.


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "asked",
    [
        {"criterion": "random", "scope": "local", "channel_ratio": 0.5},
        {"criterion": "magnitude", "scope": "global", "channel_ratio": 0.3},
    ],
    ids=["half_of_each_group", "a_third_of_all"],
)
def test_a_pattern_computes_what_its_original_computes_with_stand_ins(name, asked):
    proved(planned(pattern_coupling(name), **asked))


@pytest.mark.parametrize("granularity", ["heads", "head_dim"])
@pytest.mark.parametrize(
    "name",
    ["vision_transformer", "manual_attention", "grouped_queries", "rotary_fused", "folded_heads"],
)
def test_heads_and_their_width_are_merged_too(name, granularity):
    coupling = couple(pattern_program(name), granularity=granularity)
    proved(
        planned(
            coupling,
            criterion="random",
            scope="local",
            channel_ratio=0.5,
            granularity=granularity,
        )
    )


def test_all_that_can_be_merged_is():
    # Random weights: no two channels are orthogonal where they are read.
    for name in ("mlp", "concatenation", "recurrent_stack", "einsum_layer", "bilinear_layer"):
        plan = planned(pattern_coupling(name), scope="local", channel_ratio=0.5)
        merged = sum(len(merges) for merges in plan.merges.values())
        assert merged == int((~plan.keep).sum())
        assert plan.warnings == ()


# What is there twice.


def twin(layer: nn.Module, first: slice, second: slice) -> None:
    """Make some outputs of a layer the same as others: weights, biases, statistics."""
    with torch.no_grad():
        for tensor in layer.state_dict().values():
            if tensor.dim():
                tensor[second] = tensor[first]


class TwinConv(nn.Module):
    """Eight channels, of which four are there twice, and a reader of them."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 5, 3)
        for layer in (randomized(self).conv, self.norm):
            twin(layer, slice(0, 4), slice(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).relu())


class TwinInPlace(TwinConv):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.relu_(self.norm(self.conv(x))))


class TwinFlat(TwinConv):
    """A flattened image: each channel is many columns of the reader."""

    def __init__(self):
        super().__init__()
        self.last = randomized(nn.Linear(8 * 16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.conv(x)).relu().flatten(1))


class TwinLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)
        twin(randomized(self).first, slice(0, 4), slice(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(functional.gelu(self.first(x)))


class TwinStream(nn.Module):
    """A residual stream whose writers agree on which channels are the same."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.up, self.down = nn.Linear(8, 10), nn.Linear(10, 8)
        self.head = nn.Linear(8, 3)
        randomized(self)
        for layer in (self.embed, self.down):
            twin(layer, slice(0, 4), slice(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.down(self.up(x).relu()))


class TwinLstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.lstm = nn.LSTM(8, 5, batch_first=True, bidirectional=True)
        self.head = nn.Linear(10, 3)
        twin(randomized(self).embed, slice(0, 4), slice(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(x))[0])


class TwinParts(nn.Module):
    """A concatenation: its reader has the columns of both parts."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 8), nn.Linear(6, 5)
        self.head = nn.Linear(13, 3)
        twin(randomized(self).left, slice(0, 4), slice(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.right(x), self.left(x).relu()], -1))


class TwinHeads(nn.Module):
    """Four heads of two, the last two of them the same as the first."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(6, 8) for _ in range(3)])
        self.out = nn.Linear(8, 3)
        randomized(self)
        for part in self.parts:
            twin(part, slice(0, 4), slice(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (part(x).unflatten(-1, (4, 2)).transpose(1, 2) for part in self.parts)
        attended = functional.scaled_dot_product_attention(query, key, value)
        return self.out(attended.transpose(1, 2).flatten(2))


class TwinKernel(nn.Module):
    """Kernels as Keras keeps them: (height, width, in, out), and a matrix to multiply with."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.kernel = nn.Parameter(torch.zeros(3, 3, 8, 6))
        self.matrix = nn.Parameter(torch.zeros(6, 4))
        twin(randomized(self).conv, slice(0, 4), slice(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.conv2d(self.conv(x).relu(), self.kernel.permute(3, 2, 0, 1), padding="same")
        return x.mean((2, 3)) @ self.matrix


IMAGE, ROW, WORDS = (2, 3, 4, 4), (2, 6), (2, 5, 6)


@pytest.mark.parametrize(
    ("module", "shape", "only", "keep"),
    [
        (TwinConv, IMAGE, "conv.weight", 4),
        (TwinInPlace, IMAGE, "conv.weight", 4),
        (TwinFlat, IMAGE, "conv.weight", 4),
        (TwinLinear, ROW, "first.weight", 4),
        (TwinStream, ROW, "embed.weight", 4),
        (TwinLstm, WORDS, "embed.weight", 4),
        (TwinParts, ROW, "left.weight", 9),  # Both parts are one group of 13.
        (TwinHeads, WORDS, "parts.0.weight", 2),
        (TwinKernel, IMAGE, "conv.weight", 4),
    ],
)
def test_what_is_there_twice_goes_without_a_loss(module, shape, only, keep):
    torch.manual_seed(0)
    coupling = couple(program_of(module(), torch.randn(shape)))
    asked = (OverrideConfig(only, keep=keep),)
    plans = {
        algorithm: planned(coupling, algorithm, criterion="cosine_similarity", overrides=asked)
        for algorithm in ("shift", "cut")
    }
    assert plans["shift"].predicted.macs == plans["cut"].predicted.macs
    assert loss(plans["shift"], proved(plans["shift"])) < 1e-4
    assert loss(plans["cut"], cut(coupling, plans["cut"].keep)) > 1e-2


def test_a_scaled_copy_is_read_as_a_multiple():
    net = TwinLinear()
    with torch.no_grad():
        for tensor in (net.first.weight, net.first.bias):
            tensor[4:] = -3 * tensor[:4]
    net.forward = lambda x: net.second(net.first(x))  # Without a bend in between.
    coupling = couple(program_of(net, torch.randn(ROW)))
    pairs = OverrideConfig("first.weight", pairs=((4, 0), (1, 5)))
    plan = planned(coupling, overrides=(pairs,))
    [merges] = plan.merges.values()
    assert [(merge.source, merge.target) for merge in merges] == [(1, 5), (4, 0)]
    assert merges[0].scales["second.weight"] == pytest.approx(-1 / 3, rel=1e-4)
    assert merges[1].scales["second.weight"] == pytest.approx(-3, rel=1e-4)
    assert loss(plan, proved(plan)) < 1e-4


# What cannot be added up is cut.


class Between(nn.Module):
    """Two layers; the weight of the second is made from a parameter by a function."""

    def __init__(self, function):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.weight = nn.Parameter(torch.zeros(3, 8))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(self.first(x).relu(), self.function(self.weight))


@pytest.mark.parametrize(
    ("function", "is_merged"),
    [
        (lambda weight: weight.clone().view(3, 8), True),
        (lambda weight: 2 * weight, False),
        (lambda weight: weight.abs(), False),
        (lambda weight: weight.softmax(0), False),
    ],
)
def test_a_weight_that_is_computed_takes_no_stand_in_over(function, is_merged):
    module = randomized(Between(function))
    plan = planned(couple(program_of(module, torch.randn(ROW))), channel_ratio=0.5)
    proved(plan)
    assert bool(plan.merges) == is_merged
    assert is_merged or "that go are cut and not merged" in plan.warnings[0]


class Mirrored(nn.Module):
    """An autoencoder with one matrix: by rows it makes what it reads by columns."""

    def __init__(self):
        super().__init__()
        self.stem, self.middle = nn.Linear(6, 8), nn.Linear(8, 5)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.stem(x).relu()).relu()
        return self.head(functional.linear(x, self.middle.weight.t()).relu())


def test_a_weight_that_is_read_along_both_dimensions_is_left_alone():
    coupling = couple(program_of(randomized(Mirrored()), torch.randn(ROW)))
    plan = planned(coupling, scope="local", channel_ratio=0.5)
    proved(plan)
    named = {name for merges in plan.merges.values() for m in merges for name in m.scales}
    assert named == {"head.weight"}


class Squared(nn.Module):
    """Two tensors with the same channels meet one weight: a product of three."""

    def __init__(self):
        super().__init__()
        self.stem, self.gate = nn.Linear(6, 8), nn.Linear(6, 8)
        self.weight = nn.Parameter(torch.zeros(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nc,nc,kc->nk", self.stem(x), self.gate(x), self.weight)


def test_channels_that_a_call_reads_twice_are_cut():
    coupling = couple(program_of(randomized(Squared()), torch.randn(ROW)))
    plan = planned(coupling, channel_ratio=0.5)
    proved(plan)
    assert plan.merges == {}


class OtherName(nn.Module):
    """One matrix under two names: each of its calls reads something else with it."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.mix = nn.Linear(8, 8)
        self.vocabulary = nn.Linear(8, 11, bias=False)
        self.vocabulary.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.vocabulary(self.mix(self.embed(tokens)).relu())


def test_a_tied_weight_takes_nothing_over():
    program = program_of(randomized(OtherName()), torch.randint(11, (2, 4)))
    plan = planned(couple(program), channel_ratio=0.5)
    result = proved(plan)
    named = {name for merges in plan.merges.values() for m in merges for name in m.scales}
    assert named <= {"mix.weight"}
    assert result.module.get_parameter("embed.weight").shape == (11, 4)


# By hand.


def test_given_pairs_are_what_is_merged():
    coupling = pattern_coupling("mlp")
    pairs = OverrideConfig("0.weight", pairs=((3, 1), (5, 1), (0, 2)))
    plan = planned(coupling, overrides=(pairs,))
    assert {
        group: [(m.source, m.target) for m in merges] for group, merges in plan.merges.items()
    } == {"g0": [(0, 2), (3, 1), (5, 1)]}
    first, second = coupling.groups
    assert (~plan.keep[first.channels]).nonzero().flatten().tolist() == [0, 3, 5]
    assert bool(plan.keep[second.channels].all())
    proved(plan)


@pytest.mark.parametrize(
    ("pair", "end", "number"), [((16, 1), 0, 16), ((3, 99), 1, 99), ((15, 16), 1, 16)]
)
def test_a_pair_out_of_range_is_pointed_at(pair, end, number):
    overrides = (
        OverrideConfig("5.weight", keep=2),
        OverrideConfig("0.*", pairs=((4, 1), pair)),
    )
    with pytest.raises(PairError, match=f"channels 0 to 15, and no {number}") as caught:
        planned(pattern_coupling("mlp"), overrides=overrides)
    assert caught.value.pointer == f"/overrides/1/pairs/1/{end}"


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([[1, 1]], "cannot move onto itself"),
        ([[1, 2], [2, 3]], "cannot move onto 2, which goes too"),
        ([[1, 2], [1, 3]], "1 is the first of two pairs"),
        ([[-1, 2]], "greater than or equal to 0"),
        ([], "at least 1 item"),
    ],
)
def test_pairs_that_are_no_merge_are_refused_at_the_door(pairs, said):
    with pytest.raises(ValidationError, match=said):
        Override(match="a", pairs=pairs)


# Plans.


def taken(coupling: Coupling, *groups: GroupConfig) -> Plan:
    return given(coupling, ApplyPlanConfig(SHA256, groups), model_sha256=SHA256, seed=4)


def groups_of(document: dict[str, object]) -> list[GroupConfig]:
    """A plan as it was downloaded, through the contract that reads it."""
    plan = GivenPlan.model_validate(json.loads(json.dumps(document)))
    return [
        GroupConfig(
            group.id,
            group.keep,
            group.channel_count,
            tuple(MergeConfig(m.source, m.target, m.scales) for m in group.merges),
        )
        for group in plan.channel_groups
    ]


@pytest.mark.parametrize(
    "name", ["residual", "recurrent_stack", "grouped_and_depthwise", "einsum_layer", "folded_heads"]
)
def test_a_shift_that_is_given_makes_the_same_weights_bit_for_bit(name):
    coupling = pattern_coupling(name)
    decided = planned(coupling, scope="local", channel_ratio=0.5)
    again = taken(coupling, *groups_of(decided.as_json(SHA256)))
    assert again.merges == decided.merges
    expected = done(decided).module.state_dict()
    found = proved(again).module.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[each], expected[each]) for each in expected)


def merge(source: int, target: int, **scales: float) -> MergeConfig:
    return MergeConfig(source, target, {name.replace("_", "."): s for name, s in scales.items()})


def test_merges_that_are_given_do_what_they_say():
    # Channel 1 goes, and channel 0 is read with half of its weights on top.
    coupling = pattern_coupling("mlp")
    before = coupling.program.module.get_parameter("2.weight")
    keep = (0, *range(2, 16))
    result = proved(
        taken(coupling, GroupConfig("g0", keep, None, (merge(1, 0, **{"2_weight": 0.5}),)))
    )
    after = result.module.get_parameter("2.weight")
    torch.testing.assert_close(after[:, 0], before[:, 0] + 0.5 * before[:, 1])
    assert torch.equal(after[:, 1:], before[:, 2:])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (merge(99, 0), "there is no channel 99; the group's channels are 0 to 15"),
        (merge(1, 99), "there is no channel 99"),
        (merge(3, 0), "3 is in `keep`"),
        (merge(1, 2), "2 is not in `keep`"),
        (merge(1, 0, **{"0_weight": 1.0}), "0.weight does not read these channels.* 2.weight"),
    ],
)
def test_merges_that_do_not_fit_are_named(wrong, said):
    keep = tuple(channel for channel in range(16) if channel not in (1, 2))
    with pytest.raises(PlanMismatchError, match=said):
        taken(pattern_coupling("mlp"), GroupConfig("g0", keep, None, (wrong,)))


def test_weights_that_share_a_read_share_a_scale():
    coupling = couple(program_of(randomized(TwinLstm()), torch.randn(WORDS)))
    scales = {"lstm.weight_ih_l0": 1.0, "lstm.weight_ih_l0_reverse": 0.5}
    group = GroupConfig("g0", tuple(range(7)), None, (MergeConfig(7, 0, scales),))
    with pytest.raises(PlanMismatchError, match="read one and the same tensor"):
        taken(coupling, group)


@pytest.mark.parametrize(
    ("module", "shape"),
    [(TwinConv, IMAGE), (TwinFlat, IMAGE), (TwinStream, ROW), (TwinLstm, WORDS), (TwinParts, ROW)],
)
def test_a_module_that_a_shift_is_applied_to_computes_what_the_program_does(module, shape):
    torch.manual_seed(0)
    net = randomized(module())
    x = torch.randn(shape)
    plan = planned(couple(program_of(net, x)), scope="local", channel_ratio=0.4)
    assert plan.merges
    expected = proved(plan)
    apply_plan(net, plan.as_json(SHA256))
    with torch.no_grad():
        torch.testing.assert_close([net(x)], expected.run([x]), rtol=1e-5, atol=1e-5)


# The proof notices.


@pytest.mark.parametrize("mistake", ["index", "scale", "nothing", "twice"])
def test_a_shift_that_is_carried_out_wrongly_is_not_proved(mistake):
    plan = planned(pattern_coupling("residual"), scope="local", channel_ratio=0.5)
    coupling, merges = plan.coupling, plan.merges
    right = shifted(coupling, merges)
    name = "head.weight" if "head.weight" in right else min(right)
    weight = right[name]
    before = coupling.program.module.get_parameter(name).detach()
    wrong = {
        "index": before + (weight - before).roll(1, 1),
        "scale": before + 1.1 * (weight - before),
        "nothing": before,
        "twice": 2 * weight - before,
    }[mistake]
    with coupling.program.holding({**right, name: wrong}):
        result = cut(coupling, plan.keep)
    with pytest.raises(OutputsDifferError):
        verify_cut(coupling, plan.keep, result, seed=0, stand_ins=stand_ins(coupling, merges))


def test_a_shift_leaves_the_original_as_it_was():
    coupling = pattern_coupling("residual")
    before = {name: t.clone() for name, t in coupling.program.module.state_dict().items()}
    done(planned(coupling, channel_ratio=0.5))
    after = coupling.program.module.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
