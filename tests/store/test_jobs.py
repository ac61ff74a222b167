"""The repository of jobs: what each method does, on both databases."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy.exc import StatementError

from secateur.failures import Failure, FailureCode
from secateur.jobs import JobKind, JobState, Progress, Stage
from store.artifacts import Artifacts, NewArtifact
from store.errors import BadCursor, IdempotencyMismatch
from store.jobs import Jobs
from store.session import read_scope, session_scope
from tests.store.builders import NOON, add_dataset, add_job, add_model, put_in_state, spec_of

MINUTE = timedelta(minutes=1)
FAILURE = Failure.of(FailureCode.DATA_UNREADABLE, "what happened")


@pytest.fixture
def model_id(engine):
    return add_model(engine)


@pytest.fixture
def job(engine, model_id):
    return add_job(engine, model_id)


@pytest.fixture
def running(engine, job):
    with session_scope(engine) as session:
        assert Jobs(session).claim(job.id, NOON) is not None
    return job


def read(engine, job_id):
    with read_scope(engine) as session:
        return Jobs(session).get(job_id)


def test_a_new_job_is_queued_and_has_not_started(job):
    assert job.state is JobState.QUEUED
    assert (job.attempt, job.stage, job.progress, job.failure) == (0, None, None, None)
    assert (job.created_at, job.started_at, job.finished_at) == (NOON, None, None)


def test_a_job_is_read_as_it_was_written(engine, model_id):
    job = add_job(engine, model_id, label="mine", seed=7)
    assert read(engine, job.id) == job
    assert job.spec == spec_of(model_id, label="mine", seed=7)
    assert job.spec_sha256 == job.spec.sha256


@pytest.mark.parametrize("job_id", ["job_" + "0" * 24, "", "job_\x00", "'; --", "mdl_1"])
def test_an_unknown_id_is_no_job(engine, job_id):
    assert read(engine, job_id) is None


def test_a_claim_holds_all_that_an_attempt_needs(engine, model_id):
    dataset_id = add_dataset(engine)
    job = add_job(engine, model_id, data={"train": dataset_id})
    with session_scope(engine) as session:
        claim = Jobs(session).claim(job.id, NOON)
    assert (claim.job_id, claim.attempt, claim.kind) == (job.id, 1, JobKind.COMPRESS)
    assert claim.spec == job.spec
    assert (claim.model.id, claim.model.sha256, claim.model.size_bytes) == (model_id, "a" * 64, 7)
    assert (claim.train.id, claim.train.sha256) == (dataset_id, "b" * 64)
    assert claim.test is None


def test_a_message_delivered_twice_is_claimed_once(engine, job):
    claims = []
    for _ in range(2):
        with session_scope(engine) as session:
            claims.append(Jobs(session).claim(job.id, NOON))
    assert [claim is None for claim in claims] == [False, True]


def test_of_workers_that_claim_at_once_one_gets_the_job(engine, job):
    barrier = threading.Barrier(4)
    claims = []

    def work():
        barrier.wait()
        with session_scope(engine) as session:
            claims.append(Jobs(session).claim(job.id, NOON))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claim is None for claim in claims) == [False, True, True, True]


def test_a_beat_says_how_far_the_attempt_is(engine, running):
    progress = Progress(done=1, total=3, unit="epochs")
    with session_scope(engine) as session:
        assert Jobs(session).beat(
            running.id, attempt=1, now=NOON, stage=Stage.RECOVERING, progress=progress
        )
    job = read(engine, running.id)
    assert (job.stage, job.progress) == (Stage.RECOVERING, progress)


@pytest.mark.parametrize("attempt", [0, 2])
def test_another_attempt_is_told_to_stop(engine, running, attempt):
    with session_scope(engine) as session:
        assert not Jobs(session).beat(running.id, attempt=attempt, now=NOON)


def test_a_canceled_attempt_is_told_to_stop(engine, running):
    with session_scope(engine) as session:
        assert Jobs(session).cancel(running.id, NOON) is JobState.CANCELING
    with session_scope(engine) as session:
        assert not Jobs(session).beat(running.id, attempt=1, now=NOON)


def test_success_is_result_artifacts_and_state_at_once(engine, running):
    artifact = NewArtifact("model.pt2", "application/octet-stream", "c" * 64, 5)
    with session_scope(engine) as session:
        assert Jobs(session).succeed(
            running.id, attempt=1, now=NOON, result={"speedup": 2.0}, artifacts=[artifact]
        )
    job = read(engine, running.id)
    assert (job.state, job.finished_at, job.stage) == (JobState.SUCCEEDED, NOON, None)
    with read_scope(engine) as session:
        assert Jobs(session).result(running.id) == {"speedup": 2.0}
        [stored] = Artifacts(session).of_job(running.id)
        assert Artifacts(session).get(stored.id) == stored
    assert (stored.name, stored.sha256, stored.size_bytes) == ("model.pt2", "c" * 64, 5)


@pytest.mark.parametrize(
    ("pointer", "kept"),
    [
        ("/recipe/0/budget/macs", "/recipe/0/budget/macs"),
        (None, None),
        ("/" + "x" * 500, None),
        ("/a\0", None),
    ],
)
def test_a_failure_points_at_its_reason_and_is_kept_whatever_it_says(
    engine, running, pointer, kept
):
    failure = Failure.of(FailureCode.DATA_UNREADABLE, "what happened", pointer)
    with session_scope(engine) as session:
        assert Jobs(session).fail(running.id, attempt=1, now=NOON, failure=failure)
    assert read(engine, running.id).failure == failure.model_copy(update={"pointer": kept})


def test_an_attempt_that_lost_its_job_records_nothing(engine, running):
    artifact = NewArtifact("model.pt2", "application/octet-stream", "c" * 64, 5)
    with session_scope(engine) as session:
        assert not Jobs(session).succeed(
            running.id, attempt=2, now=NOON, result={"speedup": 2.0}, artifacts=[artifact]
        )
    with read_scope(engine) as session:
        assert Artifacts(session).of_job(running.id) == []
        assert Jobs(session).result(running.id) is None
        assert Jobs(session).get(running.id).state is JobState.RUNNING


def test_a_failed_job_says_why(engine, running):
    with session_scope(engine) as session:
        assert Jobs(session).fail(running.id, attempt=1, now=NOON, failure=FAILURE)
    job = read(engine, running.id)
    assert (job.state, job.failure, job.finished_at) == (JobState.FAILED, FAILURE, NOON)


def test_a_failed_job_may_keep_what_it_measured(engine, running):
    artifact = NewArtifact("report.json", "application/json", "c" * 64, 5)
    with session_scope(engine) as session:
        assert Jobs(session).fail(
            running.id,
            attempt=1,
            now=NOON,
            failure=FAILURE,
            result={"safety": None},
            artifacts=[artifact],
        )
    assert read(engine, running.id).state is JobState.FAILED
    with read_scope(engine) as session:
        assert Jobs(session).result(running.id) == {"safety": None}
        assert [each.name for each in Artifacts(session).of_job(running.id)] == ["report.json"]


def test_an_attempt_that_lost_its_job_keeps_nothing_of_its_failure(engine, running):
    artifact = NewArtifact("report.json", "application/json", "c" * 64, 5)
    with session_scope(engine) as session:
        assert not Jobs(session).fail(
            running.id, attempt=2, now=NOON, failure=FAILURE, result={}, artifacts=[artifact]
        )
    with read_scope(engine) as session:
        assert Artifacts(session).of_job(running.id) == []
        assert Jobs(session).result(running.id) is None


def test_a_failure_is_kept_whatever_it_says(engine, running):
    failure = Failure.of(FailureCode.INTERNAL, "a\0b")
    with session_scope(engine) as session:
        assert Jobs(session).fail(running.id, attempt=1, now=NOON, failure=failure)
    assert read(engine, running.id).failure.detail == "a b"


def test_a_result_that_is_no_json_is_refused_before_it_is_written(engine, running):
    with (
        pytest.raises((StatementError, ValueError), match="JSON compliant"),
        session_scope(engine) as session,
    ):
        Jobs(session).succeed(
            running.id, attempt=1, now=NOON, result={"loss": float("nan")}, artifacts=[]
        )
    assert read(engine, running.id).state is JobState.RUNNING


def test_a_queued_job_is_canceled_at_once(engine, job):
    with session_scope(engine) as session:
        assert Jobs(session).cancel(job.id, NOON) is JobState.CANCELED
    assert read(engine, job.id).finished_at == NOON


def test_a_running_job_is_canceled_when_its_attempt_says_so(engine, running):
    with session_scope(engine) as session:
        assert Jobs(session).cancel(running.id, NOON) is JobState.CANCELING
        assert not Jobs(session).finish_cancel(running.id, attempt=2, now=NOON)
        assert Jobs(session).finish_cancel(running.id, attempt=1, now=NOON)
    assert read(engine, running.id).state is JobState.CANCELED


def test_canceling_an_unknown_job_says_so(engine):
    with session_scope(engine) as session:
        assert Jobs(session).cancel("job_" + "0" * 24, NOON) is None


def test_a_lost_worker_gives_the_job_back(engine, running):
    with session_scope(engine) as session:
        released = Jobs(session).release_lost(NOON + 2 * MINUTE, silent_for=MINUTE, max_attempts=2)
    assert (released.queued, released.failed, released.canceled) == ([running.id], [], [])
    job = read(engine, running.id)
    assert (job.state, job.attempt, job.stage) == (JobState.QUEUED, 1, None)


def test_a_job_whose_last_attempt_is_lost_fails(engine, running):
    with session_scope(engine) as session:
        released = Jobs(session).release_lost(NOON + 2 * MINUTE, silent_for=MINUTE, max_attempts=1)
    assert released.failed == [running.id]
    assert read(engine, running.id).failure.code is FailureCode.RESOURCE_WORKER_LOST


def test_a_job_given_back_in_good_order_is_not_a_lost_one(engine, job):
    with session_scope(engine) as session:
        jobs = Jobs(session)
        for attempt in (1, 2, 3, 4):
            assert jobs.claim(job.id, NOON) is not None
            assert not jobs.give_back(job.id, attempt=attempt + 1, now=NOON)
            assert jobs.give_back(job.id, attempt=attempt, now=NOON)
        assert jobs.claim(job.id, NOON) is not None
        released = jobs.release_lost(NOON + 2 * MINUTE, silent_for=MINUTE, max_attempts=2)
    assert released.queued == [job.id]
    assert read(engine, job.id).attempt == 5


def test_a_canceled_job_whose_worker_is_lost_is_canceled(engine, running):
    with session_scope(engine) as session:
        Jobs(session).cancel(running.id, NOON)
        released = Jobs(session).release_lost(NOON + 2 * MINUTE, silent_for=MINUTE, max_attempts=2)
    assert released.canceled == [running.id]
    assert read(engine, running.id).state is JobState.CANCELED


def test_a_worker_that_beats_keeps_its_job(engine, running):
    with session_scope(engine) as session:
        Jobs(session).beat(running.id, attempt=1, now=NOON + MINUTE)
        released = Jobs(session).release_lost(NOON + 2 * MINUTE, silent_for=MINUTE, max_attempts=2)
    assert (released.queued, released.failed, released.canceled) == ([], [], [])


def test_a_job_that_waits_is_sent_again_once_per_interval(engine, job):
    found = []
    for minutes in (0.5, 1, 1.5, 2, 2.5):
        with session_scope(engine) as session:
            found.append(Jobs(session).waiting(NOON + minutes * MINUTE, older_than=MINUTE))
    assert found == [[], [job.id], [], [job.id], []]


def test_a_job_given_back_waits_from_then_on(engine, running):
    later = NOON + 10 * MINUTE
    with session_scope(engine) as session:
        Jobs(session).release_lost(later, silent_for=MINUTE, max_attempts=2)
        assert Jobs(session).waiting(later + MINUTE / 2, older_than=MINUTE) == []
        assert Jobs(session).waiting(later + MINUTE, older_than=MINUTE) == [running.id]


@pytest.mark.parametrize("state", list(JobState))
def test_a_job_is_deleted_when_it_has_ended_and_not_before(engine, job, state):
    put_in_state(engine, job.id, state)
    with session_scope(engine) as session:
        assert Jobs(session).delete(job.id) is state.is_final
    assert (read(engine, job.id) is None) is state.is_final


def test_artifacts_go_with_their_job(engine, running):
    artifact = NewArtifact("model.pt2", "application/octet-stream", "c" * 64, 5)
    with session_scope(engine) as session:
        Jobs(session).succeed(running.id, attempt=1, now=NOON, result={}, artifacts=[artifact])
        [stored] = Artifacts(session).of_job(running.id)
    with session_scope(engine) as session:
        Jobs(session).delete(running.id)
    with read_scope(engine) as session:
        assert Artifacts(session).get(stored.id) is None


class TestIdempotency:
    def create(self, engine, model_id, *, key, fingerprint="f" * 64):
        with session_scope(engine) as session:
            return Jobs(session).create(
                spec_of(model_id),
                kind=JobKind.COMPRESS,
                now=NOON,
                idempotency_key=key,
                fingerprint=fingerprint,
            )

    def test_the_same_key_is_the_same_job(self, engine, model_id):
        first = self.create(engine, model_id, key="k")
        second = self.create(engine, model_id, key="k")
        assert (first.is_replay, second.is_replay) == (False, True)
        assert first.job == second.job

    def test_a_replay_shows_the_job_as_it_was_created(self, engine, model_id):
        first = self.create(engine, model_id, key="k")
        with session_scope(engine) as session:
            Jobs(session).claim(first.job.id, NOON)
            Jobs(session).fail(first.job.id, attempt=1, now=NOON, failure=FAILURE)
        assert self.create(engine, model_id, key="k").job == first.job

    def test_another_payload_is_refused(self, engine, model_id):
        self.create(engine, model_id, key="k")
        with pytest.raises(IdempotencyMismatch):
            self.create(engine, model_id, key="k", fingerprint="e" * 64)

    def test_jobs_without_a_key_are_all_different(self, engine, model_id):
        first = self.create(engine, model_id, key=None)
        assert self.create(engine, model_id, key=None).job.id != first.job.id

    def test_the_same_key_at_once_makes_one_job(self, engine, model_id):
        barrier = threading.Barrier(4)
        created = []

        def create():
            barrier.wait()
            created.append(self.create(engine, model_id, key="k"))

        threads = [threading.Thread(target=create) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({each.job.id for each in created}) == 1
        assert sorted(each.is_replay for each in created) == [False, True, True, True]


class TestPages:
    def pages(self, engine, **arguments):
        found, cursor = [], None
        while True:
            with read_scope(engine) as session:
                jobs, cursor = Jobs(session).page(cursor=cursor, **arguments)
            found.append([job.id for job in jobs])
            if cursor is None:
                return found

    def test_the_newest_comes_first(self, engine, model_id):
        ids = [add_job(engine, model_id, now=NOON + i * MINUTE).id for i in range(5)]
        assert self.pages(engine, limit=2) == [
            [ids[4], ids[3]],
            [ids[2], ids[1]],
            [ids[0]],
        ]

    def test_equal_times_lose_and_repeat_nothing(self, engine, model_id):
        ids = {add_job(engine, model_id).id for _ in range(7)}
        pages = self.pages(engine, limit=3)
        assert [len(page) for page in pages] == [3, 3, 1]
        assert {job_id for page in pages for job_id in page} == ids

    def test_a_full_last_page_has_no_next(self, engine, model_id):
        for _ in range(4):
            add_job(engine, model_id)
        assert [len(page) for page in self.pages(engine, limit=2)] == [2, 2]

    def test_filters_narrow_the_list(self, engine, model_id):
        other_model_id = add_model(engine, sha256="d" * 64)
        mine = add_job(engine, model_id, label="mine").id
        other = add_job(engine, other_model_id).id
        put_in_state(engine, other, JobState.FAILED)
        assert self.pages(engine, limit=9, label="mine") == [[mine]]
        assert self.pages(engine, limit=9, model_id=other_model_id) == [[other]]
        assert self.pages(engine, limit=9, state=JobState.QUEUED) == [[mine]]
        assert self.pages(engine, limit=9, state=JobState.FAILED, label="mine") == [[]]

    @pytest.mark.parametrize("cursor", ["", "x", "é", "W10", "bnVsbA", "WyIyMDI2IiwgIngiXQ"])
    def test_a_foreign_cursor_is_refused(self, engine, cursor):
        with read_scope(engine) as session, pytest.raises(BadCursor):
            Jobs(session).page(limit=1, cursor=cursor)
