"""The pipeline on real digits: what it writes, what it says, and how it refuses."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.zoo.exported import export
from worker.engine.compress import compress, make_plan
from worker.engine.config import (
    ApplyPlanConfig,
    EvaluationConfig,
    FinetuneConfig,
    GroupConfig,
    PruneConfig,
    RecalibrateConfig,
    Request,
)
from worker.engine.errors import (
    BaselineError,
    DataMismatchError,
    DivergedError,
    EngineError,
    PromiseBrokenError,
)
from worker.engine.load import load_program
from worker.engine.program import Program
from worker.engine.safety import SafetyConfig


def _silent(stage: str, done: int, total: int, unit: str) -> None:
    """Nobody watches."""


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.hidden = nn.Linear(8 * 36, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu().flatten(1)
        return self.head(self.hidden(x).relu())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A briefly trained network and its data, as files."""
    folder = tmp_path_factory.mktemp("digits")
    # Synthetic, so that it is quick: the class is where the bright rows are.
    draw = np.random.default_rng(0)
    targets = draw.integers(0, 10, 400)
    inputs = draw.normal(0, 0.3, (400, 1, 8, 8)).astype(np.float32)
    for row, target in zip(inputs, targets, strict=True):
        row[0, target % 8] += 1 + target // 8
    np.savez(folder / "train.npz", inputs=inputs[:300], targets=targets[:300])
    np.savez(folder / "test.npz", inputs=inputs[300:], targets=targets[300:])
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(
            net(torch.from_numpy(inputs[:300])), torch.from_numpy(targets[:300])
        )
        loss.backward()
        optimizer.step()
    example = torch.from_numpy(inputs[:2].copy())
    torch.export.save(export(net.eval(), example), folder / "model.pt2")
    return folder


def _request(folder: Path, output: Path, *steps, **fields) -> Request:
    model = folder / "model.pt2"
    given = {
        "train": folder / "train.npz",
        "test": folder / "test.npz",
        "evaluation": EvaluationConfig(latency_rounds=3),
        **fields,
    }
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    return Request(model, digest, steps, output, **given)


HALF = PruneConfig(macs=0.5)
TUNE = FinetuneConfig(epochs=20, learning_rate=3e-3, batch_size=32)
RECIPE = (HALF, RecalibrateConfig(), TUNE)


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("output")
    request = _request(folder, output, *RECIPE)
    seen = []
    report = compress(request, on_progress=lambda *event: seen.append(event))
    return output, report, seen


def test_the_report_says_what_the_saved_file_does(finished, folder):
    output, report, _ = finished
    program = Program.from_exported(load_program(output / "model.pt2"))
    test = np.load(folder / "test.npz")
    with torch.no_grad():
        predicted = program.run([torch.from_numpy(test["inputs"])])[0].argmax(1)
    accuracy = float((predicted.numpy() == test["targets"]).mean())
    assert report["after_recovery"]["quality"]["accuracy"] == pytest.approx(accuracy)
    after = report["after_recovery"]["counts"]
    assert after["macs"] <= 0.5 * report["before"]["counts"]["macs"]
    assert after["parameters"] == sum(p.numel() for p in program.module.parameters())
    assert report["after_recovery"]["file_bytes"] == (output / "model.pt2").stat().st_size


def test_fine_tuning_gives_back_what_pruning_took(finished):
    _, report, _ = finished
    accuracy = [report[when]["quality"]["accuracy"] for when in ("before", "after_recovery")]
    assert accuracy[0] > 0.9
    assert accuracy[1] >= accuracy[0] - 0.02


def test_the_weights_are_there_as_safetensors_too(finished):
    output, _, _ = finished
    program = Program.from_exported(load_program(output / "model.pt2"))
    weights = load_file(output / "model.safetensors")
    state = program.module.state_dict()
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[name], state[name]) for name in state)


def test_progress_ends_where_it_said_it_would(finished):
    _, _, seen = finished
    stages = list(dict.fromkeys(stage for stage, *_ in seen))
    assert stages == [
        "loading",
        "baseline",
        "scoring",
        "pruning",
        "recovering",
        "saving",
        "verifying",
        "evaluating",
    ]
    assert all(0 <= done <= total for _, done, total, _ in seen)
    units = {(stage, unit) for stage, _, _, unit in seen}
    assert ("recovering", "batches") in units
    assert {("evaluating", "batches"), ("evaluating", "rounds")} <= units


