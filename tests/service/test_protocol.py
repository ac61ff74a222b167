"""What a stranger can send before there is a request: answered, and never kept."""

import json
import socket

import pytest

from secateur.problems import Problem
from service import protocol
from tests.service.helpers import KEY


@pytest.fixture
def connection(app, switch):
    switch.app = app
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(switch.socket_path)
        yield connection


def answer(connection):
    """All that comes until the service hangs up: the status, and the body."""
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else None, body


@pytest.mark.parametrize(
    "sent",
    [
        b"PLEASE /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nIdempotency-Key: a\x00b\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /v1/models HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na",
        b"POST /v1/models HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    ],
)
def test_what_is_no_http_is_a_problem_too(connection, sent):
    connection.sendall(sent)
    status, body = answer(connection)
    assert (status, Problem.model_validate_json(body).code) == (400, "request.malformed")


@pytest.mark.parametrize("piece", [b"X-Header: " + b"a" * 1000 + b"\r\n", b"a" * 1000])
def test_a_head_without_end_is_not_kept(connection, piece):
    connection.sendall(b"GET /v1/models HTTP/1.1\r\nX: ")
    # The answer itself may be lost with the connection, as more was on its way.
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        connection.sendall(piece * 10_000)


def test_a_head_that_is_too_large_is_a_problem(connection):
    connection.sendall(b"GET /v1/models HTTP/1.1\r\n")
    connection.sendall(b"X: " + b"a" * protocol.HEAD_MAX_BYTES)
    status, body = answer(connection)
    assert status == 431
    assert json.loads(body)["code"] == "request.head_too_large"


def test_a_head_that_does_not_come_is_not_waited_for(connection, app, switch, monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_MAX_S", 0.01)
    with socket.socket(socket.AF_UNIX) as slow:
        slow.connect(switch.socket_path)
        assert answer(slow) == (None, b"")


def test_many_requests_at_once_are_no_large_head(connection):
    request = b"GET /healthz HTTP/1.1\r\nX: " + b"a" * (protocol.HEAD_MAX_BYTES // 2) + b"\r\n\r\n"
    connection.sendall(request * 4 + request.replace(b"X:", b"Connection: close\r\nX:"))
    status, body = answer(connection)
    assert status == 200
    assert body.count(b"200 OK") == 4


def test_a_large_body_is_no_large_head(connection):
    connection.sendall(
        b"POST /v1/models HTTP/1.1\r\nConnection: close\r\nHost: x\r\n"
        + f"Authorization: Bearer {KEY}\r\nContent-Length: 500000\r\n\r\n".encode()
    )
    for _ in range(500):
        connection.sendall(b"x" * 1000)
    assert answer(connection)[0] == 422
