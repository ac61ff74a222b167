"""The smallest model that keeps its promise, through the whole pipeline."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.engine.verified import verify_here
from tests.zoo.exported import export
from worker.engine import compress as compressing
from worker.engine.compress import compress
from worker.engine.config import (
    EvaluationConfig,
    FinetuneConfig,
    PruneConfig,
    ReconstructConfig,
    Request,
    SearchConfig,
)
from worker.engine.data import Rows
from worker.engine.errors import DataMismatchError, DivergedError, EngineError
from worker.engine.graph.coupling import couple
from worker.engine.load import load_program
from worker.engine.program import Program
from worker.engine.prune.plan import Scored
from worker.engine.safety import SafetyConfig
from worker.engine.search import workshop as making
from worker.engine.search.latency import meet_latency
from worker.engine.search.sensitivity import scores_by, sensitivities
from worker.engine.search.stopwatch import Stopwatch

CUT = PruneConfig(accuracy=0.02, search=SearchConfig(trials=8))


def _ignore(done: int, total: int) -> None:
    """Nobody watches."""


def _silent(stage: str, done: int, total: int, unit: str) -> None:
    """Nobody watches."""


@pytest.fixture(autouse=True)
def _verified_here(monkeypatch):
    verify_here(monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A network wider than its task needs, trained to tell four directions apart."""
    folder = tmp_path_factory.mktemp("files")
    draw = np.random.default_rng(0)
    centers = draw.normal(size=(4, 6)) * 2
    for name, count in (("train", 400), ("test", 200)):
        targets = draw.integers(0, 4, count)
        inputs = (centers[targets] + draw.normal(size=(count, 6))).astype(np.float32)
        np.savez(folder / f"{name}.npz", inputs=inputs, targets=targets)
        values = (inputs @ centers.T).astype(np.float32)
        np.savez(folder / f"{name}-values.npz", inputs=inputs, targets=values)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU())
    module.append(nn.Linear(32, 4))
    with np.load(folder / "train.npz") as train:
        inputs, targets = (torch.from_numpy(train[name]) for name in ("inputs", "targets"))
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(inputs), targets).backward()
        optimizer.step()
    torch.export.save(export(module.eval(), inputs[:2]), folder / "model.pt2")
    return folder


def request(folder: Path, output: Path, *recipe: object, data: str = "", **more) -> Request:
    output.mkdir(exist_ok=True)
    return Request(
        model=folder / "model.pt2",
        model_sha256="0" * 64,
        recipe=recipe,
        output_dir=output,
        train=folder / f"train{data}.npz",
        test=folder / f"test{data}.npz",
        evaluation=EvaluationConfig(batch_size=200, latency_rounds=0),
        **more,
    )