def test_the_same_seed_gives_the_same_weights(finished, folder, tmp_path):
    output, report, _ = finished
    again = compress(_request(folder, tmp_path, *RECIPE), on_progress=_silent)
    name = "model.safetensors"
    assert (tmp_path / name).read_bytes() == (output / name).read_bytes()
    assert again["after_recovery"]["quality"] == report["after_recovery"]["quality"]


def test_a_plan_changes_nothing_and_says_everything(folder, tmp_path):
    plan = make_plan(_request(folder, tmp_path, HALF), on_progress=_silent)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    assert json.loads((tmp_path / "plan.json").read_text()) == plan
    assert plan["predicted"]["macs"] <= plan["baseline"]["macs"] / 2
    group = plan["channel_groups"][0]
    assert (group["name"], group["channel_count"]) == ("conv.weight", 8)
    assert {(m["parameter"], m["dim"]) for m in group["members"]} == {
        ("conv.weight", 0),
        ("conv.bias", 0),
        ("norm.weight", 0),
        ("norm.bias", 0),
        ("norm.running_mean", 0),
        ("norm.running_var", 0),
        ("hidden.weight", 1),
    }


def test_fine_tuning_before_pruning_leaves_the_original_as_it_was(finished, folder, tmp_path):
    _, pruned_first, _ = finished
    tune = FinetuneConfig(epochs=2, learning_rate=1e-2, keep="last")
    report = compress(_request(folder, tmp_path, tune, HALF), on_progress=_silent)
    assert report["before"]["quality"] == pruned_first["before"]["quality"]
    # The tuned weights were pruned, not the original's.
    assert report["after_prune"]["quality"] != pruned_first["after_prune"]["quality"]


def test_two_prune_steps_leave_two_plans(folder, tmp_path):
    steps = (PruneConfig(channel_ratio=0.2), PruneConfig(channel_ratio=0.2))
    compress(_request(folder, tmp_path, *steps), on_progress=_silent)
    assert {path.name for path in tmp_path.glob("plan*")} == {"plan-0.json", "plan-1.json"}


def _given(plan: dict) -> ApplyPlanConfig:
    groups = tuple(GroupConfig(g["id"], tuple(g["keep"])) for g in plan["channel_groups"])
    return ApplyPlanConfig(plan["model_sha256"], groups, exclude=tuple(plan["exclude"]))


@pytest.mark.parametrize("exclude", [(), ("conv.*",)])
def test_a_plan_that_is_sent_back_makes_the_same_weights(folder, tmp_path, exclude):
    outputs = [tmp_path / "decided", tmp_path / "given"]
    for output in outputs:
        output.mkdir()
    asked = PruneConfig(channel_ratio=0.4, exclude=exclude)
    compress(_request(folder, outputs[0], asked), on_progress=_silent)
    decided = json.loads((outputs[0] / "plan.json").read_text())
    report = compress(_request(folder, outputs[1], _given(decided)), on_progress=_silent)
    taken = json.loads((outputs[1] / "plan.json").read_text())
    assert [g["keep"] for g in taken["channel_groups"]] == [
        g["keep"] for g in decided["channel_groups"]
    ]
    assert taken["exclude"] == list(exclude)
    assert report["after_recovery"]["counts"] == taken["predicted"] == decided["predicted"]
    name = "model.safetensors"
    assert (outputs[0] / name).read_bytes() == (outputs[1] / name).read_bytes()


def test_plans_of_two_steps_are_applied_in_turn(folder, tmp_path):
    steps = (PruneConfig(channel_ratio=0.2), PruneConfig(channel_ratio=0.2))
    first = compress(_request(folder, tmp_path, *steps), on_progress=_silent)
    plans = [json.loads((tmp_path / f"plan-{n}.json").read_text()) for n in (0, 1)]
    steps = tuple(_given(plan) for plan in plans)
    again = compress(_request(folder, tmp_path, *steps), on_progress=_silent)
    assert again["after_recovery"]["counts"] == first["after_recovery"]["counts"]


def _fails(folder: Path, output: Path, *steps, **fields) -> EngineError:
    with pytest.raises(EngineError) as caught:
        compress(_request(folder, output, *steps, **fields), on_progress=_silent)
    return caught.value


