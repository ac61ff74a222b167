"""The main job, over HTTP, from a file to a smaller file: on embedded defaults, and on servers.

Everything goes through the client. Processes are real, and some are killed.
"""

import io
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from secateur.apply import apply_plan
from secateur.cli import main as cli
from secateur.client import Client
from secateur.errors import JobCanceled, JobFailed
from secateur.failures import FailureCode
from secateur.jobs import Job, JobState, Stage
from secateur.report import Manifest, Report
from tests.stack.processes import descendants, named, started
from worker.engine.load import load_program

ROW = (1, 8, 8)
FAST = {
    # A lost worker is noticed in seconds. In production there is more patience.
    "SECATEUR_HEARTBEAT_S": "0.5",
    "SECATEUR_SILENT_S": "3",
    "SECATEUR_SWEEP_S": "0.5",
    "SECATEUR_CHECKPOINT_S": "0.1",
}


@dataclass
class Place:
    """A running stack."""

    process: subprocess.Popen[str]
    url: str
    key: str

    def worker(self) -> int:
        return named(self.process.pid, "worker")

    def child(self) -> int:
        """The process of the attempt that runs now: a fork of the fork server."""
        server = named(self.process.pid, "worker.forkserver")
        found = [
            pid
            for pid in descendants(server)
            if b"worker.forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        assert len(found) == 1
        return found[0]


@pytest.fixture(scope="module", params=["embedded", "servers"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    environment = dict(FAST)
    if request.param == "servers":
        postgres = request.getfixturevalue("postgres")
        socket = request.getfixturevalue("valkey_socket")
        environment["SECATEUR_DATABASE_URL"] = postgres.new_database()
        environment["SECATEUR_BROKER_URL"] = f"redis+socket://{socket}"
    data = tmp_path_factory.mktemp("stack")
    with started("--data", data, environment=environment) as process:
        assert process.stdout is not None
        said = {}
        for line in process.stdout:
            name, separator, value = line.strip().removeprefix("export ").partition("=")
            if separator:
                said[name] = value
            if line.startswith("Files are in"):
                break
        assert said, process.communicate()[1]
        yield Place(process, said["SECATEUR_URL"], said["SECATEUR_API_KEY"])
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0


@pytest.fixture
def client(place: Place) -> Iterator[Client]:
    with Client(place.url, place.key) as client:
        yield client


def cnn() -> nn.Module:
    """The same weights at each call."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 4),
    ).eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CNN, and data whose classes it can tell apart."""
    folder = tmp_path_factory.mktemp("files")
    program = torch.export.export(
        cnn(), (torch.randn(2, *ROW),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.export.save(program, folder / "cnn.pt2")
    random = np.random.default_rng(0)
    for name, count in (("train", 256), ("test", 64)):
        targets = random.integers(0, 4, count)
        rows = random.normal(size=(count, *ROW)) + targets[:, None, None, None]
        np.savez(folder / f"{name}.npz", inputs=rows.astype(np.float32), targets=targets)
    return folder


def spec_of(client: Client, files: Path, *, epochs: int, **prune: object) -> dict[str, object]:
    model = client.upload_model(files / "cnn.pt2")
    return {
        "model_id": model.id,
        "recipe": [
            {"step": "prune", "budget": {"macs": 0.5}, **prune},
            {"step": "recalibrate"},
            {"step": "finetune", "epochs": epochs, "learning_rate": 0.01},
        ],
        "data": {
            "train": client.upload_dataset(files / "train.npz").id,
            "test": client.upload_dataset(files / "test.npz").id,
        },
        "evaluation": {"latency_rounds": 3},
    }


embedded_alone = pytest.mark.parametrize("place", ["embedded"], indirect=True, scope="module")
"""For what has nothing to do with where things are kept."""


def once(stage: Stage, do: Callable[[], None]) -> Callable[[Job], None]:
    """A callback that does something the first time that a job is at a stage."""
    done = []

    def on_update(job: Job) -> None:
        if job.stage is stage and not done:
            done.append(job)
            do()

    return on_update


def test_a_model_is_made_smaller_and_proved(client: Client, files: Path, tmp_path: Path) -> None:
    seen: list[JobState | Stage] = []
    job = client.create_job(spec_of(client, files, epochs=2))
    job = client.wait(job, on_update=lambda now: seen.append(now.stage or now.state))
    assert job.attempt == 1
    assert seen[0] in (JobState.QUEUED, JobState.RUNNING, Stage.LOADING)
    assert seen[-1] is JobState.SUCCEEDED
    assert Stage.RECOVERING in seen

    report = client.report(job)
    assert report.after_recovery.counts.macs <= 0.5 * report.before.counts.macs
    assert report.after_recovery.counts.parameters < report.before.counts.parameters
    assert report.verification.counts_match
    assert report.verification.reload_matches
    assert report.after_recovery.quality is not None
    assert report.latency is not None

    paths = {path.name: path for path in client.download_all(job, tmp_path)}
    assert paths.keys() == {
        "manifest.json",
        "model.pt2",
        "model.safetensors",
        "plan.json",
        "report.json",
    }
    assert Report.model_validate_json(paths["report.json"].read_text()) == report
    manifest = Manifest.model_validate_json(paths["manifest.json"].read_text())
    for made in manifest.outputs:
        assert sha256(paths[made.name].read_bytes()).hexdigest() == made.sha256
    assert manifest.inputs[0].sha256 == sha256((files / "cnn.pt2").read_bytes()).hexdigest()

    program = load_program(paths["model.pt2"])
    count = sum(parameter.numel() for parameter in program.parameters())
    assert count == report.after_recovery.counts.parameters
    assert program.module()(torch.zeros(5, *ROW)).shape == (5, 4)


@embedded_alone
def test_the_same_seed_makes_the_same_weights(client: Client, files: Path) -> None:
    spec = spec_of(client, files, epochs=1)
    digests = []
    for _ in range(2):
        job = client.wait(client.create_job(spec))
        artifacts = {each.name: each.sha256 for each in client.artifacts(job)}
        digests.append(artifacts["model.safetensors"])
    assert digests[0] == digests[1]


def test_a_killed_training_goes_on_and_ends_at_the_same_weights(
    place: Place, client: Client, files: Path
) -> None:
    spec = spec_of(client, files, epochs=60)
    untouched = client.wait(client.create_job({**spec, "label": "untouched"}))
    killed_at: list[int] = []
    went_on_at: list[int] = []

    def on_update(job: Job) -> None:
        # A stage begins at nothing done, wherever it goes on.
        if job.stage is not Stage.RECOVERING or job.progress is None or not job.progress.done:
            return
        if job.attempt == 1 and not killed_at and job.progress.done >= 60:
            killed_at.append(job.progress.done)
            os.kill(place.child(), signal.SIGKILL)
        elif job.attempt == 2:
            went_on_at.append(job.progress.done)

    killed = client.wait(client.create_job(spec), on_update=on_update)
    assert killed.attempt == 2
    # From the newest checkpoint, which a busy machine leaves some steps late; not from the start.
    assert went_on_at[0] >= killed_at[0] / 2
    weights = [
        {each.name: each.sha256 for each in client.artifacts(job)}["model.safetensors"]
        for job in (untouched, killed)
    ]
    assert weights[0] == weights[1]


@embedded_alone
def test_the_smallest_model_within_a_drop_is_found(client: Client, files: Path) -> None:
    spec = spec_of(client, files, epochs=2)
    search = {"trials": 6, "seconds": 120}
    spec["recipe"] = [
        {"step": "prune", "budget": {"accuracy": 0.05}, "search": search},
        {"step": "reconstruct", "sample_count": 128},
        {"step": "finetune", "epochs": 2, "learning_rate": 0.01},
    ]
    report = client.report(client.wait(client.create_job(spec)))
    assert report.search is not None
    assert report.search.outcome == "found"
    assert 1 < len(report.search.trials) <= 6
    assert report.before.quality is not None
    assert report.after_recovery.quality is not None
    before, after = report.before.quality.accuracy, report.after_recovery.quality.accuracy
    assert before is not None
    assert after is not None
    assert before - after <= 0.05
    [delivered] = [
        each for each in report.search.trials if each.number == report.search.delivered_trial
    ]
    assert delivered.is_confirmed
    assert delivered.counts == report.after_recovery.counts


@embedded_alone
def test_a_latency_is_met_and_its_table_told(client: Client, files: Path) -> None:
    spec = spec_of(client, files, epochs=1)
    spec["recipe"] = [{"step": "prune", "budget": {"latency": 0.97}, "floor": 0.1}]
    spec["evaluation"] = {"latency_rounds": 3, "latency_batch_size": 256}
    report = client.report(client.wait(client.create_job(spec)))
    assert report.latency_table is not None
    assert [each.name for each in report.latency_table] == ["0.weight", "3.weight"]
    for each in report.latency_table:
        assert each.kept[0] == each.channel_count
        assert each.ratio[0] == 1
    assert report.after_recovery.counts.macs < report.before.counts.macs


def test_a_dry_run_decides_and_makes_no_model(client: Client, files: Path) -> None:
    spec = spec_of(client, files, epochs=1)
    prune = {"step": "prune", "budget": {"channel_ratio": 0.5}}
    job = client.wait(client.create_plan({"model_id": spec["model_id"], "prune": prune}))
    plan = client.plan(job)
    assert plan.predicted.parameters < plan.baseline.parameters
    assert {each.name for each in client.artifacts(job)} == {"plan.json", "manifest.json"}


@embedded_alone
def test_a_plan_is_edited_and_applied_by_the_service_and_at_home(
    client: Client, files: Path, tmp_path: Path
) -> None:
    model = client.upload_model(files / "cnn.pt2")
    prune = {"step": "prune", "budget": {"channel_ratio": 0.5}}
    job = client.wait(client.create_plan({"model_id": model.id, "prune": prune}))
    [artifact] = [each for each in client.artifacts(job) if each.name == "plan.json"]
    plan = json.loads(client.download(artifact, tmp_path / "edited.json").read_text())
    first = plan["channel_groups"][0]
    assert (first["name"], first["channel_count"]) == ("0.weight", 16)
    first["keep"] = [2, 3, 5, 7, 11]

    recipe = [{"step": "apply_plan", "plan": plan}]
    job = client.wait(client.create_job({"model_id": model.id, "recipe": recipe}))
    paths = {path.name: path for path in client.download_all(job, tmp_path / "pruned")}
    written = json.loads(paths["plan.json"].read_text())
    assert written["channel_groups"][0]["keep"] == [2, 3, 5, 7, 11]
    report = client.report(job)
    assert report.after_recovery.counts.model_dump() == written["predicted"]

    mine = cnn()
    apply_plan(mine, paths["plan.json"])
    assert mine[0].out_channels == 5
    count = sum(parameter.numel() for parameter in mine.parameters())
    assert count == report.after_recovery.counts.parameters
    program = load_program(paths["model.pt2"])
    with torch.no_grad():
        for rows in (2, 7):
            batch = torch.randn(rows, *ROW)
            assert torch.equal(mine(batch), program.module()(batch))
    weights = load_file(paths["model.safetensors"])
    state = mine.state_dict()
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[name], state[name]) for name in state)


@embedded_alone
def test_a_plan_that_does_not_fit_fails_with_the_value(client: Client, files: Path) -> None:
    model = client.upload_model(files / "cnn.pt2")
    group = {"id": "g0", "keep": [16]}
    plan = {"format_version": 3, "model_sha256": model.sha256, "channel_groups": [group]}
    spec = {"model_id": model.id, "recipe": [{"step": "apply_plan", "plan": plan}]}
    with pytest.raises(JobFailed, match=r"names channel 16; .* 0 to 15") as caught:
        client.wait(client.create_job(spec))
    assert caught.value.failure.code is FailureCode.PLAN_MISMATCH


@embedded_alone
def test_what_cannot_be_done_fails_with_a_reason(client: Client, files: Path) -> None:
    spec = spec_of(client, files, epochs=1, exclude=["*"])
    with pytest.raises(JobFailed) as caught:
        client.wait(client.create_job(spec))
    assert caught.value.failure.code is FailureCode.PLAN_NOTHING_TO_PRUNE


MEASURES = {
    "accuracy": 1,
    "agreement": 1,
    "class_accuracy": 1,
    "fgsm_accuracy": 1,
    "loss": 1000,
    "noise_accuracy": 1,
}
"""Promises that nobody can break."""


@embedded_alone
def test_kept_promises_are_in_the_report(client: Client, files: Path) -> None:
    spec = spec_of(client, files, epochs=1)
    spec["evaluation"] = {"latency_rounds": 0, "noise_std": 0.1, "fgsm_epsilon": 0.05}
    spec["safety"] = {"max_drop": MEASURES}
    report = client.report(client.wait(client.create_job(spec)))
    assert report.safety is not None
    assert report.safety.is_kept
    assert {each.name: each.allowed for each in report.safety.promises} == MEASURES
    for column in (report.before, report.after_prune, report.after_recovery):
        assert column.quality is not None
        assert column.quality.noise_accuracy is not None
        assert column.quality.fgsm_accuracy is not None
        assert len(column.quality.class_accuracy or []) == 4


@embedded_alone
def test_a_broken_promise_leaves_a_report_and_no_model(
    place: Place, files: Path, tmp_path: Path, client: Client, monkeypatch, capsys
) -> None:
    spec = spec_of(client, files, epochs=1)
    # Without recovery, and of the output alone: half of the channels are not half as right.
    spec["recipe"] = [{"step": "prune", "budget": {"macs": 0.1}}]
    spec["safety"] = {"max_drop": {"agreement": 0, "accuracy": 1}}
    with pytest.raises(JobFailed, match=r"agreement fell by .* may fall by 0") as caught:
        client.wait(client.create_job(spec))
    failed = caught.value
    assert failed.failure.code is FailureCode.SAFETY_PROMISE_BROKEN
    assert client.job(failed.job).state is JobState.FAILED
    report = client.report(failed.job)
    assert report.safety is not None
    assert [each.name for each in report.safety.promises if not each.is_kept] == ["agreement"]
    paths = {path.name: path for path in client.download_all(failed.job, tmp_path)}
    assert paths.keys() == {"manifest.json", "plan.json", "report.json"}
    assert Report.model_validate_json(paths["report.json"].read_text()) == report

    monkeypatch.setenv("SECATEUR_URL", place.url)
    monkeypatch.setenv("SECATEUR_API_KEY", place.key)
    out = tmp_path / "out"
    arguments = ["compress", files / "cnn.pt2", "--macs", "0.1", "--test", files / "test.npz"]
    arguments += ["--max-drop", "agreement=0", "--noise-std", "0.1", "-o", out]
    assert cli([str(each) for each in arguments]) == 1
    shown = capsys.readouterr()
    assert "with noise" in shown.out
    assert "report.json" in shown.out
    assert shown.err.strip().endswith("(safety.promise_broken)")
    assert {path.name for path in out.iterdir()} == paths.keys()


def test_canceling_ends_the_child(place: Place, client: Client, files: Path) -> None:
    children: list[int] = []

    def cancel() -> None:
        children.append(os.pidfd_open(place.child()))
        client.cancel(job)

    job = client.create_job(spec_of(client, files, epochs=10_000))
    with pytest.raises(JobCanceled):
        client.wait(job, on_update=once(Stage.RECOVERING, cancel))
    # Canceled is said when the child is gone: signaling it finds nobody.
    with pytest.raises(ProcessLookupError):
        signal.pidfd_send_signal(children[0], 0)
    os.close(children[0])


def test_a_job_survives_the_death_of_its_child(place: Place, client: Client, files: Path) -> None:
    def kill() -> None:
        os.kill(place.child(), signal.SIGKILL)

    job = client.create_job(spec_of(client, files, epochs=5))
    job = client.wait(job, on_update=once(Stage.RECOVERING, kill))
    assert job.attempt == 2
    assert len(client.artifacts(job)) == 5


def test_a_job_survives_the_death_of_its_worker(place: Place, client: Client, files: Path) -> None:
    def kill() -> None:
        os.kill(place.worker(), signal.SIGKILL)

    job = client.create_job(spec_of(client, files, epochs=5))
    job = client.wait(job, on_update=once(Stage.RECOVERING, kill))
    assert job.attempt == 2
    assert len(client.artifacts(job)) == 5


def test_a_worker_that_is_stopped_gives_its_job_back(
    place: Place, client: Client, files: Path
) -> None:
    def stop() -> None:
        os.kill(place.worker(), signal.SIGTERM)

    job = client.create_job(spec_of(client, files, epochs=5))
    job = client.wait(job, on_update=once(Stage.RECOVERING, stop))
    assert job.attempt == 2


@embedded_alone
def test_the_command_line_does_it_all(
    place: Place, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("SECATEUR_URL", place.url)
    monkeypatch.setenv("SECATEUR_API_KEY", place.key)
    out = tmp_path / "out"
    arguments = [
        *("compress", files / "cnn.pt2", "--macs", "0.5", "--finetune", "1", "-o", out),
        *("--train", files / "train.npz", "--test", files / "test.npz"),
    ]
    assert cli([str(each) for each in arguments]) == 0
    shown = capsys.readouterr()
    assert "accuracy" in shown.out
    assert "evaluating" in shown.err
    assert (out / "model.pt2").is_file()
    plan = tmp_path / "plan.json"
    assert cli(["plan", str(files / "cnn.pt2"), "--macs", "0.5", "-o", str(plan)]) == 0
    assert json.loads(plan.read_text())["channel_groups"]
    assert io.StringIO(capsys.readouterr().out).readline().split() == ["now", "planned", "change"]
