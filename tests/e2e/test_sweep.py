"""A sweep over HTTP, from a grid to a comparison: with real workers on embedded defaults."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from secateur.cli import main as cli
from secateur.client import Client
from secateur.comparison import Comparison
from secateur.jobs import JobState
from secateur.sweeps import Sweep, SweepState
from tests.e2e.test_main_job import Place, client, embedded_alone, files, place

__all__ = ["client", "files", "place"]

pytestmark = embedded_alone

MEASURED = ("accuracy", "accuracy_after_prune", "agreement", "loss", "parameters", "macs")


@pytest.fixture(scope="module")
def sweep(place: Place, files: Path) -> Iterator[Sweep]:
    """Two criteria by two budgets, done."""
    with Client(place.url, place.key) as client:
        yield client.wait_sweep(client.create_sweep(spec_of(client, files)))


def spec_of(client: Client, files: Path, *, epochs: int = 1) -> dict[str, object]:
    return {
        "model_id": client.upload_model(files / "cnn.pt2").id,
        "grid": {
            "criteria": ["magnitude", "random"],
            "budgets": [{"macs": 0.7}, {"macs": 0.4}],
            "then": [{"step": "finetune", "epochs": epochs, "learning_rate": 0.01}],
        },
        "data": {
            "train": client.upload_dataset(files / "train.npz").id,
            "test": client.upload_dataset(files / "test.npz").id,
        },
        "evaluation": {"latency_rounds": 3},
        "seed": 5,
    }


def test_every_cell_is_measured(client: Client, sweep: Sweep) -> None:
    assert sweep.state is SweepState.SUCCEEDED
    original, *rows = client.comparison(sweep).rows
    assert [(row.method, row.amount) for row in rows] == [
        ("magnitude", "macs 0.7"),
        ("magnitude", "macs 0.4"),
        ("random", "macs 0.7"),
        ("random", "macs 0.4"),
    ]
    for row, limit in zip(rows, (0.7, 0.4, 0.7, 0.4), strict=True):
        assert row.macs <= limit * original.macs
        report = client.report(row.job_id)
        assert row.accuracy == report.after_recovery.quality.accuracy
        assert original.accuracy == report.before.quality.accuracy
        assert row.parameters == report.after_recovery.counts.parameters
        assert row.seconds > 0
        assert row.speedup > 0


def test_the_same_seed_makes_the_same_numbers(client: Client, files: Path, sweep: Sweep) -> None:
    again = client.wait_sweep(client.create_sweep(spec_of(client, files)))
    assert again.spec_sha256 == sweep.spec_sha256
    first, second = (
        [[getattr(row, name) for name in MEASURED] for row in client.comparison(each).rows]
        for each in (sweep, again)
    )
    assert first == second


def test_pictures_are_drawn(client: Client, sweep: Sweep) -> None:
    drawn = client.sweep_chart(sweep, "svg")
    assert ElementTree.fromstring(drawn).tag.endswith("svg")
    assert b"<!-- random -->" in drawn
    assert client.sweep_chart(sweep, "png").startswith(b"\x89PNG\r\n")


def test_canceling_stops_all(client: Client, files: Path) -> None:
    canceled = []

    def cancel_once_one_runs(now: Sweep) -> None:
        if now.counts.running and not canceled:
            canceled.append(client.cancel_sweep(now))

    sweep = client.create_sweep(spec_of(client, files, epochs=10_000))
    sweep = client.wait_sweep(sweep, on_update=cancel_once_one_runs)
    assert sweep.state is SweepState.CANCELED
    assert {child.state for child in sweep.children} == {JobState.CANCELED}
    client.delete_sweep(sweep)
    assert list(client.jobs(sweep_id=sweep.id)) == []


def test_the_command_line_compares(
    place: Place, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("SECATEUR_URL", place.url)
    monkeypatch.setenv("SECATEUR_API_KEY", place.key)
    out = tmp_path / "out"
    arguments = [
        *("compare", files / "cnn.pt2", "--criteria", "all", "--channel-ratio", "0.5"),
        *("--test", files / "test.npz", "--latency-rounds", "0", "-o", out),
    ]
    assert cli([str(each) for each in arguments]) == 0
    shown = capsys.readouterr()
    assert "original" in shown.out
    comparison = Comparison.model_validate_json((out / "comparison.json").read_text())
    assert {row.state for row in comparison.rows} == {None, JobState.SUCCEEDED}
    assert f"{len(comparison.rows) - 1} of {len(comparison.rows) - 1} done" in shown.err
    rows = list(csv.DictReader(io.StringIO((out / "comparison.csv").read_text())))
    assert [row["method"] for row in rows] == [row.method for row in comparison.rows]
    assert (out / "chart.svg").stat().st_size > 1000
    assert (out / "chart.png").stat().st_size > 1000
