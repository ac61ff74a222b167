"""Downloads: whole, in part, and not at all where the caller has it."""

import hashlib

import pytest

from service.conditions import ByteRange, Unsatisfiable, requested_range
from tests.service.helpers import assert_problem, prune_spec, repr_digest, services_of
from tests.service.test_jobs import finish, work  # noqa: F401 - `work` is a fixture.

CONTENT = bytes(range(256)) * 20_000
ETAG = f'"{hashlib.sha256(CONTENT).hexdigest()}"'


@pytest.fixture
def path(client, app, model_id, work):  # noqa: F811 - The fixture.
    job_id = client.post("/v1/jobs", json=prune_spec(model_id)).json()["id"]
    finish(app, work, job_id, files={"model.pt2": CONTENT, 'odd"\r\nname': b""})
    artifacts = client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]
    [artifact_id] = [each["id"] for each in artifacts if each["name"] == "model.pt2"]
    return f"/v1/artifacts/{artifact_id}"


def test_a_job_lists_what_it_made(client, path):
    job_id = client.get("/v1/jobs").json()["data"][0]["id"]
    listed = client.get(f"/v1/jobs/{job_id}/artifacts").json()
    [_, model] = sorted(listed["data"], key=lambda each: each["size_bytes"])
    assert (model["name"], model["size_bytes"]) == ("model.pt2", len(CONTENT))
    assert f'"{model["sha256"]}"' == ETAG
    assert listed["next_cursor"] is None


def test_the_whole_comes_with_its_digest(client, path):
    response = client.get(path)
    assert (response.status_code, response.content) == (200, CONTENT)
    headers = response.headers
    assert headers["etag"] == ETAG
    assert headers["repr-digest"] == repr_digest(CONTENT)
    assert headers["accept-ranges"] == "bytes"
    assert headers["content-disposition"] == 'attachment; filename="model.pt2"'
    assert "immutable" in headers["cache-control"]
    assert "private" in headers["cache-control"]


def test_head_has_the_same_headers_and_no_body(client, path):
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    ignored = {"date", "x-request-id"}
    assert {k: v for k, v in head.headers.items() if k not in ignored} == {
        k: v for k, v in got.headers.items() if k not in ignored
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-9", CONTENT[:10]),
        ("bytes=5-5", CONTENT[5:6]),
        ("bytes=100-", CONTENT[100:]),
        ("bytes=-7", CONTENT[-7:]),
        ("bytes=0-99999999999", CONTENT),
        ("bytes=-99999999999", CONTENT),
        ("Bytes=1-2", CONTENT[1:3]),
    ],
)
def test_a_part_comes_as_a_part(client, path, value, expected):
    response = client.get(path, headers={"Range": value})
    assert (response.status_code, response.content) == (206, expected)
    unit, _, place = response.headers["content-range"].partition(" ")
    first, last = place.partition("/")[0].split("-")
    assert unit == "bytes"
    assert CONTENT[int(first) : int(last) + 1] == expected
    assert place.endswith(f"/{len(CONTENT)}")
    assert int(response.headers["content-length"]) == len(expected)
    assert response.headers["repr-digest"] == repr_digest(CONTENT)


@pytest.mark.parametrize(
    "value", ["bytes=5-1", "bytes=a-b", "bytes=", "bytes=-", "rows=0-1", "bytes=0-1,4-5", "x"]
)
def test_what_is_no_single_range_gets_the_whole(client, path, value):
    response = client.get(path, headers={"Range": value})
    assert (response.status_code, response.content) == (200, CONTENT)


@pytest.mark.parametrize("value", [f"bytes={len(CONTENT)}-", "bytes=99999999999-", "bytes=-0"])
def test_a_part_outside_of_the_file_is_refused(client, path, value):
    response = client.get(path, headers={"Range": value})
    assert_problem(response, 416, "request.range")
    assert response.headers["content-range"] == f"bytes */{len(CONTENT)}"


@pytest.mark.parametrize(
    ("if_range", "status"), [(ETAG, 206), ('"other"', 200), ("W/" + ETAG, 200)]
)
def test_a_part_of_another_version_is_not_mixed_in(client, path, if_range, status):
    response = client.get(path, headers={"Range": "bytes=0-1", "If-Range": if_range})
    assert response.status_code == status


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("value", [ETAG, "*", f'"x", W/{ETAG}'])
def test_what_the_caller_has_is_not_sent(client, path, method, value):
    response = client.request(method, path, headers={"If-None-Match": value})
    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == ETAG


def test_a_download_that_broke_off_is_completed(client, path):
    half = len(CONTENT) // 2
    first = client.get(path, headers={"Range": f"bytes=0-{half - 1}"})
    second = client.get(
        path, headers={"Range": f"bytes={half}-", "If-Range": first.headers["etag"]}
    )
    assert first.content + second.content == CONTENT


def test_a_name_that_would_break_the_header_does_not(client, path):
    job_id = client.get("/v1/jobs").json()["data"][0]["id"]
    artifacts = client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]
    [odd] = [each for each in artifacts if each["name"].startswith("odd")]
    response = client.get(f"/v1/artifacts/{odd['id']}")
    assert response.headers["content-disposition"] == 'attachment; filename="odd___name"'
    assert response.content == b""


def test_an_artifact_that_is_deleted_while_it_is_looked_up_is_not_found(
    client, app, path, monkeypatch
):
    services = services_of(app)
    look_up = services.blobs.open

    def delete_then_open(digest):
        client.delete(f"/v1/jobs/{services.jobs.artifact(path.rsplit('/', 1)[1]).job_id}")
        return look_up(digest)

    monkeypatch.setattr(services.blobs, "open", delete_then_open)
    assert_problem(client.get(path), 404, "artifact.not_found")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_unknown_artifact_is_not_found(client, method):
    response = client.request(method, f"/v1/artifacts/art_{'0' * 24}")
    if method == "GET":
        assert_problem(response, 404, "artifact.not_found")
    else:
        assert (response.status_code, response.content) == (404, b"")


def test_every_range_is_right_on_a_small_file():
    size = 5
    for first in [None, *range(7)]:
        for last in [None, *range(7)]:
            header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
            asked = {
                (True, True): None,
                (True, False): range(max(0, size - (last or 0)), size),
                (False, True): range(first or 0, size),
                (False, False): range(first or 0, min((last or 0) + 1, size)),
            }[first is None, last is None]
            is_backward = first is not None and last is not None and last < first
            try:
                found = requested_range(header, if_range=None, etag='"x"', size_bytes=size)
            except Unsatisfiable:
                assert asked is not None
                assert len(asked) == 0
            else:
                expected = None if asked is None or is_backward else asked
                assert found == (expected and ByteRange(expected.start, expected.stop))
