"""What must be refused: each with its status and code, and with nothing left behind."""

import base64
import errno
import json
import socket
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.service.files import (
    dataset_file,
    model_file,
    other_zip_file,
    pickled_module_file,
    two_input_model_file,
)
from tests.service.helpers import (
    KEY,
    NOTHING,
    assert_problem,
    kept,
    prune_spec,
    repr_digest,
    services_of,
)

UNKNOWN = "0" * 24


def post_json(client, body, path="/v1/jobs"):
    """Send a body that no JSON library would write."""
    return client.post(path, content=body, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "model.not_an_archive"),
        (b"no zip at all", "model.not_an_archive"),
        (b"PK\x03\x04 and then nothing", "file.truncated"),
        (other_zip_file(), "model.not_an_archive"),
        (pickled_module_file(), "model.pickled"),
        (model_file()[:-100], "file.truncated"),
        (model_file()[: len(model_file()) // 2], "file.truncated"),
    ],
)
def test_a_file_that_is_no_exported_program_is_refused(client, app, content, code):
    assert_problem(client.post("/v1/models", content=content), 422, code)
    assert kept(app) == NOTHING


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1,2,3",
        model_file(),
        dataset_file(inputs=np.array([{}], dtype=object)),
        dataset_file(inputs=np.zeros((3, 2)), targets=np.zeros(2)),
        dataset_file(pictures=np.zeros((3, 2))),
    ],
)
def test_a_file_that_is_no_data_set_is_refused(client, app, content):
    assert_problem(client.post("/v1/datasets", content=content), 422, "dataset.unreadable")
    assert kept(app) == NOTHING


def test_a_file_that_arrives_changed_is_refused(client, app):
    headers = {"Repr-Digest": repr_digest(b"something else")}
    response = client.post("/v1/models", content=model_file(), headers=headers)
    assert assert_problem(response, 422, "upload.checksum").retryable
    assert kept(app) == NOTHING


@pytest.mark.parametrize("value", ["", "sha-256", "sha-256=abc", "sha-256=:YQ==:", "md5=:YQ==:"])
def test_a_digest_that_cannot_be_read_is_refused(client, app, value):
    response = client.post("/v1/models", content=model_file(), headers={"Repr-Digest": value})
    assert_problem(response, 400, "request.digest")
    assert kept(app) == NOTHING


@pytest.mark.parametrize("kind", ["models", "datasets"])
@pytest.mark.parametrize("is_announced", [True, False])
def test_a_file_that_is_too_large_is_refused(client, app, kind, is_announced):
    content = b"x" * (2 << 20)
    body = content if is_announced else iter([content[: 1 << 19]] * 4)
    assert_problem(client.post(f"/v1/{kind}", content=body), 413, "upload.too_large")
    assert kept(app) == NOTHING


def test_a_form_is_refused_with_what_to_send_instead(client, app):
    response = client.post("/v1/models", files={"file": model_file()})
    assert "octet-stream" in assert_problem(response, 415, "request.media_type").detail
    assert kept(app) == NOTHING


def test_an_unknown_format_is_refused(client):
    problem = assert_problem(
        client.post("/v1/models?format=tflite", content=b"x"), 422, "request.invalid"
    )
    assert problem.errors[0].pointer == "query:format"


@pytest.mark.parametrize("filename", ["../x", "a\\b", "a\x00b", "", "x" * 256])
def test_a_name_that_is_no_file_name_is_refused(client, filename):
    response = client.post("/v1/models", params={"filename": filename}, content=b"x")
    assert_problem(response, 422, "request.invalid")


def test_a_full_disk_is_said_to_be_full(client, app, monkeypatch):
    # The one thing that a test cannot have for real.
    def full(_chunk):
        raise OSError(errno.ENOSPC, "No space left on device")

    blobs = services_of(app).blobs
    make_writer = blobs.writer

    def writer():
        made = make_writer()
        made.write = full
        return made

    monkeypatch.setattr(blobs, "writer", writer)
    response = client.post("/v1/models", content=model_file())
    assert assert_problem(response, 507, "upload.no_space").retryable
    assert kept(app) == NOTHING


def test_a_disk_that_is_full_only_at_the_end_leaves_nothing(client, app, monkeypatch):
    # Small writes wait in a buffer; the kernel's own full device takes none of them.
    blobs = services_of(app).blobs
    make_writer = blobs.writer

    def writer():
        made = make_writer()
        made._file.close()
        made._file = Path("/dev/full").open("wb")  # noqa: SIM115 - The writer closes it.
        return made

    monkeypatch.setattr(blobs, "writer", writer)
    response = client.post("/v1/datasets", content=dataset_file(inputs=np.zeros((3, 2))))
    assert_problem(response, 507, "upload.no_space")
    assert kept(app) == NOTHING


