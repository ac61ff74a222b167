"""The state machine: every pair of states, and every sequence of calls."""

from datetime import timedelta

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from secateur.failures import Failure, FailureCode
from secateur.jobs import NEXT_STATES, JobState
from store.jobs import Jobs
from store.session import read_scope, session_scope
from store.transitions import move
from tests.store.builders import NOON, add_job, add_model, put_in_state

FAILURE = Failure.of(FailureCode.DATA_UNREADABLE, "what happened")
MAX_ATTEMPTS = 3
SECOND = timedelta(seconds=1)
LATER = NOON + timedelta(hours=1)


def lose(jobs, job_id, *, max_attempts):
    jobs.release_lost(LATER, silent_for=SECOND, max_attempts=max_attempts)


# Every way to leave a state, by where it leads.
WAYS = {
    JobState.QUEUED: [lambda jobs, job_id: lose(jobs, job_id, max_attempts=2)],
    JobState.RUNNING: [lambda jobs, job_id: jobs.claim(job_id, LATER)],
    JobState.CANCELING: [lambda jobs, job_id: jobs.cancel(job_id, LATER)],
    JobState.SUCCEEDED: [
        lambda jobs, job_id: jobs.succeed(job_id, attempt=1, now=LATER, result={}, artifacts=[])
    ],
    JobState.FAILED: [
        lambda jobs, job_id: jobs.fail(job_id, attempt=1, now=LATER, failure=FAILURE),
        lambda jobs, job_id: lose(jobs, job_id, max_attempts=1),
    ],
    JobState.CANCELED: [
        lambda jobs, job_id: jobs.cancel(job_id, LATER),
        lambda jobs, job_id: jobs.finish_cancel(job_id, attempt=1, now=LATER),
        lambda jobs, job_id: lose(jobs, job_id, max_attempts=2),
    ],
}


@pytest.mark.parametrize("then", list(JobState))
@pytest.mark.parametrize("before", list(JobState))
def test_a_state_is_reached_from_where_the_contract_says_and_nowhere_else(engine, before, then):
    reached = set()
    for index, way in enumerate(WAYS[then]):
        model_id = add_model(engine, sha256=f"{index}" * 64)
        job = add_job(engine, model_id)
        put_in_state(engine, job.id, before)
        with session_scope(engine) as session:
            way(Jobs(session), job.id)
        with read_scope(engine) as session:
            reached.add(Jobs(session).get(job.id).state)
    assert (then in reached - {before}) is (then in NEXT_STATES[before])


def test_a_move_that_the_contract_does_not_know_is_a_defect(engine):
    with session_scope(engine) as session, pytest.raises(AssertionError):
        move(session, "job_" + "0" * 24, JobState.SUCCEEDED, JobState.RUNNING)


class JobLife(RuleBasedStateMachine):
    """One job, and workers that come, go, and come back from the dead."""

    engine = None  # Set by the test: a database to do it in.

    @initialize()
    def create(self):
        self.model_count = getattr(type(self), "count", 0)
        type(self).count = self.model_count + 1
        model_id = add_model(self.engine, sha256=f"{self.model_count:064x}")
        self.job_id = add_job(self.engine, model_id).id
        self.now = NOON
        self.state = JobState.QUEUED
        self.attempts = set()
        self.given_back = 0

    def call(self, method, *arguments, **named):
        self.now += SECOND
        with session_scope(self.engine) as session:
            return getattr(Jobs(session), method)(self.job_id, *arguments, **named)

    @rule()
    def claim(self):
        claim = self.call("claim", self.now)
        assert (claim is not None) is (self.state is JobState.QUEUED)
        if claim is not None:
            assert claim.attempt not in self.attempts
            self.attempts.add(claim.attempt)

    @rule()
    def everybody_beats(self):
        told_to_go_on = [a for a in self.attempts if self.call("beat", attempt=a, now=self.now)]
        assert told_to_go_on == ([max(self.attempts)] if self.state is JobState.RUNNING else [])

    @rule(attempt=st.integers(1, 4))
    def succeed(self, attempt):
        is_done = self.call("succeed", attempt=attempt, now=self.now, result={}, artifacts=[])
        assert not is_done or attempt == max(self.attempts)

    @rule(attempt=st.integers(1, 4))
    def fail(self, attempt):
        is_done = self.call("fail", attempt=attempt, now=self.now, failure=FAILURE)
        assert not is_done or attempt == max(self.attempts)

    @rule()
    def cancel(self):
        assert self.call("cancel", self.now) is not None

    @rule(attempt=st.integers(1, 4))
    def finish_cancel(self, attempt):
        is_done = self.call("finish_cancel", attempt=attempt, now=self.now)
        assert not is_done or attempt == max(self.attempts)

    @rule(attempt=st.integers(1, 4))
    def give_back(self, attempt):
        is_done = self.call("give_back", attempt=attempt, now=self.now)
        assert not is_done or attempt == max(self.attempts)
        self.given_back += is_done

    @rule(silent_s=st.integers(1, 5))
    def sweep(self, silent_s):
        self.now += SECOND
        with session_scope(self.engine) as session:
            released = Jobs(session).release_lost(
                self.now, silent_for=silent_s * SECOND, max_attempts=MAX_ATTEMPTS
            )
        lost = len(self.attempts) - self.given_back
        assert self.job_id not in released.queued or lost < MAX_ATTEMPTS

    @invariant()
    def it_stays_within_the_contract(self):
        with read_scope(self.engine) as session:
            job = Jobs(session).get(self.job_id)
        assert job.state is self.state or job.state in NEXT_STATES[self.state]
        assert job.attempt == len(self.attempts) <= MAX_ATTEMPTS + self.given_back
        assert (job.finished_at is not None) is job.state.is_final
        assert (job.failure is not None) is (job.state is JobState.FAILED)
        self.state = job.state


def test_no_sequence_of_calls_breaks_a_job(engine):
    life = type("Life", (JobLife,), {"engine": engine})
    test = life.TestCase
    test.settings = settings(
        max_examples=25,
        stateful_step_count=20,
        deadline=None,  # A database on a busy machine takes what it takes.
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    test().runTest()
