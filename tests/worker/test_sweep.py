"""What was lost is found again: with a real broker, and a real worker in a thread."""

import os
import queue
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from celery import Celery
from kombu import Queue

from secateur.jobs import JobState
from secateur.messages import QUEUE, job_channel
from secateur.models import ModelFormat
from secateur.precision import Precision
from store.blobs import put
from store.file_blobs import FileBlobs
from store.jobs import Jobs
from store.session import make_engine, read_scope, session_scope
from store.workers import Workers
from tests.store.builders import add_job, add_model, add_sweep
from worker.announce import Announcer
from worker.messages import Messages
from worker.settings import WorkerSettings
from worker.sweep import Sweeper

LONG = timedelta(days=1)


class Place:
    """A sweeper, and what it did."""

    def __init__(self, folder: Path, broker_url: str, **settings: object) -> None:
        self.settings = WorkerSettings(data_dir=folder, broker_url=broker_url, **settings)
        self.engine = make_engine(self.settings)
        self.blobs = FileBlobs(self.settings.blob_dir)
        self.app = Celery(broker=broker_url, set_as_current=False)
        self.messages = Messages(self.app, lambda _: None, [ModelFormat.PT2])
        self.announced: list[str] = []
        self.sweeper = Sweeper(
            self.settings, self.engine, self.blobs, self.messages, self.announced.append
        )

    def purge(self) -> None:
        """Nothing is queued: the broker is shared with other tests."""
        with self.app.connection_for_write() as connection:
            Queue(QUEUE)(connection.default_channel).purge()

    def close(self) -> None:
        self.purge()
        self.app.close()
        self.engine.dispose()

    def sent(self) -> list[str]:
        """The job ids of all messages in the queue, taken from it."""
        found = []
        with self.app.connection_for_write() as connection:
            queue = Queue(QUEUE)(connection.default_channel)
            while (message := queue.get(no_ack=True)) is not None:
                found.append(message.decode()[0][0])
        return found

    def add_running_job(self, *, beaten_at: datetime) -> str:
        job_id = add_job(self.engine, add_model(self.engine), now=beaten_at).id
        with session_scope(self.engine) as session:
            assert Jobs(session).claim(job_id, beaten_at) is not None
        return job_id

    def state(self, job_id: str) -> JobState:
        with read_scope(self.engine) as session:
            job = Jobs(session).get(job_id)
        assert job is not None
        return job.state


@pytest.fixture
def place(tmp_path: Path, sqlite_template: Path, valkey_socket: str) -> Iterator[Place]:
    shutil.copy(sqlite_template, tmp_path / "secateur.db")
    place = Place(tmp_path, f"redis+socket://{valkey_socket}", silent_s=30)
    place.purge()
    yield place
    place.close()


def test_a_silent_job_is_queued_again_and_sent(place: Place) -> None:
    job_id = place.add_running_job(beaten_at=datetime.now(UTC) - LONG)
    place.sweeper.sweep()
    assert place.state(job_id) is JobState.QUEUED
    assert place.announced == [job_id]
    assert place.sent() == [job_id]


def test_a_job_that_beats_is_left_alone(place: Place) -> None:
    job_id = place.add_running_job(beaten_at=datetime.now(UTC))
    place.sweeper.sweep()
    assert place.state(job_id) is JobState.RUNNING
    assert place.sent() == []


def test_a_job_whose_message_was_lost_is_sent_again_once(place: Place) -> None:
    job = add_job(place.engine, add_model(place.engine), now=datetime.now(UTC) - LONG)
    place.sweeper.sweep()
    assert place.sent() == [job.id]
    place.sweeper.sweep()
    assert place.sent() == []


def test_a_job_that_waits_its_turn_is_not_sent_again(place: Place) -> None:
    """However often a sweep comes by: a long queue would get longer and longer."""
    now = datetime.now(UTC)
    waiting_s = place.settings.waiting_s
    add_job(place.engine, add_model(place.engine), now=now - timedelta(seconds=2 * waiting_s))
    place.messages.send("job_of_somebody_else")
    place.sweeper.sweep()
    assert place.sent() == ["job_of_somebody_else"]


