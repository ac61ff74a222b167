"""From scores and an amount to channels: every amount, floors, overrides, multiples."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from tests.zoo.exported import export, pattern_coupling, randomized
from worker.engine.config import OverrideConfig as Override
from worker.engine.config import PruneConfig
from worker.engine.criteria.aggregate import aggregate
from worker.engine.criteria.subject import Slice
from worker.engine.errors import NothingToPruneError, TargetUnreachableError
from worker.engine.graph.counts import count
from worker.engine.graph.coupling import Coupling, couple
from worker.engine.program import Program
from worker.engine.prune.cost import costs
from worker.engine.prune.cut import cut
from worker.engine.prune.plan import Plan, decide

COUNTED = {"parameters": "parameters", "macs": "macs", "bytes": "size_bytes"}


def made(coupling: Coupling, **asked) -> Plan:
    return decide(coupling, PruneConfig(**asked), seed=0)


def kept(plan: Plan) -> dict[str, int]:
    return {group.name: int(plan.keep[group.channels].sum()) for group in plan.coupling.groups}


def chain(*widths: int) -> Coupling:
    """Linear layers in a row without biases; the weights of channel i are all about i + 1."""
    layers = []
    for before, after in itertools.pairwise(widths):
        layer = nn.Linear(before, after, bias=False)
        rows, columns = torch.arange(after) + 1.0, torch.arange(before) + 1.0
        layer.weight.data = rows[:, None] + 0.001 * columns
        layers.append(layer)
    program = export(nn.Sequential(*layers).eval(), torch.ones(2, widths[0]))
    return couple(Program.from_exported(program))


def places(plan: Plan) -> list[list[int]]:
    """What stays, group by group."""
    return [plan.keep[g.channels].nonzero().flatten().tolist() for g in plan.coupling.groups]


# Amounts.


def test_overrides_that_remove_nothing_are_pointed_at_and_say_which_match_nothing():
    overrides = (Override("nowhere.*", keep=1), Override("0.weight", keep=99))
    with pytest.raises(NothingToPruneError, match=r"'nowhere\.\*' is the first match") as caught:
        made(chain(3, 6, 2), overrides=overrides)
    assert caught.value.pointer == "/overrides"


@pytest.mark.parametrize("kind", COUNTED)
@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize(
    "name",
    ["residual", "mlp", "concatenation", "grouped_and_depthwise", "vision_transformer", "mixer"],
)
def test_a_counted_budget_is_met_to_a_hundredth_or_says_so(name, kind, scope):
    fraction = 0.6
    coupling = pattern_coupling(name)
    plan = made(coupling, scope=scope, **{kind: fraction})
    field = COUNTED[kind]
    recounted = count(couple(cut(coupling, plan.keep)))
    share = getattr(recounted, field) / getattr(plan.baseline, field)
    assert share <= fraction
    is_near = share >= fraction - 0.01
    assert is_near != any(f"{kind}: " in warning for warning in plan.warnings)


@pytest.mark.parametrize("kind", COUNTED)
def test_a_budget_below_the_floors_points_at_itself(kind):
    with pytest.raises(TargetUnreachableError, match=f"{kind}: at most 0.05") as caught:
        made(pattern_coupling("residual"), floor=0.5, **{kind: 0.05})
    assert caught.value.pointer == f"/budget/{kind}"


def test_a_ratio_is_of_each_group_or_of_the_model():
    coupling = chain(3, 10, 4, 2)
    each = made(coupling, scope="local", channel_ratio=0.5)
    assert places(each) == [[5, 6, 7, 8, 9], [2, 3]]
    # The ten are about 1 to 10 and the four 1 to 4: without a norm the lowest seven of all.
    both = made(coupling, channel_ratio=0.5, normalization="none", floor=0.0, criterion="magnitude")
    assert sum(map(len, places(both))) == 7


def test_channels_to_keep_are_of_each_group_or_of_the_model():
    coupling = chain(3, 10, 4, 2)
    assert places(made(coupling, scope="local", keep=3)) == [[7, 8, 9], [1, 2, 3]]
    # A group that has fewer keeps them all.
    assert places(made(coupling, scope="local", keep=6)) == [[4, 5, 6, 7, 8, 9], [0, 1, 2, 3]]
    assert sum(map(len, places(made(coupling, keep=6)))) == 6


@pytest.mark.parametrize(("scope", "number"), [("local", 10), ("global", 14), ("global", 9999)])
def test_to_keep_all_there_is_is_nothing_to_prune(scope, number):
    with pytest.raises(NothingToPruneError, match=f"keep {number}") as caught:
        made(chain(3, 10, 4, 2), scope=scope, keep=number)
    assert caught.value.pointer == "/budget"


@pytest.mark.parametrize("scope", ["local", "global"])
def test_a_threshold_takes_what_the_plan_says_is_below_it(scope):
    coupling = pattern_coupling("residual")
    plan = made(coupling, scope=scope, threshold=0.9, floor=0.0)
    for group, importance in zip(
        coupling.groups, plan.as_json("0" * 64)["channel_groups"], strict=True
    ):
        above = [at for at, score in enumerate(importance["importance"]) if score >= 0.9]
        assert plan.keep[group.channels].nonzero().flatten().tolist() == above


# Floors.


@pytest.mark.parametrize(("floor", "least"), [(None, 2), (0.0, 1), (0.25, 5), (0.7, 14)])
def test_every_dimension_keeps_its_floor(floor, least):
    # All of the second group outranks the first.
    coupling = chain(3, 20, 30, 2)
    overshoot = made(coupling, keep=1, floor=floor)
    assert kept(overshoot) == {"0.weight": least, "1.weight": {2: 3, 1: 1, 5: 8, 14: 21}[least]}
    assert "keep: 1 asks for 49 of 50 channels to go" in overshoot.warnings[0]


def test_locally_only_one_channel_is_kept_back():
    assert places(made(chain(3, 20, 30, 2), scope="local", channel_ratio=0.999)) == [[19], [29]]
    assert kept(made(chain(3, 20, 30, 2), scope="local", channel_ratio=0.9, floor=0.3)) == {
        "0.weight": 6,
        "1.weight": 9,
    }


@pytest.mark.parametrize("name", ["split", "concatenation", "recurrent_stack", "several_outputs"])
def test_no_dimension_dies_whatever_is_asked(name):
    coupling = pattern_coupling(name)
    plan = made(coupling, channel_ratio=0.999, floor=0.0, criterion="random")
    assert min(t.numel() for t in cut(coupling, plan.keep).module.parameters()) > 0
    assert all(bool(plan.keep[channels].any()) for channels in coupling.sets)


# Overrides.


def test_overrides_decide_for_their_groups_and_the_first_match_counts():
    coupling = chain(3, 10, 10, 10, 2)
    plan = made(
        coupling,
        scope="local",
        channel_ratio=0.5,
        overrides=(
            # Each group is made by one layer and read by the next.
            Override("3.weight", keep=9),
            Override("[23].weight", channel_ratio=0.2),
            Override("nothing.*", keep=1),
        ),
    )
    assert kept(plan) == {"0.weight": 5, "1.weight": 8, "2.weight": 9}
    assert plan.warnings == (
        "overrides: 'nothing.*' is the first match of no channel group, so it changes nothing",
    )


def test_an_override_by_threshold_takes_what_is_below_it():
    # Without coupling to speak of, rows are about i + 1; squares over their mean, 38.5.
    coupling = chain(3, 10, 2)
    plan = made(coupling, overrides=(Override("0.weight", threshold=1.0),), aggregation="first")
    assert places(plan) == [[6, 7, 8, 9]]  # 7 ** 2 is above 38.5, 6 ** 2 below.


@pytest.mark.parametrize("kind", COUNTED)
def test_a_budget_is_met_with_what_no_override_decides(kind):
    coupling = chain(8, 32, 32, 32, 4)
    plan = made(coupling, overrides=(Override("0.weight", keep=30),), **{kind: 0.5})
    field = COUNTED[kind]
    assert kept(plan)["0.weight"] == 30
    share = getattr(plan.predicted, field) / getattr(plan.baseline, field)
    assert 0.49 <= share <= 0.5


def test_overrides_alone_are_enough_and_have_no_floor():
    plan = made(chain(3, 20, 30, 2), overrides=(Override("0.weight", keep=1),), floor=0.5)
    assert places(plan) == [[19], list(range(30))]


def test_a_budget_that_overrides_make_unreachable_is_refused():
    with pytest.raises(TargetUnreachableError) as caught:
        made(chain(8, 32, 32, 4), overrides=(Override("*", keep=31),), macs=0.5)
    assert caught.value.pointer == "/budget/macs"


# Multiples.


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("amount", [{"macs": 0.5}, {"parameters": 0.6}, {"channel_ratio": 0.4}])
def test_counts_are_multiples_under_every_amount(scope, amount):
    plan = made(chain(8, 32, 48, 4), scope=scope, channel_multiple=8, **amount)
    assert all(number % 8 == 0 for number in kept(plan).values())
    if "macs" in amount:
        assert plan.predicted.macs <= 0.5 * plan.baseline.macs


def test_a_multiple_that_a_budget_has_no_room_for_is_refused():
    with pytest.raises(TargetUnreachableError, match="smaller channel_multiple"):
        made(chain(8, 32, 32, 4), channel_multiple=32, macs=0.5)


# Normalizations and costs.


@pytest.mark.parametrize(
    ("normalization", "expected"),
    [
        ("none", [1.0, 4.0, 9.0, 16.0]),
        ("mean", [1 / 7.5, 4 / 7.5, 9 / 7.5, 16 / 7.5]),
        ("max", [1 / 16, 4 / 16, 9 / 16, 1.0]),
        # The variance is (6.5 ** 2 + 3.5 ** 2 + 1.5 ** 2 + 8.5 ** 2) / 4 = 32.25.
        ("standardized", [(x - 7.5) / 32.25**0.5 for x in (1, 4, 9, 16)]),
        # A channel is read from one input and by one output: two weights, two MACs for each of
        # the two example rows.
        ("per_parameter", [0.5, 2.0, 4.5, 8.0]),
        ("per_mac", [0.25, 1.0, 2.25, 4.0]),
    ],
)
def test_normalizations_by_hand(normalization, expected):
    net = nn.Sequential(nn.Linear(1, 4, bias=False), nn.Linear(4, 1, bias=False))
    net[0].weight.data = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    coupling = couple(Program.from_exported(export(net.eval(), torch.ones(2, 1))))
    plan = made(coupling, aggregation="first", normalization=normalization, channel_ratio=0.5)
    assert plan.scores[0].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["residual", "grouped_and_depthwise", "split"])
def test_a_channel_costs_what_a_cut_of_it_alone_saves(name):
    coupling = pattern_coupling(name)
    macs, parameters = costs(coupling)
    before = count(coupling)
    for channel in range(coupling.channel_count):
        keep = coupling.everything()
        keep[channel] = False
        after = count(couple(cut(coupling, keep)))
        assert macs[channel] == max(1, before.macs - after.macs)
        assert parameters[channel] == max(1, before.parameters - after.parameters)


class Convs(nn.Module):
    """An expensive layer of many pixels and a cheap one of few."""

    def __init__(self):
        super().__init__()
        self.large, self.small = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=4)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.small(self.large(x).relu()).relu().mean((2, 3)))


def test_scores_for_each_mac_take_the_expensive_channels():
    program = Program.from_exported(export(randomized(Convs()), torch.randn(2, 3, 17, 17)))
    coupling = couple(program)
    by_mac = made(coupling, macs=0.7, normalization="per_mac")
    by_size = made(coupling, macs=0.7, normalization="mean")
    assert kept(by_mac)["large.weight"] <= kept(by_size)["large.weight"]
    assert kept(by_mac)["small.weight"] == 8


# Aggregations.


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("sum", [6.0, 4.0]),
        ("mean", [2.0, 4.0]),
        ("max", [3.0, 4.0]),
        ("geometric_mean", [6 ** (1 / 3), 4.0]),
        ("first", [2.0, 4.0]),
    ],
)
def test_aggregations_by_hand(how, expected):
    slices = [
        Slice(torch.tensor([0]), torch.tensor([2.0])),
        Slice(torch.tensor([1, 0]), torch.tensor([4.0, 1.0])),
        Slice(torch.tensor([0]), torch.tensor([3.0])),
    ]
    found = aggregate(slices, channel_count=3, how=how)
    assert found[:2].tolist() == pytest.approx(expected)
    assert bool(found[2].isnan())
