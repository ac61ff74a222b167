"""Checkpoints: one a job, of the attempt that works on it, and none once it has ended."""

from datetime import timedelta

import pytest

from secateur.failures import Failure, FailureCode
from store.blobs import put
from store.checkpoints import Checkpoints
from store.collect import remove_unreferenced
from store.file_blobs import FileBlobs
from store.jobs import Jobs
from store.session import read_scope, session_scope
from tests.store.builders import NOON, add_job, add_model

FIRST, SECOND = "1" * 64, "2" * 64


@pytest.fixture
def job_id(engine):
    job = add_job(engine, add_model(engine))
    claim(engine, job.id)
    return job.id


def claim(engine, job_id):
    with session_scope(engine) as session:
        return Jobs(session).claim(job_id, NOON)


def keep(engine, job_id, sha256=FIRST, attempt=1):
    with session_scope(engine) as session:
        return Checkpoints(session).keep(
            job_id, attempt=attempt, sha256=sha256, size_bytes=5, now=NOON
        )


def digest(engine, job_id):
    with read_scope(engine) as session:
        return Checkpoints(session).digest(job_id)


def test_the_newest_is_kept_and_given_to_the_next_attempt(engine, job_id):
    assert digest(engine, job_id) is None
    assert keep(engine, job_id)
    assert keep(engine, job_id, SECOND)
    with session_scope(engine) as session:
        assert Jobs(session).give_back(job_id, attempt=1, now=NOON)
    assert claim(engine, job_id).checkpoint == SECOND


def test_an_attempt_that_lost_its_job_leaves_nothing(engine, job_id):
    with session_scope(engine) as session:
        Jobs(session).give_back(job_id, attempt=1, now=NOON)
    assert not keep(engine, job_id)
    claim(engine, job_id)
    assert not keep(engine, job_id, attempt=1)
    assert digest(engine, job_id) is None


def succeed(jobs, job_id):
    return jobs.succeed(job_id, attempt=1, now=NOON, result={}, artifacts=[])


def fail(jobs, job_id):
    failure = Failure.of(FailureCode.DATA_UNREADABLE, "what happened")
    return jobs.fail(job_id, attempt=1, now=NOON, failure=failure)


def cancel(jobs, job_id):
    jobs.cancel(job_id, NOON)
    return jobs.finish_cancel(job_id, attempt=1, now=NOON)


def lose(jobs, job_id):
    later = NOON + timedelta(hours=1)
    return jobs.release_lost(later, silent_for=timedelta(minutes=1), max_attempts=1).failed


@pytest.mark.parametrize("end", [succeed, fail, cancel, lose])
def test_a_job_that_ends_has_none(engine, job_id, end):
    keep(engine, job_id)
    with session_scope(engine) as session:
        assert end(Jobs(session), job_id)
    assert digest(engine, job_id) is None


def test_the_blob_of_a_checkpoint_is_somebodys(engine, job_id, tmp_path):
    blobs = FileBlobs(tmp_path)
    sha256 = put(blobs, [b"a checkpoint"])
    keep(engine, job_id, sha256)
    with session_scope(engine) as session:
        assert remove_unreferenced(session, blobs, [sha256]) == []
    with session_scope(engine) as session:
        succeed(Jobs(session), job_id)
    with session_scope(engine) as session:
        assert remove_unreferenced(session, blobs, [sha256]) == [sha256]
