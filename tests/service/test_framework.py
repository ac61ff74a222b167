"""What happens around every request: ids, logs, and errors that the framework would answer."""

import logging
import sqlite3

import pytest

from secateur.models import ModelFormat
from secateur.objective import Task
from secateur.outputs import OutputFormat
from service.logs import FieldFormatter
from tests.service.helpers import assert_problem, prune_spec, services_of


def test_an_unknown_path_is_a_problem(client):
    assert_problem(client.get("/v1/nothing"), 404, "route.not_found")
    assert_problem(client.get("/"), 404, "route.not_found")
    assert_problem(client.get("/v1/models/"), 404, "route.not_found")


def test_a_wrong_method_is_a_problem_that_names_the_right_ones(client):
    response = client.put("/v1/models")
    assert_problem(response, 405, "request.method")
    assert set(response.headers["allow"].split(", ")) == {"GET", "POST"}


def test_a_wrong_method_on_the_framework_s_own_routes_is_a_problem_too(client):
    response = client.put("/openapi.json")
    assert_problem(response, 405, "request.method")
    assert response.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/plans", "/v1/jobs/validate", "/v1/sweeps"])
def test_a_body_that_is_not_called_json_is_a_problem(client, path):
    for content_type in ("text/plain", "application/x-www-form-urlencoded"):
        response = client.post(path, content=b"a=b", headers={"Content-Type": content_type})
        assert_problem(response, 415, "request.media_type")


def test_a_missing_body_is_a_problem(client):
    assert_problem(client.post("/v1/jobs"), 422, "request.invalid")


def test_what_nobody_expected_tells_nothing_of_its_inside(client, app, monkeypatch, caplog):
    def break_down(*_args, **_named):
        raise RuntimeError("a password, a path")

    monkeypatch.setattr("service.files.ModelService.repository", break_down)
    response = client.get("/v1/models")
    problem = assert_problem(response, 500, "internal")
    assert "password" not in response.text
    [record] = [each for each in caplog.records if each.msg == "secateur.service.failed"]
    assert record.request_id == problem.request_id


@pytest.mark.parametrize("request_id", ["abc-123", "trace.7:9/x+y=", "x" * 128])
def test_a_request_id_is_kept(client, request_id):
    response = client.get("/healthz", headers={"X-Request-Id": request_id})
    assert response.headers["x-request-id"] == request_id


@pytest.mark.parametrize("request_id", ["", "a b", "x" * 129, "a\tb", '"><script>'])
def test_a_request_id_that_is_none_is_replaced(client, request_id):
    response = client.get("/healthz", headers={"X-Request-Id": request_id})
    assert response.headers["x-request-id"].startswith("req_")


def test_each_request_is_one_line_of_fields(client, caplog):
    caplog.set_level(logging.INFO)
    client.get("/v1/models?limit=0", headers={"X-Request-Id": "mine"})
    [record] = [each for each in caplog.records if each.msg == "secateur.service.request"]
    line = FieldFormatter().format(record)
    assert " INFO secateur.service.request method=GET path=/v1/models status=422" in line
    assert line.endswith(" request_id=mine")


def test_a_value_cannot_look_like_another_line():
    record = logging.makeLogRecord({"msg": "event", "levelname": "INFO", "path": "/a\nb c=d"})
    assert FieldFormatter().format(record).endswith(r' INFO event path="/a\nb c=d"')


def test_a_value_cannot_look_like_another_field():
    record = logging.makeLogRecord(
        {"msg": "event", "levelname": "INFO", "path": '/a" status=200 x="\x7fé'}
    )
    assert (
        FieldFormatter()
        .format(record)
        .endswith(r' INFO event path="/a\" status=200 x=\"\u007f\u00e9"')
    )


class TestDatabase:
    """A database that does not answer is the service's state, not a defect of it."""

    def test_a_lock_that_others_keep_is_said_to_pass(self, client, tmp_path, model_id):
        with sqlite3.connect(tmp_path / "secateur.db", isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            refused = client.post("/v1/jobs", json=prune_spec(model_id))
            assert client.get("/v1/jobs").json()["data"] == []
            other.execute("ROLLBACK")
        other.close()
        assert "database" in assert_problem(refused, 503, "service.not_ready").detail
        assert "retry-after" in refused.headers
        assert client.post("/v1/jobs", json=prune_spec(model_id)).status_code == 202

    def test_a_database_without_tables_tells_no_statement(self, client, app, caplog):
        with services_of(app).engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE artifacts")
            connection.exec_driver_sql("DROP TABLE jobs")
        response = client.get("/v1/jobs?label=a-secret")
        assert_problem(response, 503, "service.not_ready")
        [record] = [each for each in caplog.records if each.msg.endswith("database_failed")]
        assert "no such table" in str(record.error)
        assert "secret" not in FieldFormatter().format(record)


def test_the_service_says_what_it_can_do(client, app):
    said = client.get("/v1/capabilities").json()
    assert said["model_formats"] == list(ModelFormat)
    assert {each["name"]: each["is_available"] for each in said["models"]} == dict.fromkeys(
        ModelFormat, False
    )
    assert {each["name"] for each in said["output_formats"]} == set(OutputFormat)
    assert {"magnitude", "random"} <= {each["name"] for each in said["criteria"]}
    assert {"prune", "recalibrate", "finetune"} <= {each["name"] for each in said["steps"]}
    budgets = {each["name"]: each for each in said["budgets"]}
    assert {"channel_ratio", "macs", "latency", "accuracy", "loss"} <= set(budgets)
    assert all(each["summary"] for each in said["budgets"])
    assert budgets["accuracy"]["needs_labels"]
    assert not budgets["latency"]["needs_data"]
    assert {each["name"] for each in said["tasks"]} == set(Task)
    assert said["minimize"] == ["macs", "parameters", "bytes", "latency"]
    assert said["latency_modes"] == ["eager", "compiled"]
    assert said["limits"]["model_bytes"] == services_of(app).settings.model_max_bytes


def test_the_schema_of_a_spec_is_published(client):
    schema = client.get("/v1/schemas/job-spec").json()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["required"]) == {"model_id", "recipe"}


def test_the_version_is_the_packages(client):
    info = client.get("/openapi.json").json()["info"]
    assert client.get("/version").json() == {"version": info["version"]}


class TestReadiness:
    def test_a_service_that_works_is_ready(self, client):
        assert client.get("/readyz").json() == {"status": "ok"}

    def test_a_broken_blob_folder_is_named(self, client, app):
        (services_of(app).settings.blob_dir / "unfinished").rmdir()
        assert "blobs" in assert_problem(client.get("/readyz"), 503, "service.not_ready").detail

    def test_a_database_that_was_not_migrated_is_named(self, client, app):
        with services_of(app).engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM alembic_version")
        assert "database" in assert_problem(client.get("/readyz"), 503, "service.not_ready").detail

    def test_a_broker_that_does_not_answer_is_named(self, client, messages, monkeypatch):
        def refuse():
            raise ConnectionRefusedError

        monkeypatch.setattr(messages, "check", refuse)
        problem = assert_problem(client.get("/readyz"), 503, "service.not_ready")
        assert "broker" in problem.detail
