"""How many jobs of sweeps run at once, and that none of them is left behind."""

import random
import threading
from datetime import timedelta

import pytest

from secateur.failures import Failure, FailureCode
from secateur.jobs import JobState
from store import slots
from store.jobs import Jobs
from store.session import read_scope, session_scope
from store.sweeps import Sweeps
from tests.store.builders import NOON, add_job, add_model, add_sweep

MINUTE = timedelta(minutes=1)
FAILURE = Failure.of(FailureCode.DATA_UNREADABLE, "why")


@pytest.fixture
def model_id(engine):
    return add_model(engine)


def claim(engine, job_id, *, most):
    with session_scope(engine) as session:
        return Jobs(session).claim(job_id, NOON, sweep_jobs_max=most)


def send_next(engine, *, most, now=NOON):
    with session_scope(engine) as session:
        return slots.send_next(session, now, most=most)


def ids(sweep):
    return [child.job_id for child in sweep.children]


def test_no_more_run_than_may_and_others_are_not_counted(engine, model_id):
    first, second, third = ids(add_sweep(engine, model_id))
    other = add_job(engine, model_id)
    assert claim(engine, first, most=2) is not None
    assert claim(engine, other.id, most=2) is not None
    assert claim(engine, second, most=2) is not None
    assert claim(engine, third, most=2) is None
    with read_scope(engine) as session:
        assert Jobs(session).get(third).state is JobState.QUEUED
    with session_scope(engine) as session:
        Jobs(session).cancel(first, NOON)
    assert claim(engine, third, most=2) is None, "what is canceling still runs"
    with session_scope(engine) as session:
        assert Jobs(session).finish_cancel(first, attempt=1, now=NOON)
    assert claim(engine, third, most=2) is not None


def test_sweeps_share_the_slots_and_the_older_one_goes_first(engine, model_id):
    older = ids(add_sweep(engine, model_id, now=NOON))
    younger = ids(add_sweep(engine, model_id, now=NOON + MINUTE))
    # The first of each was sent when it was made.
    assert send_next(engine, most=4) == older[1:]
    assert send_next(engine, most=4) == []
    assert send_next(engine, most=5) == younger[1:2]


def test_what_is_refused_waits_to_be_sent_again(engine, model_id):
    first, second, third = ids(add_sweep(engine, model_id))
    assert send_next(engine, most=3) == [second, third]
    assert claim(engine, first, most=1) is not None
    assert claim(engine, second, most=1) is None
    assert claim(engine, third, most=1) is None
    assert send_next(engine, most=1) == []
    with session_scope(engine) as session:
        assert Jobs(session).fail(first, attempt=1, now=NOON, failure=FAILURE)
    assert send_next(engine, most=1) == [second]


def test_a_job_that_was_not_sent_is_not_sent_again_but_a_lost_message_is(engine, model_id):
    first, *_ = ids(add_sweep(engine, model_id))
    with session_scope(engine) as session:
        waiting = Jobs(session).waiting(NOON + 2 * MINUTE, older_than=MINUTE)
    assert waiting == [first]


class Play:
    """Workers, a queue and a net, in an order drawn at random: nothing else makes things happen."""

    def __init__(self, engine, seed, *, most):
        self.engine = engine
        self.random = random.Random(seed)
        self.most = most
        self.queue = []
        self.running = []
        self.now = NOON

    def send_next(self):
        self.queue += send_next(self.engine, most=self.most, now=self.now)

    def take(self):
        """What `run_job` does, up to the end of the attempt."""
        job_id = self.queue.pop(self.random.randrange(len(self.queue)))
        claimed = claim(self.engine, job_id, most=self.most)
        if claimed is not None:
            self.running.append(claimed)
        self.send_next()

    def end(self):
        claimed = self.running.pop(self.random.randrange(len(self.running)))
        how = self.random.choice(["fail", "give_back", "cancel", "succeed"])
        with session_scope(self.engine) as session:
            jobs, own = Jobs(session), {"attempt": claimed.attempt, "now": self.now}
            if how == "fail":
                assert jobs.fail(claimed.job_id, failure=FAILURE, **own)
            elif how == "succeed":
                assert jobs.succeed(claimed.job_id, result={}, artifacts=[], **own)
            elif how == "cancel":
                jobs.cancel(claimed.job_id, self.now)
                assert jobs.finish_cancel(claimed.job_id, **own)
            else:
                assert jobs.give_back(claimed.job_id, **own)
        if how == "give_back":
            self.queue.append(claimed.job_id)
        self.send_next()

    def cancel_one(self, job_ids):
        """Somebody cancels a job: if it waits, its message is now nobody's."""
        with session_scope(self.engine) as session:
            jobs = Jobs(session)
            job_id = self.random.choice(job_ids)
            if jobs.get(job_id).state is JobState.QUEUED:
                jobs.cancel(job_id, self.now)

    def deliver_twice(self):
        if self.queue:
            self.queue.append(self.random.choice(self.queue))