def test_a_disk_that_takes_no_new_file_is_said_to_be_full(client, app, monkeypatch):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(services_of(app).blobs, "writer", full)
    assert_problem(client.post("/v1/models", content=model_file()), 507, "upload.no_space")


def test_an_upload_that_breaks_off_leaves_nothing(client, app, switch):
    # The request's end is known by its log record: nothing is sent to a client that is gone.
    ended = threading.Event()
    inner = switch.app

    async def watched(scope, receive, send):
        try:
            await inner(scope, receive, send)
        finally:
            ended.set()

    switch.app = watched
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(switch.socket_path)
        head = (
            f"POST /v1/models HTTP/1.1\r\nHost: service\r\nAuthorization: Bearer {KEY}\r\n"
            f"Content-Length: {len(model_file())}\r\n\r\n"
        )
        connection.sendall(head.encode() + model_file()[:1000])
    ended.wait()
    assert kept(app) == NOTHING


class TestSpecs:
    """Specs that are refused before a row is written."""

    @pytest.mark.parametrize(
        ("change", "pointer", "code"),
        [
            ({"recipe": []}, "/recipe", "too_short"),
            ({"recipe": [{"step": "melt"}]}, "/recipe/0", "union_tag_invalid"),
            ({"receipt": []}, "/receipt", "extra_forbidden"),
            ({"seed": -1}, "/seed", "greater_than_equal"),
            ({"model_id": None}, "/model_id", "string_type"),
            ({"recipe": [{"step": "recalibrate"}]}, "", "value_error"),
            ({"label": "a\x00b"}, "/label", "string_pattern_mismatch"),
        ],
    )
    def test_a_field_that_is_wrong_is_pointed_at(self, client, model_id, change, pointer, code):
        spec = prune_spec(model_id) | change
        problem = assert_problem(client.post("/v1/jobs", json=spec), 422, "request.invalid")
        assert [(each.pointer, each.code) for each in problem.errors] == [(pointer, code)]

    @pytest.mark.parametrize(
        ("step", "pointer"),
        [
            ({"criterion": "astrology"}, "/recipe/0/criterion"),
            ({"budget": {"channel_ratio": 1.5}}, "/recipe/0/budget/channel_ratio"),
            ({"budget": {"channel_ratio": 0}}, "/recipe/0/budget/channel_ratio"),
            ({"budget": {"channel_ratio": "much"}}, "/recipe/0/budget/channel_ratio"),
            ({"budget": {}}, "/recipe/0/budget"),
            ({"budget": {"channel_ratio": 0.5, "macs": 0.5}}, "/recipe/0/budget"),
            ({"channel_multiple": 0}, "/recipe/0/channel_multiple"),
        ],
    )
    def test_a_step_that_is_wrong_is_pointed_at(self, client, app, model_id, step, pointer):
        recipe = [{"step": "prune", "budget": {"channel_ratio": 0.5}, **step}]
        before = kept(app)
        response = client.post("/v1/jobs", json={"model_id": model_id, "recipe": recipe})
        problem = assert_problem(response, 422, "request.invalid")
        assert [each.pointer for each in problem.errors] == [pointer]
        assert kept(app) == before

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400", "1" * 400, "1" * 5000])
    def test_a_number_that_json_does_not_have_is_refused(self, client, model_id, number):
        body = json.dumps(prune_spec(model_id)).replace("0.5", number)
        assert_problem(post_json(client, body), 422, "request.invalid")

    def test_a_key_that_comes_twice_is_refused(self, client, model_id):
        body = json.dumps(prune_spec(model_id))[:-1] + ', "seed": 1, "seed": 2}'
        assert "twice" in assert_problem(post_json(client, body), 422, "request.invalid").detail

    @pytest.mark.parametrize("place", ["label", "model_id", "exclude", "train", "key", "step"])
    def test_half_a_character_is_refused_wherever_it_is(self, client, place):
        half = "\ud800"
        spec = prune_spec(f"mdl_{UNKNOWN}")
        step = spec["recipe"][0]
        change = {
            "label": {"label": half},
            "model_id": {"model_id": half},
            "exclude": {"recipe": [{**step, "exclude": [half]}]},
            "train": {"data": {"train": half}},
            "key": {half: 1},
            "step": {"recipe": [{"step": half}]},
        }[place]
        for path in ("/v1/jobs", "/v1/jobs/validate", "/v1/plans"):
            response = post_json(client, json.dumps({**spec, **change}), path)
            assert "surrogate" in assert_problem(response, 422, "request.invalid").detail

    def test_not_every_one_of_many_mistakes_is_listed(self, client):
        spec = {f"key_{number}": 1 for number in range(1000)}
        problem = assert_problem(client.post("/v1/jobs", json=spec), 422, "request.invalid")
        assert len(problem.errors) == 100

    def test_a_field_that_is_called_as_a_step_is_pointed_at(self, client, model_id):
        spec = prune_spec(model_id)
        spec["recipe"][0]["prune"] = 1
        problem = assert_problem(client.post("/v1/jobs", json=spec), 422, "request.invalid")
        assert [each.pointer for each in problem.errors] == ["/recipe/0/prune"]

    def test_ids_that_are_not_there_are_pointed_at(self, client, app):
        data = {"train": f"dst_{UNKNOWN}", "test": "nonsense"}
        spec = prune_spec(f"mdl_{UNKNOWN}", data=data)
        problem = assert_problem(client.post("/v1/jobs", json=spec), 422, "spec.unknown_id")
        assert [each.pointer for each in problem.errors] == [
            "/model_id",
            "/data/train",
            "/data/test",
        ]
        assert kept(app) == NOTHING

    @pytest.mark.parametrize("step", ["recalibrate", "finetune"])
    def test_a_step_without_its_data_is_pointed_at(self, client, model_id, step):
        spec = prune_spec(model_id)
        spec["recipe"].append({"step": step})
        problem = assert_problem(client.post("/v1/jobs", json=spec), 422, "data.missing")
        assert [each.pointer for each in problem.errors] == ["/recipe/1"]

    def test_a_step_without_its_labels_is_pointed_at(self, client, model_id):
        content = dataset_file(inputs=np.zeros((3, 1, 6, 6), np.float32))
        dataset_id = client.post("/v1/datasets", content=content).json()["id"]
        spec = prune_spec(model_id, data={"train": dataset_id})
        spec["recipe"].append({"step": "finetune"})
        problem = assert_problem(client.post("/v1/jobs", json=spec), 422, "data.missing")
        assert [each.pointer for each in problem.errors] == ["/recipe/1"]
        assert "targets" in problem.detail

    @pytest.mark.parametrize(
        ("arrays", "said"),
        [
            ({"inputs": np.zeros((3, 1, 6, 5), np.float32)}, ["[3, 1, 6, 5]", ", 1, 6, 6]"]),
            ({"inputs": np.zeros((3, 6, 6), np.float32)}, ["[3, 6, 6]", ", 1, 6, 6]"]),
            ({"inputs": np.zeros((3, 1, 6, 6), np.uint8)}, ["uint8", "float32"]),
            (
                {f"inputs_{i}": np.zeros((3, 1, 6, 6), np.float32) for i in range(2)},
                ["2 input arrays"],
            ),
        ],
    )
    @pytest.mark.parametrize("role", ["train", "test"])
    def test_data_that_does_not_fit_is_told_with_both_shapes(
        self, client, model_id, arrays, said, role
    ):
        dataset = client.post("/v1/datasets", content=dataset_file(**arrays)).json()
        spec = prune_spec(model_id, data={role: dataset["id"]})
        problem = assert_problem(client.post("/v1/jobs", json=spec), 422, "data.mismatch")
        assert [each.pointer for each in problem.errors] == [f"/data/{role}"]
        for words in said:
            assert words in problem.detail

    def test_a_model_of_two_inputs_needs_two_arrays(self, client):
        model = client.post("/v1/models", content=two_input_model_file()).json()
        one = dataset_file(inputs=np.zeros((3, 3), np.float32))
        two = dataset_file(**{f"inputs_{i}": np.zeros((3, 3), np.float32) for i in range(2)})
        statuses = []
        for content in (one, two):
            dataset = client.post("/v1/datasets", content=content).json()
            spec = prune_spec(model["id"], data={"test": dataset["id"]})
            statuses.append(client.post("/v1/jobs", json=spec).status_code)
        assert statuses == [422, 202]