def test_without_a_broker_nothing_is_marked_as_sent(
    tmp_path: Path, sqlite_template: Path, place: Place
) -> None:
    job = add_job(place.engine, add_model(place.engine), now=datetime.now(UTC) - LONG)
    deaf = Place(tmp_path, "redis+socket:///nowhere/socket")
    deaf.sweeper.sweep()
    deaf.engine.dispose()
    place.sweeper.sweep()
    assert place.sent() == [job.id]


def test_the_next_jobs_of_sweeps_are_sent_if_nobody_did(place: Place) -> None:
    place.sweeper.send_next()
    assert place.sent() == []
    sweep = add_sweep(place.engine, add_model(place.engine), count=12, now=datetime.now(UTC))
    job_ids = [child.job_id for child in sweep.children]
    place.sweeper.sweep()
    # The first one was sent when the sweep was made.
    assert place.sent() == job_ids[1 : place.settings.sweep_jobs_max]
    place.sweeper.sweep()
    assert place.sent() == []


def test_a_job_of_a_sweep_that_was_lost_leaves_its_turn_to_another(place: Place) -> None:
    long_ago = datetime.now(UTC) - LONG
    sweep = add_sweep(place.engine, add_model(place.engine), count=12, now=long_ago)
    first, second = (child.job_id for child in sweep.children[:2])
    with session_scope(place.engine) as session:
        jobs = Jobs(session)
        assert jobs.claim(first, long_ago) is not None
        jobs.cancel(first, long_ago)
    place.sweeper.release()
    assert place.state(first) is JobState.CANCELED
    assert place.announced == [first, sweep.id]
    assert place.sent()[0] == second


def test_blobs_that_belong_to_nothing_are_removed(place: Place) -> None:
    orphan = put(place.blobs, [b"nobody's"])
    fresh = put(place.blobs, [b"somebody's soon"])
    before = (datetime.now(UTC) - 2 * LONG).timestamp()
    os.utime(place.blobs.path(orphan), (before, before))
    place.sweeper.sweep()
    assert not place.blobs.contains(orphan)
    assert place.blobs.contains(fresh)


def test_the_thread_sweeps_and_stops(place: Place) -> None:
    job_id = place.add_running_job(beaten_at=datetime.now(UTC) - LONG)
    announced: queue.Queue[str] = queue.Queue()
    sweeper = Sweeper(place.settings, place.engine, place.blobs, place.messages, announced.put)
    sweeper.start()
    assert announced.get(timeout=60) == job_id
    sweeper.close()


def test_what_the_device_computes_with_is_said_at_every_sweep(place: Place) -> None:
    sweeper = Sweeper(
        place.settings,
        place.engine,
        place.blobs,
        place.messages,
        place.announced.append,
        lambda: (Precision.BFLOAT16,),
    )
    sweeper.sweep()
    with session_scope(place.engine) as session:
        assert Workers(session).precisions(datetime.now(UTC)) == {Precision.BFLOAT16}


def test_others_announcements_are_heard_and_ones_own_are_not(valkey_socket: str) -> None:
    broker_url = f"redis+socket://{valkey_socket}"
    heard: queue.Queue[str] = queue.Queue()
    ours = Announcer(broker_url, on_change=heard.put)
    other = Announcer(broker_url, on_change=heard.put)
    ours.start()
    # Until the subscription is there, nobody hears.
    while not other._saying.publish(job_channel("job_first"), b"?"):
        ours._closing.wait(0.001)
    assert heard.get(timeout=60) == "job_first"
    ours.announce("job_ours")
    other.announce("job_others")
    assert heard.get(timeout=60) == "job_others"
    ours.close()
    other.close()


def test_another_broker_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"use redis://.* not amqp://"):
        Announcer("amqp://host", on_change=print)
