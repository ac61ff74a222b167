"""A plan that is given: taken as it is, or refused with what is wrong with it."""

import pytest
import torch
from torch import Tensor, nn

from tests.zoo.exported import export, pattern_coupling
from worker.engine.config import ApplyPlanConfig, GroupConfig, PruneConfig
from worker.engine.errors import NothingToPruneError, PlanMismatchError
from worker.engine.graph.coupling import Coupling, couple
from worker.engine.program import Program
from worker.engine.prune.cut import cut
from worker.engine.prune.given import given
from worker.engine.prune.plan import Plan, decide
from worker.engine.prune.verify import verify_cut

SHA256 = "0" * 64


def take(coupling: Coupling, *groups: GroupConfig, sha256: str = SHA256) -> Plan:
    return given(coupling, ApplyPlanConfig(sha256, groups), model_sha256=SHA256, seed=4)


def test_a_decided_plan_that_is_given_is_the_same_plan():
    coupling = pattern_coupling("residual")
    decided = decide(coupling, PruneConfig(channel_ratio=0.4), seed=0)
    written = decided.as_json(SHA256)
    groups = [GroupConfig(g["id"], tuple(g["keep"])) for g in written["channel_groups"]]
    taken = take(coupling, *groups)
    assert torch.equal(taken.keep, decided.keep)
    assert (taken.baseline, taken.predicted) == (decided.baseline, decided.predicted)
    again = taken.as_json(SHA256)
    assert again["criterion"] is again["scope"] is again["budget"] is None
    assert [g["importance"] for g in again["channel_groups"]] == [None, None]
    same = ("format_version", "baseline", "predicted", "granularity", "exclude", "frozen")
    assert {name: again[name] for name in same} == {name: written[name] for name in same}


def test_what_is_left_out_stays_whole():
    coupling = pattern_coupling("residual")
    taken = take(coupling, GroupConfig("g1", (0, 5, 11), channel_count=12))
    kept = [int(taken.keep[group.channels].sum()) for group in coupling.groups]
    assert kept == [8, 3]
    pruned = cut(coupling, taken.keep)
    verify_cut(coupling, taken.keep, pruned, seed=0)
    assert pruned.module.get_parameter("inner.weight").shape[0] == 3


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([GroupConfig("g9", (0,))], "has a channel group 'g9' and the program has none: .* g0 to"),
        ([GroupConfig("g1", (3, 12))], r"g1 \(inner.weight\): `keep` names channel 12; .* 0 to 11"),
        ([GroupConfig("g1", (3,), 99)], r"g1 \(inner.weight\) has 99 channels .* and 12 in the"),
        ([GroupConfig("g1", ())], r"dimension 0 of inner.weight \(channel group g1\) would have"),
    ],
)
def test_what_does_not_fit_is_named(groups, said):
    with pytest.raises(PlanMismatchError, match=said):
        take(pattern_coupling("residual"), *groups)


def test_a_part_that_is_no_parameter_may_not_vanish_either():
    # The first four of ten channels go to the left: a tensor of its own.
    with pytest.raises(PlanMismatchError, match="would have nothing left") as caught:
        take(pattern_coupling("split"), GroupConfig("g0", (4, 5, 6, 7, 8, 9)))
    assert "left.weight" in str(caught.value)


class _Unread(nn.Module):
    """Half of the channels are only summed up: no parameter has that half alone."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(3, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x) + x[:, :2].sum(1, keepdim=True)


def test_a_part_without_a_parameter_is_named_by_its_channels():
    coupling = couple(Program.from_exported(export(_Unread().eval(), torch.ones(2, 3))))
    with pytest.raises(PlanMismatchError, match=r"channels 0, 1 of group g0 \(stem.weight\) alone"):
        take(coupling, GroupConfig("g0", (2, 3)))


def test_a_plan_of_another_model_is_refused():
    with pytest.raises(PlanMismatchError, match="sha256 1111"):
        take(pattern_coupling("mlp"), GroupConfig("g0", (0,)), sha256="1" * 64)


def test_a_plan_that_removes_nothing_is_refused():
    with pytest.raises(NothingToPruneError, match="keeps every channel"):
        take(pattern_coupling("mlp"), GroupConfig("g0", tuple(range(16))))


def test_members_say_which_channel_each_index_is():
    coupling = pattern_coupling("grouped_and_depthwise")
    written = decide(coupling, PruneConfig(channel_ratio=0.4), seed=0).as_json(SHA256)
    assert (written["format_version"], written["granularity"]) == (3, "channels")
    sizes = [(s["module"], s["operator"], s["before"], s["after"]) for s in written["sizes"]]
    assert ("norm", "aten.group_norm.default", [4], [3]) in sizes
    groups = {group["name"]: group for group in written["channel_groups"]}
    channels = {
        (member["parameter"], member["dim"]): member["channels"]
        for member in groups["stem.weight"]["members"]
    }
    # A conv group of the third layer goes whole: two inputs and three outputs.
    assert channels["stem.weight", 0] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert channels["grouped.weight", 0] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    last = {member["dim"]: member["channels"] for member in groups["last.weight"]["members"]}
    assert last == {0: None, 1: None}


def test_an_index_that_belongs_to_no_channel_is_marked():
    coupling = pattern_coupling("padded_shortcut")
    written = decide(coupling, PruneConfig(channel_ratio=0.4), seed=0).as_json(SHA256)
    [group] = written["channel_groups"]
    channels = {(m["parameter"], m["dim"]): m["channels"] for m in group["members"]}
    assert channels["down.weight", 1] is None
    assert channels["down.weight", 0] == [-1] * 4 + list(range(8)) + [-1] * 4
    assert channels["head.weight", 1] == channels["down.weight", 0]