def test_bodies_of_other_requests_have_a_limit_too(client):
    spec = b'{"model_id": "' + b"x" * (16 << 20) + b'"}'
    headers = {"Content-Type": "application/json"}
    for body in (spec, iter([spec])):
        response = client.post("/v1/jobs", content=body, headers=headers)
        problem = assert_problem(response, 413, "request.too_large")
        assert "of a plan, format_version, model_sha256" in problem.detail


@pytest.mark.parametrize("depth", [100, 900, 100_000])
def test_deeply_nested_json_is_refused(client, depth):
    body = b"[" * depth + b"]" * depth
    assert_problem(post_json(client, body, "/v1/jobs/validate"), 422, "request.invalid")


@pytest.mark.parametrize(
    "body", [b"{", b"\xff", b'"\\ud800"', b"null", b"[]", b"", "{}".encode("utf-16")]
)
def test_a_body_that_is_no_spec_is_refused(client, body):
    assert_problem(post_json(client, body), 422, "request.invalid")


def test_a_digest_in_base64_with_a_line_break_is_refused(client):
    value = f"sha-256=:{base64.b64encode(b'x' * 32).decode()[:-1]}:"
    response = client.post("/v1/models", content=b"x", headers={"Repr-Digest": value})
    assert_problem(response, 400, "request.digest")
