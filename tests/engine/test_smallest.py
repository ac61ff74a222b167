"""The search for the smallest model, against a judge whose answers are known."""

from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import nn

from tests.zoo.exported import export
from worker.engine.config import PruneConfig, SearchConfig
from worker.engine.graph.counts import count
from worker.engine.graph.coupling import couple
from worker.engine.program import Program
from worker.engine.prune.plan import Scored
from worker.engine.search.sensitivity import Sensitivity
from worker.engine.search.smallest import Smallest, Tried

WIDTHS = (32, 16, 24)


@cache
def scored() -> Scored:
    torch.manual_seed(0)
    sizes = (8, *WIDTHS, 4)
    layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    program = Program.from_exported(export(nn.Sequential(*layers).eval(), torch.zeros(2, 8)))
    config = PruneConfig(accuracy=0.1)
    return Scored.of(couple(program), config, seed=0)


class Judge:
    """Loses accuracy with the square of what is gone of each group, times what it is worth."""

    def __init__(self, *worth: float, allowed: float = 0.1):
        self.worth = worth
        self.allowed = allowed
        self.asked = 0

    def loss(self, keep: torch.Tensor) -> float:
        gone = [float((~keep[group.channels]).float().mean()) for group in scored().coupling.groups]
        return sum(worth * part**2 for worth, part in zip(self.worth, gone, strict=True))

    def __call__(self, keep: torch.Tensor, reason: str, number: int) -> Tried:
        self.asked += 1
        lost = self.loss(keep)
        counts = count(scored().coupling, keep)
        quality = {"accuracy": 1 - lost, "loss": lost}
        return Tried(number, reason, keep, counts, quality, None, lost <= self.allowed, 1.0)


def search(judge: Judge, **limits: object) -> Smallest:
    found = Smallest(
        scored(),
        [("criterion", scored().scores)],
        SearchConfig(**{"trials": 200, **limits}),
        judge,
    )
    found.look()
    return found


def test_it_ends_at_the_edge_of_what_is_allowed():
    judge = Judge(0.2, 0.2, 0.2)
    found = search(judge)
    best = found.kept[0]
    assert 0.07 <= judge.loss(best.keep) <= 0.1
    assert found.ended_by == "converged"
    assert judge.asked == len(found.tried) < 60


def test_groups_that_matter_less_lose_more():
    judge = Judge(0.01, 5.0, 0.3)
    found = search(judge)
    best = found.kept[0]
    first, second, _ = (
        float(best.keep[group.channels].float().mean()) for group in scored().coupling.groups
    )
    assert first < second
    # The same share of each, as large as is allowed, is larger.
    uniform = (0.1 / sum(judge.worth)) ** 0.5
    keep = scored().coupling.everything()
    for group in scored().coupling.groups:
        keep[group.channels[: int(uniform * len(group))]] = False
    assert best.counts.macs < count(scored().coupling, keep).macs


def test_what_can_lose_nothing_is_reported_with_its_curve():
    found = search(Judge(1e3, 1e3, 1e3, allowed=0.0))
    assert found.kept == []
    assert len(found.tried) > 3
    assert found.ended_by == "converged"


def test_what_can_lose_everything_ends_at_the_floor():
    found = search(Judge(0.0, 0.0, 0.0))
    best = found.kept[0]
    assert all(
        int(best.keep[group.channels].sum()) <= -(-len(group) // 10)
        for group in scored().coupling.groups
    )


def test_no_more_is_tried_than_allowed():
    found = search(Judge(0.2, 0.2, 0.2), trials=3)
    assert len(found.tried) == 3
    assert found.ended_by == "trials"


def test_no_trial_begins_after_its_time():
    ticks = iter(range(1000))
    judge = Judge(0.2, 0.2, 0.2)
    config = SearchConfig(trials=200, seconds=4)
    found = Smallest(
        scored(), [("criterion", scored().scores)], config, judge, now=lambda: next(ticks)
    )
    found.look()
    assert 0 < len(found.tried) < 8
    assert found.ended_by == "seconds"


def test_of_two_ways_to_share_a_cut_the_better_is_followed():
    group = scored().coupling.groups
    scores = scored().scores
    foolish = (scores[0] * 100, scores[1] / 100, scores[2])
    judge = Judge(0.01, 5.0, 0.3)
    found = Smallest(
        scored(),
        [("a foolish ranking", foolish), ("criterion", scores)],
        SearchConfig(trials=200),
        judge,
    )
    found.look()
    assert found.tried[0].reason == "macs 0.5, by a foolish ranking"
    assert found.tried[2].reason.startswith("macs 0.")
    later = found.tried[2]
    assert int((~later.keep[group[1].channels]).sum()) < len(group[1]) * 0.9


def test_nothing_is_tried_twice():
    found = search(Judge(0.01, 5.0, 0.3))
    kept = [tuple(each.keep.tolist()) for each in found.tried]
    assert len(set(kept)) == len(kept)


def test_the_front_holds_what_nothing_beats():
    found = search(Judge(0.2, 0.2, 0.2))
    front = found.front()
    assert found.kept[0].number in front
    for each in found.tried:
        beaten = any(
            other.counts.macs < each.counts.macs and other.goodness > each.goodness
            for other in found.tried
        )
        if beaten:
            assert each.number not in front


@pytest.mark.parametrize("minimize", ["parameters", "bytes"])
def test_another_count_can_be_least(minimize):
    found = search(Judge(0.2, 0.2, 0.2), minimize=minimize)
    name = {"parameters": "parameters", "bytes": "size_bytes"}[minimize]
    sizes = [getattr(each.counts, name) for each in found.kept]
    assert sizes == sorted(sizes)


def test_slopes_rise_and_go_on_behind_what_was_measured():
    group = scored().coupling.groups[1]
    curve = Sensitivity(group, (0, 4, 8, 12), (0.0, 4.0, 12.0, 24.0))
    slopes = curve.slopes()
    assert (slopes[1:] >= slopes[:-1]).all()
    assert slopes[0] == 1
    assert slopes[-1] > 3
