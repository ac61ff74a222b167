"""One attempt, with a real child process."""

import json
import os
import signal
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest

from secateur.failures import FailureCode
from secateur.jobs import JobKind, JobState, Stage
from secateur.report import Manifest
from store.jobs import Jobs
from store.session import session_scope
from tests.worker import programs
from tests.worker.conftest import MODEL, WAIT_S, Bench
from tests.worker.processes import Watched
from worker.attempt import run_job


def test_a_job_that_works_has_its_result_and_its_artifacts(bench: Bench) -> None:
    job_id = bench.add_job(programs.read_model, seed=7)
    job = bench.run(job_id)
    assert job.state is JobState.SUCCEEDED
    assert job.stage is None
    made = bench.artifacts(job_id)
    assert made.keys() == {"plan.json", "manifest.json"}
    assert json.loads(made["plan.json"])["warnings"] == [MODEL.decode()]
    manifest = Manifest.model_validate_json(made["manifest.json"])
    assert manifest.seed == 7
    assert manifest.versions.keys() == {"secateur", "torch", "python"}
    assert [file.sha256 for file in manifest.inputs] == [sha256(MODEL).hexdigest()]
    assert [file.sha256 for file in manifest.outputs] == [sha256(made["plan.json"]).hexdigest()]


def test_a_message_that_comes_twice_is_done_once(bench: Bench) -> None:
    job_id = bench.add_job(programs.read_model)
    first = bench.run(job_id)
    assert bench.run(job_id) == first
    assert first.attempt == 1


def test_a_message_for_no_job_does_nothing(bench: Bench) -> None:
    bench.place.announce("before")
    run_job(bench.place, "job_000000000000000000000000")
    assert bench.announced.get_nowait() == "before"
    assert bench.announced.empty()


def test_progress_is_in_the_row_and_announced(bench: Bench) -> None:
    job_id = bench.add_job(programs.hang)
    thread = bench.begin(job_id)
    job = bench.running(job_id)
    assert job.stage is Stage.SCORING
    assert job.progress is not None
    assert job.progress.unit == "process"
    bench.cancel(job_id)
    bench.place.wakes.wake(job_id)
    thread.join(WAIT_S)


def test_what_the_engine_refuses_is_the_users_to_read(bench: Bench) -> None:
    job = bench.run(bench.add_job(programs.refuse))
    assert job.state is JobState.FAILED
    assert job.failure is not None
    assert job.failure.code is FailureCode.PLAN_NOTHING_TO_PRUNE
    assert job.failure.detail == "all 3 channel groups are excluded: exclude less"


def test_what_nobody_expected_says_nothing_of_itself(bench: Bench) -> None:
    job = bench.run(bench.add_job(programs.break_down))
    assert job.failure is not None
    assert job.failure.code is FailureCode.INTERNAL
    assert "secret" not in job.failure.detail


@pytest.mark.parametrize("program", [programs.devour, programs.devour_with_torch])
def test_more_memory_than_allowed_is_a_failure(bench: Bench, program) -> None:
    bench.settings(child_memory_bytes=4 * 2**30)
    job = bench.run(bench.add_job(program))
    assert job.failure is not None
    assert job.failure.code is FailureCode.RESOURCE_OUT_OF_MEMORY
    assert "4.0 GiB" in job.failure.detail


def test_a_canceled_job_stops_at_once_when_it_is_announced(bench: Bench) -> None:
    bench.settings(heartbeat_s=10 * WAIT_S)
    job_id = bench.add_job(programs.hang)
    thread = bench.begin(job_id)
    progress = bench.running(job_id).progress
    assert progress is not None
    child = Watched(progress.done)
    bench.cancel(job_id)
    bench.place.wakes.wake(job_id)
    thread.join(WAIT_S)
    assert bench.job(job_id).state is JobState.CANCELED
    assert child.has_ended()


def test_a_canceled_job_stops_at_the_next_beat_when_nobody_says_so(bench: Bench) -> None:
    bench.settings(heartbeat_s=0.05)
    job_id = bench.add_job(programs.hang)
    thread = bench.begin(job_id)
    bench.running(job_id)
    bench.cancel(job_id)
    thread.join(WAIT_S)
    assert bench.job(job_id).state is JobState.CANCELED


def test_a_child_that_ignores_sigterm_is_killed(bench: Bench) -> None:
    bench.settings(heartbeat_s=0.05, stop_grace_s=0.1)
    job_id = bench.add_job(programs.hang_on)
    thread = bench.begin(job_id)
    progress = bench.running(job_id).progress
    assert progress is not None
    child = Watched(progress.done)
    bench.cancel(job_id)
    thread.join(WAIT_S)
    assert bench.job(job_id).state is JobState.CANCELED
    assert child.has_ended()


def test_the_time_limit_ends_an_attempt(bench: Bench) -> None:
    job = bench.run(bench.add_job(programs.hang, run_timeout_s=1))
    assert job.failure is not None
    assert job.failure.code is FailureCode.RESOURCE_TIME_LIMIT
    assert "run_timeout_s, which is 1" in job.failure.detail


def test_what_a_child_started_ends_with_it(bench: Bench) -> None:
    job_id = bench.add_job(programs.hang_with_offspring)
    thread = bench.begin(job_id)
    progress = bench.running(job_id).progress
    assert progress is not None
    offspring = Watched(progress.done)
    bench.place.wakes.stop()
    thread.join(WAIT_S)
    assert offspring.has_ended()


