"""The client against the real service."""

import threading

import pytest

from secateur.client import Client
from secateur.errors import JobCanceled, JobFailed, ProblemError, WaitTimeout
from secateur.failures import Failure, FailureCode
from secateur.jobs import Job, JobKind, JobState, Stage
from secateur.plan import Plan
from secateur.search import Minimize
from secateur.spec import ApplyPlanStep
from tests.client.conftest import KEY, Service
from tests.service.files import labeled_dataset_file, model_file
from tests.service.helpers import search, trial
from tests.worker.programs import plan, promise, report


@pytest.fixture(scope="module")
def model_id(service: Service) -> str:
    with Client(service.url, KEY) as client:
        return client.upload_model(model_file()).id


def spec(model_id: str, **fields: object) -> dict[str, object]:
    return {
        "model_id": model_id,
        "recipe": [{"step": "prune", "budget": {"macs": 0.5}}],
        **fields,
    }


def test_a_file_is_uploaded_once(client: Client, tmp_path) -> None:
    path = tmp_path / "digits.npz"
    path.write_bytes(labeled_dataset_file(rows=7))
    told: list[tuple[int, int]] = []
    first = client.upload_dataset(path, on_bytes=lambda done, total: told.append((done, total)))
    assert first.row_count == 7
    assert first.filename == "digits.npz"
    assert told[-1] == (path.stat().st_size, path.stat().st_size)
    told.clear()
    again = client.upload_dataset(
        path.read_bytes(), on_bytes=lambda done, total: told.append((done, total))
    )
    assert again == first
    assert told == []
    assert client.dataset(first.id) == first
    client.delete_dataset(first.id)
    assert first not in list(client.datasets())


def test_a_file_that_is_no_model_is_refused(client: Client) -> None:
    with pytest.raises(ProblemError) as caught:
        client.upload_model(b"junk" * 100)
    assert caught.value.code == "model.not_an_archive"


def test_models_are_found_again(client: Client, model_id: str) -> None:
    assert client.model(model_id) in list(client.models())
    with pytest.raises(ProblemError) as caught:
        client.delete_model("mdl_none")
    assert caught.value.code == "model.not_found"


def test_a_key_makes_one_job_of_two_calls(client: Client, model_id: str) -> None:
    first = client.create_job(spec(model_id), idempotency_key="mine")
    assert client.create_job(spec(model_id), idempotency_key="mine").id == first.id
    assert client.create_job(spec(model_id)).id != first.id
    with pytest.raises(ProblemError) as caught:
        client.create_job(spec(model_id, seed=1), idempotency_key="mine")
    assert caught.value.code == "request.idempotency"


def test_waiting_sees_each_change_and_the_end(
    client: Client, service: Service, model_id: str
) -> None:
    job = client.create_plan({"model_id": model_id, "prune": spec(model_id)["recipe"][0]})
    assert job.kind is JobKind.PLAN
    seen: list[tuple[JobState, Stage | None]] = []
    # Each change is made when the one before it was seen: nothing is too early or too late.
    changes = iter(
        [
            lambda: service.claim(job),
            lambda: service.progress(job, Stage.SCORING, 3),
            lambda: service.succeed(job, plan(["none"]), plan__json=b"{}"),
        ]
    )

    def on_update(now: Job) -> None:
        seen.append((now.state, now.stage))
        change = next(changes, None)
        if change is not None:
            # From another thread, so that it happens while the client waits.
            threading.Thread(target=change).start()

    assert client.wait(job, on_update=on_update).state is JobState.SUCCEEDED
    assert seen == [
        (JobState.QUEUED, None),
        (JobState.RUNNING, None),
        (JobState.RUNNING, Stage.SCORING),
        (JobState.SUCCEEDED, None),
    ]
    assert client.result(job) == client.plan(job.id)
    assert client.plan(job).warnings == ["none"]
    assert [artifact.name for artifact in client.artifacts(job)] == ["plan.json"]


def test_a_failed_job_raises_its_failure(client: Client, service: Service, model_id: str) -> None:
    job = client.create_job(spec(model_id))
    service.claim(job)
    service.fail(job, Failure.of(FailureCode.DATA_MISMATCH, "too narrow"))
    with pytest.raises(JobFailed, match=r"failed: too narrow \(data.mismatch\)") as caught:
        client.wait(job.id)
    assert caught.value.failure.code is FailureCode.DATA_MISMATCH
    assert caught.value.job.state is JobState.FAILED
    with pytest.raises(ProblemError) as refused:
        client.report(job)
    assert refused.value.code == "job.no_result"
    client.delete(job)
    with pytest.raises(ProblemError):
        client.job(job)


