"""What is tried again, and what is not; answers that are nobody's."""

import json

import pytest

from secateur.client import Client
from secateur.errors import ConnectionFailed, ProblemError, UnexpectedAnswer
from secateur.transport import Retries
from tests.client.answers import answer, answering
from tests.client.conftest import AT_ONCE

CAPABILITIES = json.dumps(
    {
        "version": "1",
        "spec_version": 1,
        "model_formats": [],
        "models": [],
        "precisions": [],
        "output_formats": [],
        "dataset_formats": [],
        "criteria": [],
        "algorithms": [],
        "aggregations": [],
        "normalizations": [],
        "schedules": [],
        "scopes": [],
        "granularities": [],
        "budgets": [],
        "minimize": [],
        "tasks": [],
        "latency_modes": [],
        "steps": [],
        "limits": {
            "model_bytes": 1,
            "dataset_bytes": 1,
            "page_size": 1,
            "wait_s": 1,
            "sweep_jobs": 1,
        },
        "a_field_of_a_newer_service": True,
    }
).encode()
PROBLEM = json.dumps(
    {
        "type": "/errors/job.not_found",
        "title": "There is no such job",
        "status": 404,
        "detail": "no job has the id 'job_1'",
        "instance": "/v1/jobs/job_1",
        "code": "job.not_found",
        "errors": [],
        "retryable": False,
        "request_id": "req_1",
    }
).encode()
OK = answer("200 OK", CAPABILITIES)
BUSY = answer("503 Service Unavailable", b"<html>", Retry_After="0")


@pytest.mark.parametrize("first", [b"", BUSY, answer("429 Too Many Requests"), b"HTTP/1.1 200 "])
def test_a_question_is_asked_again(first: bytes) -> None:
    with answering(first, OK) as script, Client(script.url, "key", retries=AT_ONCE) as client:
        assert client.capabilities().version == "1"
    assert len(script.requests) == 2


def test_it_is_not_asked_for_ever() -> None:
    with (
        answering(*[BUSY] * 4) as script,
        Client(script.url, "key", retries=AT_ONCE) as client,
        pytest.raises(UnexpectedAnswer, match="503"),
    ):
        client.capabilities()
    assert len(script.requests) == 4


def test_a_problem_is_an_answer() -> None:
    with (
        answering(answer("404 Not Found", PROBLEM)) as script,
        Client(script.url, "key", retries=AT_ONCE) as client,
        pytest.raises(ProblemError, match=r"no job has the id 'job_1' \(job.not_found\)") as caught,
    ):
        client.job("job_1")
    assert caught.value.code == "job.not_found"
    assert caught.value.status == 404
    assert len(script.requests) == 1


def test_a_deletion_whose_answer_was_lost_is_done() -> None:
    with (
        answering(b"", answer("404 Not Found", PROBLEM)) as script,
        Client(script.url, "key", retries=AT_ONCE) as client,
    ):
        client.delete("job_1")
    assert len(script.requests) == 2


def test_deleting_what_is_not_there_is_a_problem() -> None:
    with (
        answering(answer("404 Not Found", PROBLEM)) as script,
        Client(script.url, "key", retries=AT_ONCE) as client,
        pytest.raises(ProblemError),
    ):
        client.delete("job_1")


def test_a_job_asked_for_twice_has_one_key() -> None:
    spec = {
        "model_id": "mdl_1",
        "recipe": [{"step": "prune", "budget": {"macs": 0.5}}],
    }
    with (
        answering(b"", answer("404 Not Found", PROBLEM)) as script,
        Client(script.url, "key", retries=AT_ONCE) as client,
        pytest.raises(ProblemError),
    ):
        client.create_job(spec)
    keys = {
        line
        for request in script.requests
        for line in request.split(b"\r\n")
        if line.lower().startswith(b"idempotency-key")
    }
    assert len(script.requests) == 2
    assert len(keys) == 1


def test_an_upload_is_sent_again_from_its_beginning() -> None:
    content = b"x" * 3_000_000
    empty = answer("200 OK", b'{"data": [], "next_cursor": null}')
    with (
        answering(empty, BUSY, answer("404 Not Found", PROBLEM)) as script,
        Client(script.url, "key", retries=AT_ONCE) as client,
        pytest.raises(ProblemError),
    ):
        client.upload_dataset(content)
    assert [request.partition(b"\r\n\r\n")[2] for request in script.requests] == [
        b"",
        content,
        content,
    ]


def test_somebody_elses_page_is_shown() -> None:
    page = answer("200 OK", b"<html>It works!</html>")
    with (
        answering(page) as script,
        Client(script.url, "key", retries=AT_ONCE) as client,
        pytest.raises(UnexpectedAnswer, match=r"is the URL right.*It works!"),
    ):
        client.capabilities()


def test_nobody_there_is_said_with_the_url() -> None:
    with answering() as script:
        url = script.url
    with (
        Client(url, "key", retries=AT_ONCE) as client,
        pytest.raises(ConnectionFailed, match=url),
    ):
        client.capabilities()


def test_waits_double_up_to_a_limit() -> None:
    retries = Retries(first_wait_s=1, longest_wait_s=4)
    for number, longest in enumerate([1, 2, 4, 4, 4]):
        assert longest / 2 <= retries.wait_s(number) <= longest