def test_a_killed_child_is_tried_again_and_then_fails(bench: Bench) -> None:
    job_id = bench.add_job(programs.hang)
    for attempt in (1, 2, 3):
        thread = bench.begin(job_id)
        progress = bench.running(job_id).progress
        assert progress is not None
        os.kill(progress.done, signal.SIGKILL)
        thread.join(WAIT_S)
        job = bench.job(job_id)
        assert job.attempt == attempt
        assert job.state is (JobState.QUEUED if attempt < 3 else JobState.FAILED)
    assert job.failure is not None
    assert job.failure.code is FailureCode.RESOURCE_WORKER_LOST
    assert [len(released.queued) for released in bench.released] == [1, 1, 0]


def test_a_segfault_is_a_lost_attempt(bench: Bench) -> None:
    job = bench.run(bench.add_job(programs.crash))
    assert job.state is JobState.QUEUED
    assert job.attempt == 1


def test_a_worker_that_stops_gives_its_job_back(bench: Bench) -> None:
    job_id = bench.add_job(programs.hang)
    thread = bench.begin(job_id)
    bench.running(job_id)
    bench.place.wakes.stop()
    thread.join(WAIT_S)
    assert bench.job(job_id).state is JobState.QUEUED
    assert bench.sent == [job_id]
    assert bench.run(job_id).attempt == 1  # And takes no other.


def test_a_child_knows_no_secrets_and_reaches_nobody(bench: Bench) -> None:
    job_id = bench.add_job(programs.look_around)
    assert bench.run(job_id).state is JobState.SUCCEEDED
    seen = json.loads(json.loads(bench.artifacts(job_id)["plan.json"])["warnings"][0])
    names = {line.partition("=")[0] for line in seen["environment"]}
    assert "PATH" in names
    assert not {name for name in names if name.startswith(("SECATEUR_", "AWS_"))}
    assert seen["interfaces"] in (["lo"], [])
    assert seen["session"]
    assert seen["umask"] == 0o077
    assert "socket" not in seen["descriptors"]


@pytest.mark.parametrize("program", [programs.link, programs.lie])
def test_a_result_that_is_none_is_not_delivered(bench: Bench, program) -> None:
    job_id = bench.add_job(program)
    job = bench.run(job_id)
    assert job.failure is not None
    assert job.failure.code is FailureCode.INTERNAL
    assert bench.artifacts(job_id) == {}
    assert not list((bench.place.settings.blob_dir / "unfinished").iterdir())


PROMISE = {"max_drop": {"accuracy": 0.25}}


def test_a_job_that_keeps_its_promise_has_its_model(bench: Bench) -> None:
    job_id = bench.add_job(programs.keep_promise, kind=JobKind.COMPRESS, safety=PROMISE)
    assert bench.run(job_id).state is JobState.SUCCEEDED
    assert {"model.pt2", "report.json"} <= bench.artifacts(job_id).keys()


def test_a_job_that_breaks_a_promise_has_its_report_and_no_model(bench: Bench) -> None:
    job_id = bench.add_job(programs.break_promise, kind=JobKind.COMPRESS, safety=PROMISE)
    job = bench.run(job_id)
    assert job.state is JobState.FAILED
    assert job.failure is not None
    assert job.failure.code is FailureCode.SAFETY_PROMISE_BROKEN
    assert job.failure.detail == "accuracy fell by 0.5"
    assert not job.failure.is_retryable
    made = bench.artifacts(job_id)
    assert made.keys() == {"report.json", "plan.json", "manifest.json"}
    assert bench.result(job_id) == json.loads(made["report.json"])
    manifest = Manifest.model_validate_json(made["manifest.json"])
    assert {file.name for file in manifest.outputs} == {"report.json", "plan.json"}
    # Nobody else has the model's bytes either.
    assert not list((bench.place.settings.blob_dir / "unfinished").iterdir())
    assert bench.run(job_id) == job


@pytest.mark.parametrize(
    "program",
    [
        programs.break_promise_and_deliver,
        programs.break_promise_without_a_file,
        programs.fail_while_all_is_kept,
        programs.promise_less,
        programs.promise_nothing,
    ],
)
def test_an_ending_that_the_report_denies_is_none(bench: Bench, program) -> None:
    job_id = bench.add_job(program, kind=JobKind.COMPRESS, safety=PROMISE)
    job = bench.run(job_id)
    assert job.failure is not None
    assert job.failure.code is FailureCode.INTERNAL
    assert bench.artifacts(job_id) == {}
    assert bench.result(job_id) is None


def test_a_plan_promises_nothing_that_it_could_break(bench: Bench) -> None:
    job_id = bench.add_job(programs.break_promise_of_a_plan)
    job = bench.run(job_id)
    assert job.failure is not None
    assert job.failure.code is FailureCode.INTERNAL
    assert bench.artifacts(job_id) == {}


def test_progress_that_is_none_changes_nothing(bench: Bench) -> None:
    assert bench.run(bench.add_job(programs.babble)).state is JobState.SUCCEEDED


def test_an_attempt_whose_job_was_taken_records_nothing(bench: Bench) -> None:
    bench.settings(heartbeat_s=0.05)
    job_id = bench.add_job(programs.hang)
    thread = bench.begin(job_id)
    bench.running(job_id)
    with session_scope(bench.engine) as session:
        later = datetime.now(UTC) + timedelta(days=1)
        Jobs(session).release_lost(later, silent_for=timedelta(seconds=1), max_attempts=3)
        assert Jobs(session).claim(job_id, datetime.now(UTC)) is not None
    thread.join(WAIT_S)
    job = bench.job(job_id)
    assert job.state is JobState.RUNNING
    assert job.attempt == 2
