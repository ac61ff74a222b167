"""A latency budget, against a clock whose answers are known."""

from functools import cache
from math import ceil

import pytest
import torch
from torch import nn

from tests.zoo.exported import export
from worker.engine.config import PruneConfig
from worker.engine.errors import CompilerError, TargetUnreachableError
from worker.engine.graph.coupling import couple
from worker.engine.measure import latency as measuring
from worker.engine.measure.latency import latency, times_ms
from worker.engine.program import Program
from worker.engine.prune.plan import Scored
from worker.engine.search.latency import GroupTimes, meet_latency
from worker.engine.search.stopwatch import Stopwatch

WIDTHS = (64, 48, 64)


def _ignore(done: int, total: int) -> None:
    """Nobody watches."""


@cache
def program() -> Program:
    torch.manual_seed(0)
    a, b, c = WIDTHS
    layers = [nn.Linear(8, a), nn.ReLU(), nn.Linear(a, b), nn.ReLU(), nn.Linear(b, c)]
    return Program.from_exported(
        export(nn.Sequential(*layers, nn.ReLU(), nn.Linear(c, 4)).eval(), torch.zeros(2, 8))
    )


def scored(**config: object) -> Scored:
    return Scored.of(couple(program()), PruneConfig(latency=0.5, **config), seed=0)


class Clock:
    """Hardware that computes channels eight at a time, some groups of which cost more."""

    def __init__(self, *worth: float, step: int = 8, fixed: float = 0.0):
        self.worth, self.step, self.fixed = worth, step, fixed
        self.groups = scored().coupling.groups

    def time(self, keep: torch.Tensor) -> float:
        def cost(worth: float, group) -> float:
            kept = int(keep[group.channels].sum())
            return worth * ceil(kept / self.step) * self.step / len(group)

        found = sum(cost(*each) for each in zip(self.worth, self.groups, strict=True))
        return self.fixed + found

    def ratios(self, keeps, **_: object) -> list[float]:
        whole = self.time(scored().coupling.everything())
        return [self.time(keep) / whole for keep in keeps]


def test_the_target_is_met_and_not_by_more_than_a_step():
    clock = Clock(1.0, 1.0, 1.0)
    choice = meet_latency(scored(), 0.5, clock, on_progress=_ignore)
    assert clock.ratios([choice.keep]) == [choice.ratio]
    assert 0.35 <= choice.ratio <= 0.5


def test_counts_go_up_to_rounder_ones_that_are_as_fast():
    clock = Clock(1.0, 1.0, 1.0)
    keep = meet_latency(scored(), 0.5, clock, on_progress=_ignore).keep
    for group in clock.groups:
        assert int(keep[group.channels].sum()) % 8 == 0


def test_a_smooth_clock_rounds_nothing_up():
    clock = Clock(1.0, 1.0, 1.0, step=1)
    choice = meet_latency(scored(), 0.5, clock, on_progress=_ignore)
    assert 0.45 <= choice.ratio <= 0.5


def test_groups_that_cost_no_time_lose_least():
    clock = Clock(1.0, 0.0, 0.2)
    config = {"criterion": "random"}
    keep = meet_latency(scored(**config), 0.6, clock, on_progress=_ignore).keep
    first, second, _ = (float(keep[group.channels].float().mean()) for group in clock.groups)
    assert second == 1
    assert first < 0.7


def test_what_is_too_slow_at_its_floor_is_said_with_what_is_reached():
    with pytest.raises(TargetUnreachableError, match=r"0\.5 .* 0\.9\d\d remain") as caught:
        meet_latency(scored(), 0.5, Clock(0.05, 0.05, 0.05, fixed=5.0), on_progress=_ignore)
    assert caught.value.pointer == "/budget/latency"


def test_the_table_has_every_group_and_falls():
    clock = Clock(1.0, 0.5, 0.2)
    seen: list[tuple[int, int]] = []
    choice = meet_latency(
        scored(), 0.5, clock, on_progress=lambda done, total: seen.append((done, total))
    )
    assert [times.group.name for times in choice.table] == [group.name for group in clock.groups]
    for times in choice.table:
        assert times.kept[0] == len(times.group)
        assert list(times.ratio) == sorted(times.ratio, reverse=True)
    assert seen[-1][0] == seen[-1][1]


def test_between_what_was_measured_it_is_interpolated():
    group = scored().coupling.groups[0]
    times = GroupTimes(group, (64, 32, 16), (1.0, 0.6, 0.5))
    assert times.saved(64) == 0
    assert times.saved(48) == pytest.approx(0.2)
    assert times.saved(32) == pytest.approx(0.4)
    assert times.saved(2) == pytest.approx(0.5)


def test_a_stopwatch_gives_a_ratio_for_each_cut():
    coupling = couple(program())
    watch = Stopwatch(coupling, batch_size=4, mode="eager")
    keep = coupling.everything()
    keep[coupling.groups[0].channels[:40]] = False
    ratios = watch.ratios([coupling.everything(), keep], rounds=2)
    assert len(ratios) == 2
    assert all(ratio > 0 for ratio in ratios)


def test_times_are_by_program_and_round():
    seen: list[int] = []
    leaves = [torch.zeros(2, 8)]
    times = times_ms([program()] * 3, leaves, rounds=4, on_round=lambda *told: seen.append(told[0]))
    assert times.shape == (3, 4)
    assert (times > 0).all()
    assert seen == [1, 2, 3, 4]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_programs_are_timed(monkeypatch):
    """Through the front end of the compiler alone, as its back end needs a C++ compiler."""
    compiled = []

    def compile_(module, **options):
        compiled.append(options)
        return torch._dynamo.optimize("eager")(module)

    monkeypatch.setattr(measuring.torch, "compile", compile_)
    found = latency(program(), program(), batch_size=2, rounds=2, on_round=_ignore, mode="compiled")
    assert len(compiled) == 2
    assert (found.original_ms > 0).all()


def test_a_worker_that_cannot_compile_says_so(monkeypatch):
    def compile_(module, **options):
        def fail(*args, **kwargs):
            raise OSError("no compiler")

        broken = program().copy().module
        broken.forward = fail
        return broken

    monkeypatch.setattr(measuring.torch, "compile", compile_)
    with pytest.raises(CompilerError, match="latency_mode 'eager'") as caught:
        latency(program(), program(), batch_size=2, rounds=2, on_round=_ignore, mode="compiled")
    assert caught.value.pointer == "/evaluation/latency_mode"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_latency_budget_is_measured_on_a_gpu():
    device = program().to("cuda")
    coupling = couple(device)
    watch = Stopwatch(coupling, batch_size=64, mode="eager")
    [ratio] = watch.ratios([coupling.everything()], rounds=9)
    assert 0.5 < ratio < 2