@pytest.fixture(scope="module")
def found(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("found")
    asked = request(folder, output, CUT, ReconstructConfig(sample_count=200))
    with pytest.MonkeyPatch.context() as patch:
        verify_here(patch)
        return output, compress(asked, on_progress=_silent)


def test_what_is_delivered_keeps_its_promise_and_is_the_smallest_that_does(found):
    _, report = found
    search = report["search"]
    assert search["outcome"] == "found"
    before, after = (report[when]["quality"]["accuracy"] for when in ("before", "after_recovery"))
    assert before - after <= 0.02 + 1e-9
    [delivered] = [each for each in search["trials"] if each["is_confirmed"]]
    assert delivered["number"] == search["delivered_trial"]
    assert delivered["counts"] == report["after_recovery"]["counts"]
    assert delivered["counts"]["macs"] < 0.5 * report["before"]["counts"]["macs"]
    smaller = [
        each
        for each in search["trials"]
        if each["counts"]["macs"] < delivered["counts"]["macs"] and each["is_kept"]
    ]
    assert all(each["is_confirmed"] is False for each in smaller)


def test_after_pruning_is_what_no_step_has_recovered(found):
    _, report = found
    pruned, recovered = (report[when] for when in ("after_prune", "after_recovery"))
    assert pruned["counts"] == recovered["counts"]
    assert pruned["quality"]["output_mse"] > recovered["quality"]["output_mse"]


def test_the_plan_is_that_of_the_model(found):
    output, report = found
    plan = json.loads((output / "plan.json").read_text())
    assert plan["predicted"] == report["after_recovery"]["counts"]
    assert plan["budget"] == {"accuracy": 0.02}
    assert report["verification"]["is_exact"]


def test_every_group_has_a_sensitivity_that_rises(found):
    _, report = found
    for each in report["search"]["sensitivity"]:
        assert each["removed"][0] == 0 == each["damage"][0]
        assert each["damage"] == sorted(each["damage"])
        assert len(each["damage"]) == len(each["removed"]) == 4


def test_it_is_the_same_each_time(found, folder, tmp_path):
    output, report = found
    asked = request(folder, tmp_path / "again", CUT, ReconstructConfig(sample_count=200))
    again = compress(asked, on_progress=_silent)
    for first, second in zip(report["search"]["trials"], again["search"]["trials"], strict=True):
        assert {**first, "seconds": 0} == {**second, "seconds": 0}
    one, other = (load_file(path / "model.safetensors") for path in (output, tmp_path / "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_nothing_found_delivers_the_model_as_it_was(folder, tmp_path):
    cut = PruneConfig(loss=0.0, search=SearchConfig(trials=4), floor=0.9, criterion="random")
    spoil = FinetuneConfig(epochs=1, learning_rate=1.0, keep="last")
    asked = request(folder, tmp_path / "out", cut, spoil)
    report = compress(asked, on_progress=_silent)
    search = report["search"]
    assert search["outcome"] == "accuracy_budget_unreachable"
    assert search["delivered_trial"] is None
    assert search["trials"]
    assert not any(each["is_kept"] for each in search["trials"])
    assert report["after_recovery"]["counts"] == report["before"]["counts"]
    assert report["after_recovery"]["quality"]["output_mse"] < 1e-12
    assert any("accuracy_budget_unreachable" in warning for warning in report["warnings"])


def test_other_promises_are_kept_too(folder, tmp_path):
    asked = request(
        folder,
        tmp_path / "out",
        CUT,
        ReconstructConfig(sample_count=200),
        safety=SafetyConfig(agreement=0.01),
    )
    report = compress(asked, on_progress=_silent)
    assert 1 - report["after_recovery"]["quality"]["agreement"] <= 0.01 + 1e-9


def test_values_have_no_accuracy_to_promise_and_a_loss(folder, tmp_path):
    asked = request(folder, tmp_path / "a", CUT, data="-values")
    with pytest.raises(DataMismatchError, match="accuracy needs class numbers") as caught:
        compress(asked, on_progress=_silent)
    assert caught.value.pointer == "/recipe/0/budget"
    by_loss = PruneConfig(loss=0.05, search=SearchConfig(trials=5))
    report = compress(
        request(folder, tmp_path / "b", by_loss, ReconstructConfig(), data="-values"),
        on_progress=_silent,
    )
    if report["search"]["outcome"] == "found":
        before, after = (report[when]["quality"]["loss"] for when in ("before", "after_recovery"))
        assert after - before <= 0.05 + 1e-9


def test_a_search_that_was_stopped_goes_on_with_what_it_had_tried(folder, tmp_path, monkeypatch):
    tries = []
    real = compressing.Workshop.made

    def counted(self, keep):
        tries.append(keep)
        return real(self, keep)

    monkeypatch.setattr(compressing.Workshop, "made", counted)

    class Stopped(Exception):
        pass

    def stop(stage: str, done: int, total: int, unit: str) -> None:
        if stage == "searching" and done == 4:
            raise Stopped

    recipe = (CUT, ReconstructConfig(sample_count=200))
    kept = {"checkpoint": tmp_path / "checkpoint", "checkpoint_s": 0.0}
    first = request(folder, tmp_path / "first", *recipe, **kept)
    with pytest.raises(Stopped):
        compress(first, on_progress=stop)
    before = len(tries)
    assert before == 4
    second = replace(
        request(folder, tmp_path / "second", *recipe, **kept), resume=tmp_path / "checkpoint"
    )
    resumed = compress(second, on_progress=_silent)
    whole = request(folder, tmp_path / "whole", *recipe)
    at = len(tries)
    expected = compress(whole, on_progress=_silent)
    # Three were remembered; the one that was being told of when it stopped was not.
    assert at - before <= len(tries) - at - 2
    assert resumed["search"]["delivered_trial"] == expected["search"]["delivered_trial"]
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("second", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_step_that_fails_in_a_trial_points_at_itself(folder, tmp_path):
    wrong = FinetuneConfig(epochs=1, augment=("flip",))
    asked = request(folder, tmp_path / "out", CUT, ReconstructConfig(), wrong)
    with pytest.raises(EngineError, match="augment") as caught:
        compress(asked, on_progress=_silent)
    assert caught.value.pointer == "/recipe/2/augment"


def test_a_trial_that_diverges_keeps_no_promise_and_ends_nothing(folder, tmp_path, monkeypatch):
    def diverge(self, keep):
        raise DivergedError("the loss became nan")

    monkeypatch.setattr(compressing.Workshop, "made", diverge)
    cut = PruneConfig(accuracy=0.02, search=SearchConfig(trials=3))
    report = compress(request(folder, tmp_path / "out", cut), on_progress=_silent)
    assert report["search"]["outcome"] == "accuracy_budget_unreachable"
    assert [each["loss"] for each in report["search"]["trials"]] == [None] * 3
    assert any("the loss became nan" in warning for warning in report["warnings"])


def test_sensitivities_rank_by_what_is_lost_for_what_it_costs(folder):
    program = Program.from_exported(load_program(folder / "model.pt2"))
    scored = Scored.of(couple(program), PruneConfig(accuracy=0.1), seed=0)
    rows = Rows.read(folder / "test.npz", program)
    curves = sensitivities(scored, rows, batch_size=64, on_progress=_ignore)
    scores = scores_by(scored, curves, "macs")
    for before, after in zip(scored.scores, scores, strict=True):
        assert torch.equal(before.argsort(stable=True), after.argsort(stable=True))


class Beside(nn.Module):
    """One group of two whole layers, one of which is far less important than the other."""

    def __init__(self):
        super().__init__()
        self.strong, self.weak = nn.Linear(6, 8), nn.Linear(6, 8)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(torch.cat([self.strong(x), self.weak(x)], 1).relu().flip(1))


def test_no_layer_of_a_group_is_emptied(folder):
    torch.manual_seed(0)
    module = Beside()
    with torch.no_grad():
        module.weak.weight.mul_(1e-3)
    program = Program.from_exported(export(module.eval(), torch.zeros(2, 6)))
    scored = Scored.of(couple(program), PruneConfig(accuracy=0.1), seed=0)
    rows = Rows.read(folder / "test.npz", program)
    for curve in sensitivities(scored, rows, batch_size=64, on_progress=_ignore):
        assert list(curve.removed) == sorted(set(curve.removed))
    watch = Stopwatch(scored.coupling, batch_size=2, mode="eager")
    meet_latency(
        replace(scored, config=PruneConfig(latency=0.999)), 5.0, watch, on_progress=_ignore
    )


def test_test_data_that_tells_nothing_is_refused_before_any_trial(folder, tmp_path):
    with np.load(folder / "test.npz") as test:
        np.savez(tmp_path / "bare.npz", inputs=test["inputs"])
    asked = replace(request(folder, tmp_path / "out", CUT), test=tmp_path / "bare.npz")
    with pytest.raises(DataMismatchError, match="accuracy needs class numbers") as caught:
        compress(asked, on_progress=_silent)
    assert caught.value.pointer == "/data/test"


def test_rows_that_judge_choose_no_weights(folder, tmp_path, monkeypatch):
    seen = []
    real = making.recovered

    def spy(program, step, sources, setting):
        seen.append((step, len(sources.rows), setting.validation))
        return real(program, step, sources, setting)

    monkeypatch.setattr(making, "recovered", spy)
    steps = [FinetuneConfig(epochs=1, keep=keep) for keep in ("best", "last")]
    cut = PruneConfig(accuracy=0.02, search=SearchConfig(trials=1))
    compress(request(folder, tmp_path / "out", cut, *steps), on_progress=_silent)
    (best, rows_of_best, held_out), (last, rows_of_last, none) = seen[:2]
    assert (best.keep, last.keep) == ("best", "last")
    assert none is None
    # Of 400 rows a tenth judges; of the others a tenth chooses.
    assert (rows_of_best, len(held_out), rows_of_last) == (324, 36, 360)