def test_a_job_that_broke_a_promise_raises_and_has_its_report(
    client: Client, service: Service, model_id: str, download_folder
) -> None:
    job = client.create_job(spec(model_id))
    service.claim(job)
    failure = Failure.of(FailureCode.SAFETY_PROMISE_BROKEN, "accuracy fell")
    service.fail(job, failure, report(promise(is_kept=False)), report__json=b"{}")
    with pytest.raises(JobFailed, match=r"accuracy fell \(safety.promise_broken\)"):
        client.wait(job)
    found = client.report(job)
    assert found.safety is not None
    assert not found.safety.is_kept
    assert client.result(job.id) == found
    [path] = client.download_all(job, download_folder)
    assert path.name == "report.json"


def test_trials_are_drawn(client: Client, service: Service, model_id: str) -> None:
    job = client.create_job(spec(model_id))
    service.claim(job)
    service.succeed(job, {**report(), "search": search(trial(1, 0.5, 0.9))})
    assert client.job_chart(job).startswith(b"<?xml")
    assert b"weight bytes left" in client.job_chart(job.id, against=Minimize.BYTES)
    assert client.job_chart(job, "png").startswith(b"\x89PNG")
    other = client.create_job(spec(model_id))
    service.claim(other)
    service.succeed(other, report())
    with pytest.raises(ProblemError) as caught:
        client.job_chart(other)
    assert caught.value.code == "job.no_search"


def test_a_canceled_job_is_said_to_be(client: Client, model_id: str) -> None:
    job = client.create_job(spec(model_id))
    assert client.cancel(job).state is JobState.CANCELED
    assert client.cancel(job).state is JobState.CANCELED
    with pytest.raises(JobCanceled):
        client.wait(job)


def test_waiting_has_an_end(client: Client, model_id: str) -> None:
    job = client.create_job(spec(model_id))
    with pytest.raises(WaitTimeout) as caught:
        client.wait(job, timeout_s=0.05)
    assert caught.value.job.state is JobState.QUEUED


def test_jobs_are_listed_page_by_page(
    client: Client, model_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [client.create_job(spec(model_id, label="paged")).id for _ in range(5)]
    monkeypatch.setattr("secateur.client._PAGE_ROWS", 2)
    assert [job.id for job in client.jobs(label="paged")] == made[::-1]
    client.cancel(made[0])
    assert [job.id for job in client.jobs(label="paged", state=JobState.CANCELED)] == made[:1]
    assert [job.id for job in client.jobs(label="paged", model_id="mdl_none")] == []


def test_a_spec_is_checked_without_a_job(client: Client, model_id: str) -> None:
    assert client.validate(spec(model_id)).valid
    found = client.validate(spec(model_id, seeed=1))
    assert not found.valid
    assert [problem.pointer for problem in found.problems] == ["/seeed"]


def test_a_plan_is_sent_back_without_what_is_not_read(client: Client, model_id: str) -> None:
    group = {"id": "g0", "keep": [1], "channel_count": 2, "importance": [0.5] * 400_000}
    whole = {
        **plan(["x" * (1 << 20)]),
        "model_sha256": client.model(model_id).sha256,
        "channel_groups": [
            {
                **group,
                "name": "a",
                "granularity": "channels",
                "channel_names": None,
                "merges": [],
                "members": [],
            }
        ],
    }
    for given in (whole, Plan.model_validate(whole)):
        asked = {"model_id": model_id, "recipe": [{"step": "apply_plan", "plan": given}]}
        assert client.validate(asked).valid
        step = client.create_job(asked).spec.recipe[0]
        assert isinstance(step, ApplyPlanStep)
        assert step.plan.channel_groups[0].keep == (1,)
    found = client.validate({"model_id": model_id, "recipe": [{"step": "apply_plan", "plan": 3}]})
    assert [problem.pointer for problem in found.problems] == ["/recipe/0/plan"]


def test_the_service_says_what_it_can(client: Client) -> None:
    assert {step.name for step in client.capabilities().steps} >= {"prune", "finetune"}


def test_a_wrong_key_is_a_problem(service: Service) -> None:
    with Client(service.url, "wrong") as client, pytest.raises(ProblemError) as caught:
        client.capabilities()
    assert caught.value.code == "auth.invalid"


def test_the_environment_says_where(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_URL", f"{service.url}/")
    monkeypatch.setenv("SECATEUR_API_KEY", KEY)
    with Client.from_environment() as client:
        assert client.capabilities().spec_version == 1