@pytest.mark.parametrize("seed", range(8))
def test_no_order_of_events_leaves_a_job_behind(engine, model_id, seed):
    """Without the net: as long as no message is lost, what happens is enough."""
    play = Play(engine, seed, most=3)
    sweeps = [add_sweep(engine, model_id, count=6), add_sweep(engine, model_id, count=4)]
    job_ids = [job_id for sweep in sweeps for job_id in ids(sweep)]
    play.queue += [ids(sweep)[0] for sweep in sweeps]
    play.cancel_one(job_ids[:1])
    while play.queue or play.running:
        assert len(play.running) <= 3
        if play.random.random() < 0.1:
            play.cancel_one(job_ids)
        if play.random.random() < 0.1:
            play.deliver_twice()
        can = [play.take] * bool(play.queue) + [play.end] * bool(play.running)
        play.random.choice(can)()
    with read_scope(engine) as session:
        assert all(Sweeps(session).get(sweep.id).state.is_final for sweep in sweeps)


@pytest.mark.parametrize("seed", range(4))
def test_a_broker_that_loses_messages_delays_and_strands_nothing(engine, model_id, seed):
    play = Play(engine, seed, most=2)
    sweep = add_sweep(engine, model_id, count=5)
    is_over = False
    while not is_over:
        if play.random.random() < 0.5:
            play.queue.clear()
        # What the net does in each round.
        play.now += 2 * MINUTE
        with session_scope(engine) as session:
            play.queue += Jobs(session).waiting(play.now, older_than=MINUTE)
        play.send_next()
        for _ in range(2):
            can = [play.take] * bool(play.queue) + [play.end] * bool(play.running)
            if can:
                play.random.choice(can)()
        with read_scope(engine) as session:
            is_over = Sweeps(session).get(sweep.id).state.is_final


def test_workers_that_claim_at_once_stay_within_the_limit(engine, model_id):
    sweep = add_sweep(engine, model_id, count=12)
    barrier = threading.Barrier(12)
    claims = []

    def work(job_id):
        barrier.wait()
        claims.append(claim(engine, job_id, most=5))

    threads = [threading.Thread(target=work, args=(job_id,)) for job_id in ids(sweep)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(claimed is not None for claimed in claims) == 5


def test_a_sweep_is_worked_off_by_workers_at_once(engine, model_id):
    """Each thread is a worker: it takes a message, does the job, and has the next ones sent."""
    sweep = add_sweep(engine, model_id, count=20)
    lock, messages = threading.Condition(), [ids(sweep)[0]]
    left = set(ids(sweep))
    now_running, most_running = 0, 0

    def put(job_ids):
        with lock:
            messages.extend(job_ids)
            lock.notify_all()

    def work():
        nonlocal now_running, most_running
        while True:
            with lock:
                lock.wait_for(lambda: messages or not left)
                if not left:
                    return
                job_id = messages.pop(0)
            claimed = claim(engine, job_id, most=3)
            if claimed is not None:
                with lock:
                    now_running += 1
                    most_running = max(most_running, now_running)
            put(send_next(engine, most=3))
            if claimed is None:
                continue
            with lock:
                now_running -= 1
            with session_scope(engine) as session:
                assert Jobs(session).fail(job_id, attempt=1, now=NOON, failure=FAILURE)
            put(send_next(engine, most=3))
            with lock:
                left.discard(job_id)
                lock.notify_all()

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most_running <= 3
    with read_scope(engine) as session:
        assert Sweeps(session).get(sweep.id).counts.failed == 20
