"""The repository of sweeps, on both databases."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from secateur.failures import Failure, FailureCode
from secateur.jobs import JobState
from secateur.sweeps import SweepState
from store.artifacts import NewArtifact
from store.errors import BadCursor, IdempotencyMismatch
from store.jobs import Jobs
from store.session import read_scope, session_scope
from store.sweeps import NewChild, Sweeps
from store.tables import ArtifactRow, JobRow, SweepRow
from tests.store.builders import NOON, add_job, add_model, add_sweep, put_in_state

MINUTE = timedelta(minutes=1)
LATER = NOON + MINUTE


@pytest.fixture
def model_id(engine):
    return add_model(engine)


@pytest.fixture
def sweep(engine, model_id):
    return add_sweep(engine, model_id)


def read(engine, sweep_id):
    with read_scope(engine) as session:
        return Sweeps(session).get(sweep_id)


def end(engine, job_id, state):
    """End a job as a worker does."""
    with session_scope(engine) as session:
        jobs = Jobs(session)
        if state is JobState.CANCELED:
            jobs.cancel(job_id, LATER)
            return
        assert jobs.claim(job_id, NOON) is not None
        if state is JobState.FAILED:
            failure = Failure.of(FailureCode.DATA_UNREADABLE, "why")
            assert jobs.fail(job_id, attempt=1, now=LATER, failure=failure)
        else:
            made = NewArtifact("a", "text/plain", "c" * 64, 1)
            assert jobs.succeed(job_id, attempt=1, now=LATER, result={"a": 1}, artifacts=[made])


def test_a_new_sweep_has_all_its_jobs_queued(engine, model_id, sweep):
    assert sweep.state is SweepState.RUNNING
    assert (sweep.model_id, sweep.created_at, sweep.finished_at) == (model_id, NOON, None)
    assert (sweep.counts.queued, sweep.counts.total) == (3, 3)
    assert [(child.position, child.method, child.amount) for child in sweep.children] == [
        (0, "magnitude", "macs 0.25"),
        (1, "magnitude", "macs 0.5"),
        (2, "magnitude", "macs 0.75"),
    ]
    assert read(engine, sweep.id) == sweep
    with read_scope(engine) as session:
        job = Jobs(session).get(sweep.children[1].job_id)
    assert (job.sweep_id, job.spec.recipe[0].budget.macs) == (sweep.id, 0.5)


@pytest.mark.parametrize("sweep_id", ["swp_" + "0" * 24, "", "swp_\x00", "'; --"])
def test_an_unknown_id_is_no_sweep(engine, sweep_id):
    assert read(engine, sweep_id) is None


ENDS = {
    "succeeded": [JobState.SUCCEEDED] * 3,
    "failed": [JobState.FAILED] * 3,
    "some": [JobState.FAILED, JobState.SUCCEEDED, JobState.CANCELED],
    "none": [JobState.FAILED, JobState.FAILED, JobState.CANCELED],
}


@pytest.mark.parametrize(
    ("ends", "state"),
    [
        ("succeeded", SweepState.SUCCEEDED),
        ("failed", SweepState.FAILED),
        ("some", SweepState.SUCCEEDED),
        ("none", SweepState.SUCCEEDED),
    ],
)
def test_how_it_is_follows_from_its_jobs(engine, sweep, ends, state):
    for child, how in zip(sweep.children, ENDS[ends], strict=True):
        assert read(engine, sweep.id).state is SweepState.RUNNING
        end(engine, child.job_id, how)
    now = read(engine, sweep.id)
    assert (now.state, now.finished_at) == (state, LATER)
    assert [child.state for child in now.children] == ENDS[ends]
    assert [child.failure is not None for child in now.children] == [
        how is JobState.FAILED for how in ENDS[ends]
    ]
    with read_scope(engine) as session:
        [summary], _ = Sweeps(session).page(limit=10)
    assert summary.model_dump() == now.model_dump(exclude={"children", "spec"})


def test_all_or_nothing_is_made(engine, model_id, sweep):
    children = [NewChild("m", "a", add_job(engine, model_id).spec)] * 2
    children.append(NewChild("m", None, children[0].spec.model_copy(update={"model_id": None})))
    with pytest.raises(IntegrityError), session_scope(engine) as session:
        Sweeps(session).create(sweep.spec, children, now=NOON)
    with read_scope(engine) as session:
        assert len(session.scalars(select(SweepRow)).all()) == 1
        assert len(session.scalars(select(JobRow).where(JobRow.sweep_id.is_not(None))).all()) == 3


class TestIdempotency:
    def create(self, engine, sweep, fingerprint="f" * 64):
        with read_scope(engine) as session:
            spec = Jobs(session).get(sweep.children[0].job_id).spec
        children = [NewChild("m", "a", spec)] * 2
        with session_scope(engine) as session:
            return Sweeps(session).create(
                sweep.spec, children, now=NOON, idempotency_key="key", fingerprint=fingerprint
            )

    def test_a_repetition_gets_the_first_sweep_as_it_was(self, engine, sweep):
        first = self.create(engine, sweep)
        for child in first.sweep.children:
            end(engine, child.job_id, JobState.FAILED)
        second = self.create(engine, sweep)
        assert (first.is_replay, second.is_replay) == (False, True)
        assert second.sweep == first.sweep

    def test_another_payload_is_refused(self, engine, sweep):
        self.create(engine, sweep)
        with pytest.raises(IdempotencyMismatch):
            self.create(engine, sweep, fingerprint="0" * 64)

    def test_of_requests_at_once_one_makes_a_sweep(self, engine, sweep):
        barrier = threading.Barrier(4)
        made = []

        def run():
            barrier.wait()
            made.append(self.create(engine, sweep))

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(each.is_replay for each in made) == [False, True, True, True]
        assert len({each.sweep.id for each in made}) == 1


class TestLists:
    def test_pages_are_newest_first(self, engine, model_id):
        ids = [add_sweep(engine, model_id, now=NOON + n * MINUTE).id for n in range(3)]
        with read_scope(engine) as session:
            page, cursor = Sweeps(session).page(limit=2)
            rest, end_cursor = Sweeps(session).page(limit=2, cursor=cursor)
            assert Sweeps(session).page(limit=2, model_id="mdl_none") == ([], None)
            assert Sweeps(session).page(limit=2, label="mine") == ([], None)
            with pytest.raises(BadCursor):
                Jobs(session).page(limit=2, cursor=cursor)
        assert [each.id for each in (*page, *rest)] == list(reversed(ids))
        assert end_cursor is None

    def test_jobs_are_found_by_their_sweep(self, engine, model_id, sweep):
        add_job(engine, model_id)
        with read_scope(engine) as session:
            found, _ = Jobs(session).page(limit=10, sweep_id=sweep.id)
            everything, _ = Jobs(session).page(limit=10)
        assert {job.id for job in found} == {child.job_id for child in sweep.children}
        assert [job.sweep_id for job in everything].count(None) == 1


class TestCancel:
    def cancel(self, engine, sweep):
        with session_scope(engine) as session:
            return Sweeps(session).cancel(sweep.id, LATER)

    def test_what_waits_is_canceled_and_what_runs_is_told(self, engine, sweep):
        first, second, third = (child.job_id for child in sweep.children)
        end(engine, first, JobState.SUCCEEDED)
        with session_scope(engine) as session:
            Jobs(session).claim(second, NOON)
        assert set(self.cancel(engine, sweep)) == {second, third}
        now = read(engine, sweep.id)
        assert [child.state for child in now.children] == ["succeeded", "canceling", "canceled"]
        assert now.state is SweepState.RUNNING
        assert self.cancel(engine, sweep) == []
        with session_scope(engine) as session:
            assert Jobs(session).finish_cancel(second, attempt=1, now=LATER)
        assert read(engine, sweep.id).state is SweepState.CANCELED

    def test_one_that_has_ended_is_left_as_it_is(self, engine, sweep):
        for child in sweep.children:
            end(engine, child.job_id, JobState.SUCCEEDED)
        assert self.cancel(engine, sweep) == []
        assert read(engine, sweep.id).state is SweepState.SUCCEEDED

    def test_no_job_slips_through_that_is_taken_or_given_back_meanwhile(self, engine, model_id):
        for _ in range(5):
            sweep = add_sweep(engine, model_id, count=8)
            barrier = threading.Barrier(9)

            def restless(job_id, barrier=barrier):
                barrier.wait()
                for attempt in range(1, 4):
                    with session_scope(engine) as session:
                        Jobs(session).claim(job_id, NOON, sweep_jobs_max=100)
                    with session_scope(engine) as session:
                        Jobs(session).give_back(job_id, attempt=attempt, now=NOON)

            threads = [
                threading.Thread(target=restless, args=(child.job_id,)) for child in sweep.children
            ]
            for thread in threads:
                thread.start()
            barrier.wait()
            self.cancel(engine, sweep)
            for thread in threads:
                thread.join()
            states = {child.state for child in read(engine, sweep.id).children}
            assert states <= {JobState.CANCELED, JobState.CANCELING}


class TestDelete:
    def delete(self, engine, sweep):
        with session_scope(engine) as session:
            return Sweeps(session).delete(sweep.id)

    def test_it_goes_with_its_jobs_and_what_they_made(self, engine, model_id, sweep):
        other = add_job(engine, model_id)
        end(engine, other.id, JobState.SUCCEEDED)
        for child in sweep.children[:2]:
            end(engine, child.job_id, JobState.SUCCEEDED)
        assert not self.delete(engine, sweep)
        end(engine, sweep.children[2].job_id, JobState.FAILED)
        with read_scope(engine) as session:
            assert Sweeps(session).digests(sweep.id) == ["c" * 64] * 2
            assert set(Sweeps(session).reports(sweep.id)) == {
                child.job_id for child in sweep.children[:2]
            }
        assert self.delete(engine, sweep)
        assert read(engine, sweep.id) is None
        with read_scope(engine) as session:
            assert [row.id for row in session.scalars(select(JobRow))] == [other.id]
            assert len(session.scalars(select(ArtifactRow)).all()) == 1

    def test_a_job_of_a_sweep_goes_with_it_alone(self, engine, sweep):
        job_id = sweep.children[0].job_id
        put_in_state(engine, job_id, JobState.SUCCEEDED)
        with session_scope(engine) as session:
            assert not Jobs(session).delete(job_id)

    def test_no_way_leads_to_jobs_without_their_sweep(self, engine, sweep):
        with pytest.raises(IntegrityError), session_scope(engine) as session:
            session.delete(session.get_one(SweepRow, sweep.id))
