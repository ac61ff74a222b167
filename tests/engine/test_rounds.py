"""Iterative pruning: the same budget in several steps, with recovery between them."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from secateur.pruning import PruneStep
from tests.zoo.exported import export, pattern_coupling, pattern_program, randomized
from worker.engine.compress import compress, make_plan
from worker.engine.config import (
    EvaluationConfig,
    FinetuneConfig,
    PruneConfig,
    RecalibrateConfig,
    Request,
)
from worker.engine.config import OverrideConfig as Override
from worker.engine.errors import NothingToPruneError, PairError, TargetUnreachableError
from worker.engine.graph.counts import Counts, count
from worker.engine.graph.coupling import couple
from worker.engine.program import Program
from worker.engine.prune.cut import cut
from worker.engine.prune.plan import decide
from worker.engine.prune.rounds import SCHEDULES, in_rounds, origin_of


def parts(schedule: str, rounds: int) -> list[float]:
    """What is gone after each round."""
    steps = in_rounds([PruneConfig(schedule=schedule, rounds=rounds, channel_ratio=0.5)])
    assert steps[0][1].progress[0] == 0
    for (_, one), (_, other) in itertools.pairwise(steps):
        assert one.progress[1] == other.progress[0]
    return [step.progress[1] for _, step in steps]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.25, 0.5, 0.75, 1.0]),
        ("cubic", [1 - 27 / 64, 1 - 1 / 8, 1 - 1 / 64, 1.0]),
        # (1 - e ** -0.75) / (1 - e ** -3) = 0.527633 / 0.950213, and so on.
        ("exponential", [0.555279, 0.817574, 0.941473, 1.0]),
    ],
)
def test_schedules_by_hand(schedule, expected):
    assert parts(schedule, 4) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("rounds", [2, 3, 7, 100])
def test_the_last_round_ends_at_the_whole_without_rounding(schedule, rounds):
    assert parts(schedule, rounds)[-1] == 1.0


def test_recovery_runs_between_rounds_and_not_after_the_last():
    tune, still = FinetuneConfig(), RecalibrateConfig()
    prune = PruneConfig(channel_ratio=0.5, rounds=3, recover=(still, tune))
    steps = in_rounds([prune, still])
    assert [type(step) for _, step in steps] == [
        *(PruneConfig, RecalibrateConfig, FinetuneConfig) * 2,
        PruneConfig,
        RecalibrateConfig,
    ]
    assert [place for place, _ in steps] == [0] * 7 + [1]


def one_by_one(name: str, asked: PruneConfig) -> tuple[Program, list[Counts]]:
    program = pattern_program(name)
    origin = origin_of(asked, program)
    seen = []
    for _, step in in_rounds([asked]):
        coupling = couple(program)
        plan = decide(coupling, replace(step, origin=origin), seed=0)
        program = cut(coupling, plan.keep)
        seen.append(count(couple(program)))
    return program, seen


def widths(program: Program) -> dict[str, int]:
    return {group.name: len(group) for group in couple(program).groups}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "asked",
    [
        PruneConfig(scope="local", channel_ratio=0.5),
        PruneConfig(scope="local", channel_ratio=0.37),
        PruneConfig(scope="local", keep=3),
        PruneConfig(scope="local", channel_ratio=0.5, overrides=(Override("inner.*", keep=11),)),
        PruneConfig(
            scope="local", channel_ratio=0.5, overrides=(Override("inner.*", channel_ratio=0.25),)
        ),
    ],
)
def test_rounds_of_each_group_end_at_the_widths_of_one_shot(asked, schedule):
    several = replace(asked, rounds=3, schedule=schedule)
    program, seen = one_by_one("residual", several)
    once, _ = one_by_one("residual", asked)
    assert widths(program) == widths(once)
    assert [each.macs for each in seen] == sorted((each.macs for each in seen), reverse=True)


@pytest.mark.parametrize(
    "asked",
    [
        PruneConfig(channel_ratio=0.5),
        PruneConfig(keep=9),
        PruneConfig(channel_ratio=0.5, overrides=(Override("head.*", keep=7),)),
    ],
)
def test_rounds_of_the_model_end_at_as_many_channels_as_one_shot(asked):
    program, _ = one_by_one("residual", replace(asked, rounds=4))
    once, _ = one_by_one("residual", asked)
    assert sum(widths(program).values()) == sum(widths(once).values())


@pytest.mark.parametrize("kind", ["macs", "parameters", "bytes"])
@pytest.mark.parametrize("scope", ["local", "global"])
def test_rounds_end_within_the_budget_of_the_original(kind, scope):
    asked = PruneConfig(scope=scope, rounds=3, **{kind: 0.5})
    _, seen = one_by_one("padded_blocks", asked)
    field = {"bytes": "size_bytes"}.get(kind, kind)
    whole = getattr(count(pattern_coupling("padded_blocks")), field)
    shares = [getattr(each, field) / whole for each in seen]
    # A third of the way, two thirds, all of it; one channel is a few hundredths of this.
    for share, limit in zip(shares, (5 / 6, 4 / 6, 0.5), strict=True):
        assert limit - 0.08 <= share <= limit


def test_a_threshold_in_rounds_leaves_nothing_below_it():
    asked = PruneConfig(threshold=0.95, floor=0.0, rounds=3)
    program = pattern_program("residual")
    origin = origin_of(asked, program)
    for _, step in in_rounds([asked]):
        coupling = couple(program)
        plan = decide(coupling, replace(step, origin=origin), seed=0)
        program = cut(coupling, plan.keep)
    for group, scores in zip(coupling.groups, plan.scores, strict=True):
        assert float(scores[plan.keep[group.channels]].min()) >= 0.95


def test_a_round_too_short_for_one_channel_is_none():
    # Eight of sixteen channels and four of twelve: most of many rounds take nothing.
    asked = PruneConfig(scope="local", keep=8, rounds=100)
    steps = in_rounds([asked])
    coupling = pattern_coupling("mlp")
    assert bool(decide(coupling, steps[0][1], seed=0).keep.all())
    few = replace(asked, rounds=12, schedule="cubic")
    program, _ = one_by_one("mlp", few)
    assert widths(program) == {"0.weight": 8, "2.weight": 8}


def test_rounds_that_take_nothing_in_all_are_refused_in_the_last():
    with pytest.raises(NothingToPruneError, match="keep 16"):
        one_by_one("mlp", PruneConfig(scope="local", keep=16, rounds=3))


def test_pairs_are_of_one_round():
    merged = {"match": "a", "pairs": [[1, 0]]}
    with pytest.raises(ValidationError, match="pairs name channels of the first round alone"):
        PruneStep(step="prune", algorithm="shift", overrides=[merged], rounds=2)


# The pipeline.


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("net")
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(64, 6)).astype(np.float32)
    np.savez(folder / "train.npz", inputs=inputs, targets=draw.integers(0, 3, 64))
    torch.manual_seed(0)
    torch.export.save(export(randomized(Net()), torch.randn(2, 6)), folder / "model.pt2")
    return folder


def request(folder, output, *recipe) -> Request:
    evaluation = EvaluationConfig(latency_rounds=0)
    model, train = folder / "model.pt2", folder / "train.npz"
    return Request(model, "0" * 64, recipe, output, train=train, evaluation=evaluation)


def run(folder, output, *recipe) -> tuple[dict, list[str]]:
    stages = []
    report = compress(
        request(folder, output, *recipe),
        on_progress=lambda stage, done, *_: stages.append(stage) if not done else None,
    )
    return report, stages


@pytest.mark.parametrize(
    ("algorithm", "amount"),
    [("cut", {"macs": 0.5}), ("shift", {"channel_ratio": 0.5}), ("zero", {"sparsity": 0.5})],
)
def test_every_round_has_its_plan_and_recovery_between(folder, tmp_path, algorithm, amount):
    tune = FinetuneConfig(epochs=1, batch_size=16)
    step = PruneConfig(algorithm=algorithm, scope="local", rounds=3, recover=(tune,), **amount)
    report, stages = run(folder, tmp_path, step)
    assert [s for s in stages if s in ("pruning", "recovering")] == [
        "pruning",
        "recovering",
        "pruning",
        "recovering",
        "pruning",
    ]
    plans = [json.loads((tmp_path / f"plan-{number}.json").read_bytes()) for number in range(3)]
    assert sorted(path.name for path in tmp_path.glob("plan*")) == [
        f"plan-{number}.json" for number in range(3)
    ]
    assert report["after_prune"]["counts"] == plans[-1]["predicted"]
    if algorithm == "zero":
        # 96 and 48 weights; a third, two thirds and all of a half.
        zeros = [[each["zero_count"] for each in plan["sparse"]] for plan in plans]
        assert zeros == [[16, 8], [32, 16], [48, 24]]
    else:
        assert [plan["baseline"] for plan in plans[1:]] == [
            plan["predicted"] for plan in plans[:-1]
        ]
        assert plans[-1]["channel_groups"][0]["keep"].__len__() == 8


def test_rounds_that_take_nothing_still_end_in_a_model(folder, tmp_path):
    step = PruneConfig(scope="local", keep=14, rounds=5)
    report, _ = run(folder, tmp_path, step)
    # 16 channels of 6 + 1 + 2 + 3 parameters each, and a bias of 3.
    assert report["before"]["counts"]["parameters"] == 16 * 12 + 3
    assert report["after_recovery"]["counts"]["parameters"] == 14 * 12 + 3


# Pointers.


@pytest.mark.parametrize(
    ("step", "error", "pointer"),
    [
        (PruneConfig(macs=0.01), TargetUnreachableError, "/recipe/1/budget/macs"),
        (PruneConfig(keep=99), NothingToPruneError, "/recipe/1/budget"),
        (
            PruneConfig(algorithm="shift", overrides=(Override("0.*", pairs=((1, 0), (99, 1))),)),
            PairError,
            "/recipe/1/overrides/0/pairs/1/0",
        ),
        (
            PruneConfig(algorithm="zero", sparsity=0.99),
            TargetUnreachableError,
            "/recipe/1/budget/sparsity",
        ),
        (
            PruneConfig(granularity="heads", channel_ratio=0.5),
            NothingToPruneError,
            "/recipe/1/granularity",
        ),
        # In the second round.
        (PruneConfig(macs=0.01, rounds=3), TargetUnreachableError, "/recipe/1/budget/macs"),
    ],
)
def test_what_is_wrong_is_pointed_at_from_the_top_of_the_spec(
    folder, tmp_path, step, error, pointer
):
    with pytest.raises(error) as caught:
        run(folder, tmp_path, RecalibrateConfig(), step)
    assert caught.value.pointer == pointer
    with pytest.raises(error) as caught:
        make_plan(
            request(folder, tmp_path, RecalibrateConfig(), replace(step, rounds=1)),
            on_progress=lambda *_: None,
        )
    assert caught.value.pointer == pointer
