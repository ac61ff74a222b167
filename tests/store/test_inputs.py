"""Models and data sets, and the blobs that may go when rows do."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.exc import IntegrityError

from secateur.jobs import JobState
from secateur.models import ModelFormat
from store.blobs import put
from store.collect import hold, remove_orphans, remove_unreferenced
from store.datasets import Datasets
from store.jobs import Jobs
from store.memory_blobs import MemoryBlobs
from store.models import Models
from store.session import read_scope, session_scope
from tests.store.builders import NOON, add_dataset, add_job, add_model, put_in_state


@pytest.fixture
def blobs():
    memory = MemoryBlobs()
    yield memory
    memory.close()


def test_a_model_is_read_as_it_was_written(engine):
    model_id = add_model(engine)
    with read_scope(engine) as session:
        model = Models(session).get(model_id)
        assert Models(session).by_digest("a" * 64, ModelFormat.PT2) == model
        assert Models(session).page(limit=5) == ([model], None)
        assert Models(session).page(limit=5, sha256="b" * 64) == ([], None)
    assert (model.filename, model.size_bytes, model.created_at) == ("model.pt2", 7, NOON)
    assert model.inputs[0].shape == ["batch", 4]


def test_a_data_set_is_read_as_it_was_written(engine):
    dataset_id = add_dataset(engine)
    with read_scope(engine) as session:
        dataset = Datasets(session).get(dataset_id)
        assert Datasets(session).page(limit=5, sha256="b" * 64) == ([dataset], None)
    assert (dataset.row_count, dataset.arrays[0].name) == (3, "inputs")


def test_a_file_is_one_model(engine):
    add_model(engine)
    with pytest.raises(IntegrityError):
        add_model(engine)


@pytest.mark.parametrize("state", list(JobState))
def test_inputs_are_in_use_until_the_job_has_ended(engine, state):
    model_id, train_id, test_id = (
        add_model(engine),
        add_dataset(engine),
        add_dataset(engine, sha256="e" * 64),
    )
    job = add_job(engine, model_id, data={"train": train_id, "test": test_id})
    put_in_state(engine, job.id, state)
    user = None if state.is_final else job.id
    with read_scope(engine) as session:
        assert Models(session).in_use_by(model_id) == user
        assert Datasets(session).in_use_by(train_id) == user
        assert Datasets(session).in_use_by(test_id) == user


def test_a_finished_job_outlives_its_model(engine):
    model_id = add_model(engine)
    job = add_job(engine, model_id)
    put_in_state(engine, job.id, JobState.FAILED)
    with session_scope(engine) as session:
        assert Models(session).lock(model_id) is not None
        Models(session).delete(model_id)
    with read_scope(engine) as session:
        assert Models(session).get(model_id) is None
        assert Jobs(session).get(job.id).model_id == model_id


def test_a_blob_goes_with_the_last_row_that_refers_to_it(engine, blobs):
    digest = put(blobs, [b"shared"])
    model_id = add_model(engine, sha256=digest)
    dataset_id = add_dataset(engine, sha256=digest)
    with session_scope(engine) as session:
        Models(session).delete(model_id)
    with session_scope(engine) as session:
        assert remove_unreferenced(session, blobs, [digest]) == []
    with session_scope(engine) as session:
        Datasets(session).delete(dataset_id)
    with session_scope(engine) as session:
        assert remove_unreferenced(session, blobs, [digest]) == [digest]
    assert not blobs.contains(digest)


def test_orphans_are_removed_when_they_are_old(engine, blobs):
    kept = put(blobs, [b"kept"])
    orphan = put(blobs, [b"orphan"])
    add_model(engine, sha256=kept)
    hour = timedelta(hours=1)
    for before, removed in ((-hour, []), (hour, [orphan])):
        with session_scope(engine) as session:
            now = datetime.now(UTC)
            assert remove_orphans(session, blobs, before=now + before) == removed
    assert list(blobs.digests()) == [kept]


def test_holding_a_digest_twice_in_one_transaction_is_no_deadlock(engine):
    with session_scope(engine) as session:
        hold(session, ["f" * 64, "0" * 64])
        hold(session, ["0" * 64, "f" * 64])