def test_a_data_set_of_another_dtype_is_refused_with_both(folder, tmp_path):
    np.savez(tmp_path / "wrong.npz", inputs=np.zeros((4, 1, 8, 8)), targets=np.zeros(4, np.int64))
    error = _fails(folder, tmp_path, HALF, test=tmp_path / "wrong.npz")
    assert isinstance(error, DataMismatchError)
    assert "float64" in str(error)
    assert "float32" in str(error)


def test_a_class_that_the_output_lacks_is_named(folder, tmp_path):
    inputs = np.zeros((4, 1, 8, 8), np.float32)
    np.savez(tmp_path / "wrong.npz", inputs=inputs, targets=np.array([0, 1, 2, 10]))
    error = _fails(folder, tmp_path, HALF, test=tmp_path / "wrong.npz")
    assert "class 10" in str(error)
    assert "0 to 9" in str(error)


def test_fine_tuning_without_labels_is_refused(folder, tmp_path):
    np.savez(tmp_path / "bare.npz", inputs=np.zeros((4, 1, 8, 8), np.float32))
    error = _fails(folder, tmp_path, HALF, FinetuneConfig(), train=tmp_path / "bare.npz")
    assert "targets" in str(error)


def test_a_learning_rate_that_blows_up_is_told(folder, tmp_path):
    error = _fails(folder, tmp_path, HALF, FinetuneConfig(epochs=40, learning_rate=1e30))
    assert isinstance(error, DivergedError)
    assert "learning_rate below 1e+30" in str(error)


def test_a_model_that_does_not_run_on_its_example_is_told_apart(tmp_path):
    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(3, 4)
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.table(x))

    exported = export(Picky().eval(), torch.zeros(2, 3, dtype=torch.int64))
    exported.example_inputs[0][0].fill_(7)
    torch.export.save(exported, tmp_path / "model.pt2")
    error = _fails(tmp_path, tmp_path, HALF, train=None, test=None)
    assert isinstance(error, BaselineError)
    assert "example inputs" in str(error)


PROBED = EvaluationConfig(latency_rounds=0, noise_std=0.5, fgsm_epsilon=0.3)


def test_kept_promises_are_in_the_report(folder, tmp_path):
    # Each within what cannot be exceeded, so that nothing hangs on how well the network learned.
    promises = SafetyConfig(
        accuracy=1.0,
        top5_accuracy=1.0,
        agreement=1.0,
        loss=1e3,
        class_accuracy=1.0,
        noise_accuracy=1.0,
        fgsm_accuracy=1.0,
    )
    request = _request(folder, tmp_path, HALF, evaluation=PROBED, safety=promises)
    report = compress(request, on_progress=_silent)
    found = {promise["name"]: promise for promise in report["safety"]["promises"]}
    assert found.keys() == promises.given.keys()
    assert all(promise["is_kept"] for promise in found.values())
    before, after = (report[when]["quality"] for when in ("before", "after_recovery"))
    assert found["noise_accuracy"]["after"] == after["noise_accuracy"]
    assert found["loss"]["drop"] == after["loss"] - before["loss"]
    assert found["agreement"]["before"] == 1.0
    assert before["fgsm_accuracy"] < before["noise_accuracy"] <= before["top5_accuracy"]
    assert len(before["class_accuracy"]) == 10


def test_a_broken_promise_leaves_a_report_that_says_so(folder, tmp_path):
    promises = SafetyConfig(agreement=0.0)
    request = _request(folder, tmp_path, PruneConfig(channel_ratio=0.8), safety=promises)
    with pytest.raises(
        PromiseBrokenError, match=r"agreement fell by .* may fall by 0: no"
    ) as caught:
        compress(request, on_progress=_silent)
    report = caught.value.report
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert [promise["is_kept"] for promise in report["safety"]["promises"]] == [False]


def test_nothing_promised_is_nothing_reported(finished):
    _, report, _ = finished
    assert report["safety"] is None
    assert report["before"]["quality"]["noise_accuracy"] is None


def test_what_is_not_measured_cannot_be_promised(folder, tmp_path):
    error = _fails(folder, tmp_path, HALF, test=None, safety=SafetyConfig(accuracy=0.1))
    assert isinstance(error, DataMismatchError)
    assert "accuracy needs class numbers" in str(error)
    assert not (tmp_path / "plan.json").exists()
