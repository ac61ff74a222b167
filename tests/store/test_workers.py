"""Workers that are up."""

from datetime import timedelta

from sqlalchemy import text, update

from secateur.models import ModelFormat
from secateur.precision import Precision
from store.session import session_scope
from store.tables import WorkerRow
from store.workers import Workers
from tests.store.builders import NOON

LATER = NOON + timedelta(seconds=60)


def formats(engine, now):
    with session_scope(engine) as session:
        return Workers(session).formats(now)


def alive(engine, worker, *names, now=NOON, until=LATER):
    with session_scope(engine) as session:
        Workers(session).alive(worker, names, now=now, until=until)


def test_what_can_be_read_is_what_some_worker_reads_that_is_up(engine):
    assert formats(engine, NOON) == frozenset()
    alive(engine, "wrk_1", ModelFormat.PT2)
    alive(engine, "wrk_2", ModelFormat.PT2, ModelFormat.SAVED_MODEL)
    assert formats(engine, NOON) == {ModelFormat.PT2, ModelFormat.SAVED_MODEL}


def test_a_worker_that_is_heard_of_again_stays(engine):
    alive(engine, "wrk_1", ModelFormat.PT2)
    alive(engine, "wrk_1", ModelFormat.ONNX, now=LATER, until=LATER + timedelta(seconds=60))
    assert formats(engine, LATER + timedelta(seconds=30)) == {ModelFormat.ONNX}


def test_a_worker_that_falls_silent_is_not_counted_on_and_removed_by_others(engine):
    alive(engine, "wrk_1", ModelFormat.SAVED_MODEL)
    after = LATER + timedelta(seconds=1)
    assert formats(engine, after) == frozenset()
    alive(engine, "wrk_2", ModelFormat.PT2, now=after, until=after)
    # Even for a clock that is behind.
    assert formats(engine, NOON) == {ModelFormat.PT2}


def test_a_worker_that_ends_says_so(engine):
    alive(engine, "wrk_1", ModelFormat.SAVED_MODEL)
    with session_scope(engine) as session:
        Workers(session).gone("wrk_1")
    assert formats(engine, NOON) == frozenset()


def precisions(engine, now):
    with session_scope(engine) as session:
        return Workers(session).precisions(now)


def test_what_is_computed_with_is_what_some_worker_has_that_is_up(engine):
    assert precisions(engine, NOON) is None
    with session_scope(engine) as session:
        workers = Workers(session)
        workers.alive("wrk_1", (), now=NOON, until=LATER)
        workers.alive("wrk_2", (), [Precision.FLOAT16], now=NOON, until=LATER)
    assert precisions(engine, NOON) == {Precision.FLOAT16}
    with session_scope(engine) as session:
        Workers(session).gone("wrk_2")
    assert precisions(engine, NOON) == frozenset()
    assert precisions(engine, LATER + timedelta(seconds=1)) is None


def test_a_type_of_a_newer_worker_is_none_of_ours(engine):
    alive(engine, "wrk_1", ModelFormat.PT2)
    with session_scope(engine) as session:
        session.execute(update(WorkerRow).values(precisions=["bfloat16", "float4"]))
    assert precisions(engine, NOON) == {Precision.BFLOAT16}


def test_a_worker_of_the_release_before_has_none(engine):
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO workers (id, formats, alive_until) VALUES ('wrk_1', '[]', :until)"),
            {"until": LATER},
        )
    assert precisions(engine, NOON) == frozenset()
