"""Stands for what may be between a client and a service: it answers as it was told to."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Script:
    """Answers to give, one for each connection, and the requests that came."""

    answers: list[bytes]
    url: str = ""
    requests: list[bytes] = field(default_factory=list)


@contextmanager
def answering(*answers: bytes) -> Iterator[Script]:
    """Serve these answers in turn, byte for byte. Empty: hang up without a word."""
    script = Script(list(answers))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        script.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=_serve, args=(listener, script))
        thread.start()
        try:
            yield script
        finally:
            # The answers that nobody asked for: the thread must not wait for ever.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def answer(status: str, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _serve(listener: socket.socket, script: Script) -> None:
    for reply in script.answers:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            script.requests.append(_request(connection))
            connection.sendall(reply)
    listener.close()  # Who comes now is refused, and need not wait.


def _request(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body
