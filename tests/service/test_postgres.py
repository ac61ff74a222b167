"""The service on PostgreSQL: a whole life, with the locks that SQLite does not need."""

import threading

import pytest

from service.app import create_app
from tests.service.files import labeled_dataset_file, model_file
from tests.service.helpers import (
    NOTHING,
    assert_problem,
    kept,
    prune_spec,
    services_of,
    settings_in,
    sweep_spec,
)


@pytest.fixture
def app(tmp_path, postgres, messages):
    url = postgres.new_migrated_database()
    app = create_app(settings_in(tmp_path, database_url=url), messages=messages)
    yield app
    services_of(app).engine.dispose()


def at_once(count, call):
    """What the calls answer that are made at the same time."""
    barrier = threading.Barrier(count)
    answers = []

    def run():
        barrier.wait()
        answers.append(call())

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_a_whole_life(client, app, model_id, dataset_id):
    spec = prune_spec(model_id, data={"train": dataset_id, "test": dataset_id}, label="mine")
    headers = {"Idempotency-Key": "a-key"}
    first = client.post("/v1/jobs", json=spec, headers=headers)
    assert client.post("/v1/jobs", json=spec, headers=headers).content == first.content
    listed = client.get("/v1/jobs?label=mine&state=queued&limit=1").json()
    assert [job["id"] for job in listed["data"]] == [first.json()["id"]]
    assert_problem(client.delete(f"/v1/models/{model_id}"), 409, "model.in_use")
    client.post(f"{first.headers['location']}/cancel")
    for path in (f"/v1/models/{model_id}", f"/v1/datasets/{dataset_id}", first.headers["location"]):
        assert client.delete(path).status_code == 204
    assert kept(app) == NOTHING


def test_a_sweep_s_whole_life(client, app, model_id):
    headers = {"Idempotency-Key": "a-key"}
    answers = at_once(
        4, lambda: client.post("/v1/sweeps", json=sweep_spec(model_id), headers=headers)
    )
    assert {(answer.status_code, answer.content) for answer in answers} == {
        (202, answers[0].content)
    }
    path = answers[0].headers["location"]
    assert len(client.get(f"{path}/result").json()["rows"]) == 5
    assert_problem(client.delete(f"/v1/models/{model_id}"), 409, "model.in_use")
    at_once(4, lambda: client.post(f"{path}/cancel"))
    assert client.get("/v1/sweeps").json()["data"][0]["state"] == "canceled"
    assert client.delete(path).status_code == 204
    assert client.delete(f"/v1/models/{model_id}").status_code == 204
    assert kept(app) == NOTHING


@pytest.mark.parametrize("path", ["models/%00", "models/mdl_%00", "jobs/%F0%9F%90%88"])
def test_text_that_the_database_does_not_keep_is_no_id(client, path):
    assert client.get(f"/v1/{path}").status_code == 404


def test_a_spec_with_a_zero_in_a_pattern_is_kept(client, model_id):
    spec = prune_spec(model_id)
    spec["recipe"][0]["exclude"] = ["a\0b"]
    location = client.post("/v1/jobs", json=spec).headers["location"]
    assert client.get(location).json()["spec"]["recipe"][0]["exclude"] == ["a\0b"]


@pytest.mark.parametrize("query", ["jobs?label=%00", "jobs?model_id=%00"])
def test_text_that_the_database_does_not_keep_is_no_filter(client, query):
    assert_problem(client.get(f"/v1/{query}"), 422, "request.invalid")


def test_the_same_file_sent_at_once_is_one_model(client, app):
    answers = at_once(4, lambda: client.post("/v1/models", content=model_file()))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert kept(app).blobs == 1


def test_a_file_that_is_sent_while_it_is_deleted_is_whole_or_gone(client, app):
    content = labeled_dataset_file()
    for _ in range(5):
        path = client.post("/v1/datasets", content=content).headers["location"]
        deleting = threading.Thread(target=client.delete, args=(path,))
        deleting.start()
        answer = client.post("/v1/datasets", content=content)
        deleting.join()
        found = client.get(answer.headers["location"])
        assert services_of(app).blobs.contains(answer.json()["sha256"]) is (
            found.status_code == 200
        )


def test_a_job_and_the_deletion_of_its_model_exclude_each_other(client, model_id):
    deleting = threading.Thread(target=client.delete, args=(f"/v1/models/{model_id}",))
    deleting.start()
    answer = client.post("/v1/jobs", json=prune_spec(model_id))
    deleting.join()
    model = client.get(f"/v1/models/{model_id}")
    assert (answer.status_code, model.status_code) in {(202, 200), (422, 404)}
