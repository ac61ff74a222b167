"""Formats of models over HTTP: taken, refused, and what workers make of them."""

import io
import zipfile
from datetime import timedelta

import pytest

from secateur.models import ModelFormat
from service.clock import now
from store.session import session_scope
from store.workers import Workers
from tests.formats.checkpoints import RESNET, WEIGHT, safetensors, write
from tests.service.helpers import NOTHING, assert_problem, kept, prune_spec, services_of


@pytest.fixture
def weights(client, tmp_path):
    """The id of a model that only some workers read."""
    path = write(tmp_path / "m.zip", w__safetensors=safetensors(WEIGHT), architecture__json=RESNET)
    return upload(client, "safetensors", path.read_bytes()).json()["id"]


def upload(client, model_format, content):
    return client.post("/v1/models", params={"format": model_format}, content=content)


def worker(app, *formats, for_s=60):
    with session_scope(services_of(app).engine) as session:
        until = now() + timedelta(seconds=for_s)
        Workers(session).alive("wrk_1", formats, now=now(), until=until)


def test_what_the_file_does_not_tell_is_null(client, weights):
    model = client.get(f"/v1/models/{weights}").json()
    assert model["format"] == "safetensors"
    assert (model["inputs"], model["outputs"]) == (None, None)
    assert model["parameter_count"] == 6


def test_a_model_that_no_worker_reads_is_refused_with_what_to_do(client, app, weights, messages):
    worker(app, ModelFormat.PT2)
    spec = prune_spec(weights)
    problem = assert_problem(client.post("/v1/jobs", json=spec), 422, "model.no_worker")
    assert problem.retryable
    assert problem.errors[0].pointer == "/model_id"
    assert "torch.export.save(" in problem.detail
    assert "the extra [architectures]" in problem.detail
    assert not client.post("/v1/jobs/validate", json=spec).json()["valid"]
    sweep = {
        "model_id": weights,
        "grid": {"criteria": ["magnitude"], "budgets": [{"macs": 0.5}]},
    }
    assert_problem(client.post("/v1/sweeps", json=sweep), 422, "model.no_worker")
    assert messages.sent == []
    worker(app, ModelFormat.SAFETENSORS)
    assert client.post("/v1/jobs", json=spec).status_code == 202


def test_a_worker_that_has_gone_is_not_counted_on(client, app, weights):
    worker(app, ModelFormat.SAFETENSORS, for_s=-1)
    assert_problem(client.post("/v1/jobs", json=prune_spec(weights)), 422, "model.no_worker")


def test_capabilities_say_what_is_available(client, app):
    worker(app, ModelFormat.PT2, ModelFormat.SAVED_MODEL)
    said = {each["name"]: each for each in client.get("/v1/capabilities").json()["models"]}
    assert [name for name, each in said.items() if each["is_available"]] == ["pt2", "saved_model"]
    assert all(each["summary"] for each in said.values())


@pytest.mark.parametrize("output", ["keras", "transformers"])
def test_a_format_that_the_upload_does_not_lead_to_is_refused(client, model_id, output):
    spec = prune_spec(model_id, output_formats=["pt2", output])
    problem = assert_problem(client.post("/v1/jobs", json=spec), 422, "output.unavailable")
    assert problem.errors[0].pointer == "/output_formats/1"
    assert "choose among pt2, safetensors, onnx, aotinductor" in problem.detail
    assert client.post("/v1/jobs/validate", json=spec).json()["problems"]


def test_formats_are_kept_in_one_order(client, model_id):
    one, other = (
        client.post("/v1/jobs", json=prune_spec(model_id, output_formats=formats)).json()
        for formats in (["onnx", "pt2"], ["pt2", "onnx"])
    )
    assert one["spec"]["output_formats"] == ["pt2", "onnx"]
    assert one["spec_sha256"] == other["spec_sha256"]
    twice = prune_spec(model_id, output_formats=["onnx", "onnx"])
    problem = assert_problem(client.post("/v1/jobs", json=twice), 422, "request.invalid")
    assert "each format once" in problem.detail


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return file.getvalue()


@pytest.mark.parametrize("model_format", list(ModelFormat))
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"\x80\x02cposix\nsystem\n",
        b"\x89HDF\r\n\x1a\n" + b"\xff" * 100,
        b"\x08\x0a" * 1000,
        b"\x1f\x8b\x08" + bytes(50),
        zipped(a__txt="x"),
        zipped(**{"archive/data__pkl": "x", "archive/constants__pkl": "x"}),
        zipped(config__json="{", metadata__json="{}", model__weights__h5="x"),
        zipped(saved_model__pb="x"),
        zipped(model__onnx="x"),
    ],
)
def test_garbage_is_refused_as_every_format_and_nothing_is_left(client, app, model_format, content):
    response = upload(client, model_format, content)
    assert response.status_code == 422, response.text
    problem = assert_problem(response, 422, response.json()["code"])
    assert problem.code.startswith(("file.", "model."))
    assert len(problem.detail) < 1000
    assert kept(app) == NOTHING
