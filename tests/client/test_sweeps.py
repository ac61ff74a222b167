"""Sweeps by the client and by the command line, against the real service."""

import csv
import json
import threading

import pytest
from pydantic import ValidationError

from secateur.cli import DONE, INTERRUPTED, MISUSED, main
from secateur.client import Client
from secateur.comparison import Comparison, comparison_table
from secateur.errors import ProblemError, WaitTimeout
from secateur.failures import Failure, FailureCode
from secateur.jobs import JobState
from secateur.sweeps import Sweep, SweepState
from tests.client.conftest import KEY, Service
from tests.service.files import model_file
from tests.service.helpers import report, sweep_spec

FAILURE = Failure.of(FailureCode.DATA_UNREADABLE, "what happened")


@pytest.fixture(scope="module")
def model_id(service: Service) -> str:
    with Client(service.url, KEY) as client:
        return client.upload_model(model_file()).id


@pytest.fixture
def sweep(client: Client, model_id: str) -> Sweep:
    return client.create_sweep(sweep_spec(model_id))


@pytest.fixture
def here(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_URL", service.url)
    monkeypatch.setenv("SECATEUR_API_KEY", KEY)


def work_off(service: Service, client: Client, sweep: Sweep) -> None:
    """All jobs but the last succeed."""
    for position, child in enumerate(sweep.children):
        job = client.job(child.job_id)
        service.claim(job)
        if position < len(sweep.children) - 1:
            service.succeed(job, report(accuracy=0.9, macs=500 + position))
        else:
            service.fail(job, FAILURE)
        service.announce(sweep.id)


def test_a_key_makes_one_sweep_of_two_calls(client: Client, model_id: str) -> None:
    first = client.create_sweep(sweep_spec(model_id), idempotency_key="sweep")
    assert client.create_sweep(sweep_spec(model_id), idempotency_key="sweep").id == first.id
    assert client.create_sweep(sweep_spec(model_id)).id != first.id


def test_a_spec_that_is_none_is_not_sent(client: Client) -> None:
    with pytest.raises(ValidationError, match="exactly one of grid, recipes"):
        client.create_sweep({"model_id": "mdl_1"})


def test_sweeps_are_found_again(client: Client, model_id: str) -> None:
    sweep = client.create_sweep(sweep_spec(model_id, label="found"))
    assert client.sweep(sweep.id) == sweep
    assert [each.id for each in client.sweeps(label="found")] == [sweep.id]
    jobs = client.jobs(sweep_id=sweep.id)
    assert {job.id for job in jobs} == {child.job_id for child in sweep.children}


def test_waiting_sees_jobs_end_and_the_end(client: Client, service: Service, sweep: Sweep) -> None:
    ended: list[int] = []
    worker = threading.Thread(target=work_off, args=(service, client, sweep))

    def on_update(now: Sweep) -> None:
        if not ended:
            worker.start()
        ended.append(now.counts.final)

    with_end = client.wait_sweep(sweep, on_update=on_update)
    worker.join()
    assert with_end.state is SweepState.SUCCEEDED
    assert ended == sorted(ended)
    assert (ended[0], ended[-1]) == (0, 4)
    assert with_end.children[3].failure == FAILURE

    comparison = client.comparison(sweep)
    assert [row.macs for row in comparison.rows] == [1000, 500, 501, 502, None]
    assert client.sweep_chart(sweep).startswith(b"<?xml")
    assert client.sweep_chart(sweep, "png").startswith(b"\x89PNG")
    client.delete_sweep(sweep)
    with pytest.raises(ProblemError) as caught:
        client.sweep(sweep)
    assert caught.value.code == "sweep.not_found"


def test_a_wait_may_have_an_end(client: Client, sweep: Sweep) -> None:
    with pytest.raises(WaitTimeout, match=f"{sweep.id} is running"):
        client.wait_sweep(sweep, timeout_s=0.05)


def test_a_canceled_sweep_is_an_answer(client: Client, sweep: Sweep) -> None:
    assert client.cancel_sweep(sweep).state is SweepState.CANCELED
    assert client.wait_sweep(sweep).counts.canceled == 4


def test_a_table_shows_what_there_is_and_why_something_is_missing() -> None:
    row = {
        "method": "magnitude",
        "amount": "macs 0.5",
        "job_id": "job_1",
        "state": "succeeded",
        "failure_code": None,
        "accuracy": 0.9,
        "accuracy_after_prune": 0.5,
        "agreement": None,
        "loss": None,
        "output_mse": None,
        "parameters": 1234,
        "macs": 5_000_000,
        "size_bytes": 4936,
        "sparsity": 0.0,
        "file_bytes": 2468,
        "file_ratio": 0.4567,
        "latency_p50_ms": None,
        "speedup": 1.5,
        "seconds": 3.25,
    }
    none = dict.fromkeys(row)
    comparison = Comparison.model_validate(
        {
            "sweep_id": "swp_1",
            "state": "running",
            "model_id": "mdl_1",
            "label": None,
            "rows": [
                {**none, "method": "original", "accuracy": 0.95},
                row,
                {**none, "method": "random", "amount": "macs 0.5", "state": "running"},
                {
                    **none,
                    "method": "random",
                    "amount": "macs 0.3",
                    "state": "failed",
                    "failure_code": "plan.target_unreachable",
                },
            ],
        }
    )
    lines = [line.split() for line in comparison_table(comparison).splitlines()]
    assert lines == [
        [
            *("method", "amount", "accuracy", "pruned", "parameters", "MACs"),
            *("weight", "bytes", "file", "bytes", "of", "file", "speedup", "seconds"),
        ],
        ["original", "95.00%", *"---------"],
        [
            *("magnitude", "macs", "0.5", "90.00%", "50.00%", "1,234", "5,000,000"),
            *("4,936", "2,468", "45.7%", "1.50x", "3.2", "-"),
        ],
        ["random", "macs", "0.5", *"---------", "running"],
        ["random", "macs", "0.3", *"---------", "plan.target_unreachable"],
    ]


@pytest.mark.usefixtures("here")
class TestCommandLine:
    @pytest.fixture
    def model_path(self, tmp_path):
        path = tmp_path / "net.pt2"
        path.write_bytes(model_file())
        return path

    def arguments(self, model_path, *more):
        budgets = ["--macs", "0.7", "0.5"]
        return ["compare", str(model_path), "--criteria", "magnitude", "random", *budgets, *more]

    def when_made(self, monkeypatch, do):
        """Do something in a thread once the command line has made its sweep."""
        create = Client.create_sweep
        threads = []

        def create_sweep(client, spec, **key):
            sweep = create(client, spec, **key)
            threads.append(threading.Thread(target=do, args=(sweep,)))
            threads[0].start()
            return sweep

        monkeypatch.setattr(Client, "create_sweep", create_sweep)
        return threads

    def test_it_follows_writes_and_shows(
        self, client, service, model_path, tmp_path, monkeypatch, capsys
    ):
        threads = self.when_made(monkeypatch, lambda sweep: work_off(service, client, sweep))
        out = tmp_path / "out"
        assert main(self.arguments(model_path, "-o", str(out), "--scope", "local")) == DONE
        threads[0].join()
        shown = capsys.readouterr()
        assert "4 of 4 done, 1 failed" in shown.err
        assert "random, macs 0.5 failed: what happened" in shown.err
        assert shown.out.startswith("method")
        assert {path.name for path in out.iterdir()} == {
            "chart.png",
            "chart.svg",
            "comparison.csv",
            "comparison.json",
        }
        written = json.loads((out / "comparison.json").read_text())
        with (out / "comparison.csv").open(newline="") as file:
            assert len(list(csv.DictReader(file))) == len(written["rows"]) == 5
        sweep = client.sweep(written["sweep_id"])
        assert sweep.spec.grid.prune == {"scope": "local"}

    def test_interrupted_it_cancels_the_sweep(self, client, model_path, monkeypatch, capsys):
        made = []
        threads = self.when_made(monkeypatch, made.append)

        def interrupt(*arguments, **options):
            raise KeyboardInterrupt

        monkeypatch.setattr(Client, "wait_sweep", interrupt)
        assert main(self.arguments(model_path)) == INTERRUPTED
        threads[0].join()
        assert client.sweep(made[0]).state is SweepState.CANCELED
        assert f"{made[0].id} is canceled" in capsys.readouterr().err

    def test_all_criteria_is_a_word_of_its_own(self, model_path, capsys):
        with pytest.raises(SystemExit) as stopped:
            main(["compare", str(model_path), "--criteria", "all", "random", "--macs", "0.5"])
        assert stopped.value.code == MISUSED
        assert "leave out the others" in capsys.readouterr().err

    def test_fine_tuning_needs_data(self, model_path, capsys):
        with pytest.raises(SystemExit) as stopped:
            main(self.arguments(model_path, "--finetune", "2"))
        assert stopped.value.code == MISUSED
        assert "give --train" in capsys.readouterr().err

    def test_a_bad_value_names_its_place(self, model_path, capsys):
        arguments = ["compare", str(model_path), "--criteria", "guess", "--macs", "0.5"]
        assert main(arguments) == MISUSED
        assert "grid.criteria.0: " in capsys.readouterr().err


def test_jobs_of_a_sweep_say_so(client: Client, sweep: Sweep) -> None:
    job = client.job(sweep.children[0].job_id)
    assert (job.sweep_id, job.state) == (sweep.id, JobState.QUEUED)
