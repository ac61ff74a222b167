"""Jobs of sweeps: each that ends, in whatever way, has the next one sent."""

import pytest

from secateur.jobs import JobState
from store.session import read_scope
from store.sweeps import Sweeps
from tests.worker import programs
from tests.worker.conftest import WAIT_S, Bench


def job_ids(sweep):
    return [child.job_id for child in sweep.children]


def announced(bench: Bench) -> list[str]:
    """All that was announced so far."""
    found = []
    while not bench.announced.empty():
        found.append(bench.announced.get_nowait())
    return found


def test_whoever_takes_one_has_others_sent_that_may_run_beside_it(bench: Bench) -> None:
    bench.settings(sweep_jobs_max=3)
    sweep = bench.add_sweep(programs.refuse, count=5)
    first, second, third, fourth, _ = job_ids(sweep)
    assert bench.run(first).state is JobState.FAILED
    assert bench.sent_next == [[second, third], [fourth]]


def test_one_at_a_time_is_one_after_the_other(bench: Bench) -> None:
    bench.settings(sweep_jobs_max=1)
    sweep = bench.add_sweep(programs.refuse)
    sent = [job_ids(sweep)[0]]
    for job_id in sent:
        bench.run(job_id)
        sent += [each for found in bench.sent_next for each in found]
        bench.sent_next.clear()
    assert sent == job_ids(sweep)


def test_those_who_watch_the_sweep_hear_of_the_beginning_and_the_end(bench: Bench) -> None:
    sweep = bench.add_sweep(programs.refuse)
    bench.run(job_ids(sweep)[0])
    heard = announced(bench)
    assert heard.count(sweep.id) == 2
    assert heard[1] == heard[-1] == sweep.id


def test_one_that_was_canceled_while_it_waited_leaves_its_turn_to_another(bench: Bench) -> None:
    bench.settings(sweep_jobs_max=1)
    first, second, _ = job_ids(bench.add_sweep(programs.refuse))
    bench.cancel(first)
    assert bench.run(first).state is JobState.CANCELED
    assert bench.sent_next == [[second]]


def test_one_that_is_canceled_while_it_runs_leaves_its_turn_to_another(bench: Bench) -> None:
    bench.settings(sweep_jobs_max=1)
    sweep = bench.add_sweep(programs.hang)
    first, second, _ = job_ids(sweep)
    thread = bench.begin(first)
    bench.running(first)
    bench.cancel(first)
    bench.place.wakes.wake(first)
    thread.join(WAIT_S)
    assert bench.job(first).state is JobState.CANCELED
    assert bench.sent_next == [[], [second]]
    assert announced(bench)[-1] == sweep.id


def test_one_that_has_to_wait_stays_queued(bench: Bench) -> None:
    bench.settings(sweep_jobs_max=1)
    sweep = bench.add_sweep(programs.hang)
    first, second, _ = job_ids(sweep)
    thread = bench.begin(first)
    bench.running(first)
    assert bench.run(second).state is JobState.QUEUED
    with read_scope(bench.engine) as session:
        assert Sweeps(session).get(sweep.id).counts.running == 1
    other = bench.add_job(programs.refuse)
    assert bench.run(other).state is JobState.FAILED, "others find their way"
    bench.cancel(first)
    bench.place.wakes.wake(first)
    thread.join(WAIT_S)


@pytest.mark.parametrize("state", [JobState.CANCELED, JobState.FAILED])
def test_a_job_of_no_sweep_has_nobody_wait_for_it(bench: Bench, state: JobState) -> None:
    job_id = bench.add_job(programs.refuse)
    if state is JobState.CANCELED:
        bench.cancel(job_id)
    assert bench.run(job_id).state is state
    assert [each for found in bench.sent_next for each in found] == []
