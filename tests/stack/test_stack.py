"""The whole stack: up, down, and whatever happens in between."""

import json
import os
import signal
import socket
import stat
import sys
import urllib.request
from pathlib import Path

from tests.stack.processes import Family, named, started

LOOK = """
import json, os, signal, sys, threading, urllib.request as r
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
request = r.Request(
    os.environ["SECATEUR_URL"] + "/v1/capabilities",
    headers={"Authorization": "Bearer " + os.environ["SECATEUR_API_KEY"]},
)
with r.urlopen(request) as response:
    print(json.dumps({"status": response.status, "folder": os.getcwd()}), flush=True)
threading.Event().wait()
"""


def test_a_command_finds_the_service_hears_signals_and_gives_its_exit_code(
    tmp_path: Path,
) -> None:
    """In a folder with a path that is too long for a socket, too."""
    data = tmp_path / ("long" * 25)
    with started("--data", data, "--", sys.executable, "-c", LOOK) as process:
        assert process.stdout is not None
        seen = json.loads(process.stdout.readline())
        family = Family(process.pid)
        assert len(family) >= 6  # The stack, broker, service, worker, its fork server, the command.
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 5
    assert seen["status"] == 200
    assert family.survivors() == []


def test_it_serves_goes_on_without_a_worker_and_leaves_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with started("--data", data) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().split()[-1]
        with urllib.request.urlopen(f"{url}/readyz") as response:
            assert response.status == 200
        key = data / "api-key"
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert f"SECATEUR_API_KEY={key.read_text().strip()}" in read_until(process.stdout, "KEY")
        first = named(process.pid, "worker")
        os.kill(first, signal.SIGKILL)
        read_until(process.stderr, "starting another")
        assert named_once_up(process.pid) != first
        family = Family(process.pid)
        process.kill()
        assert family.survivors() == []
    # What was left behind does not keep the next one from starting; the key is the same.
    with started("--data", data) as process:
        assert process.stdout is not None
        assert key.read_text().strip() in read_until(process.stdout, "KEY")
        family = Family(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0
        assert family.survivors() == []


def test_a_part_that_does_not_start_is_shown_with_its_last_words(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with started("--data", tmp_path, environment={"SECATEUR_PORT": port}) as process:
            output, errors = process.communicate()
    assert process.returncode == 1
    assert output == ""
    assert "the service ended with exit code" in errors
    assert "address already in use" in errors


def test_a_stack_that_is_interrupted_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    with started("--data", tmp_path, "--", "true") as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait() == 128 + signal.SIGINT
    assert named_nowhere(tmp_path)


def test_a_command_that_is_none_is_said_to_be(tmp_path: Path) -> None:
    with started("--data", tmp_path, "--", "no-such-command") as process:
        _, errors = process.communicate()
    assert process.returncode == 1
    assert "no such command: no-such-command" in errors


def read_until(stream, part: str) -> str:
    for line in stream:
        if part in line:
            return line
    raise AssertionError(f"nothing said {part!r}")


def named_once_up(pid: int) -> int:
    while True:
        try:
            return named(pid, "worker")
        except LookupError:  # It is not itself yet: `stack.bound` is about to become it.
            continue


def named_nowhere(data: Path) -> bool:
    """Whether no process works on this data folder."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                environment = (folder / "environ").read_bytes()
            except OSError:
                continue
            if f"SECATEUR_DATA_DIR={data}".encode() in environment:
                return False
    return True
