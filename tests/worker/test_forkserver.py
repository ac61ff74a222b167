"""Child processes and those who start them: nobody outlives whom it should not."""

import json
import os
import selectors
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from secateur.spec import JobSpec
from tests.worker import programs
from tests.worker.processes import Watched
from worker.launch import Launcher, LaunchError
from worker.order import ORDER_FILE, OUTPUT_FOLDER, InputFile, Order

# Stands for a worker: starts a child, says which, and waits.
PARENT = """
import sys, threading
from pathlib import Path
from worker.launch import Launcher
child = Launcher([]).start(Path(sys.argv[1]))
line = open(child.events).readline()
print(child.pid, line, flush=True)
threading.Event().wait()
"""


@pytest.fixture
def order(tmp_path: Path) -> Path:
    """A folder with an order for a child that hangs, and starts another that hangs."""
    return write_order(tmp_path, programs.hang_with_offspring)


def write_order(folder: Path, program) -> Path:
    (folder / OUTPUT_FOLDER).mkdir()
    recipe = [{"step": "prune", "budget": {"channel_ratio": 0.5}}]
    order = Order(
        job_id="job_1",
        attempt=1,
        function=f"{programs.HERE}:{program.__name__}",
        spec=JobSpec.model_validate({"model_id": "mdl_1", "recipe": recipe}),
        model=InputFile(path=folder / "model", sha256="0" * 64),
        train=None,
        test=None,
        device="cpu",
        memory_bytes=2**36,
        file_bytes=2**30,
        cpu_s=60,
    )
    (folder / ORDER_FILE).write_text(order.model_dump_json())
    return folder


def test_when_the_worker_is_killed_its_children_are_gone(order: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, order], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid, step = parent.stdout.readline().split(" ", 1)
        offspring = json.loads(step)["progress"]["done"]
        watched = [Watched(int(pid)), Watched(offspring)]
        parent.kill()
    assert all(each.has_ended() for each in watched)


def test_when_the_fork_server_is_killed_its_children_are_gone(
    launcher: Launcher, order: Path
) -> None:
    child = launcher.start(order)
    with os.fdopen(child.events) as events:
        events.readline()
        watched = Watched(child.pid)
        assert launcher._server is not None
        launcher._server.kill()
        assert watched.has_ended()
        assert child.exit_code() is None
    os.close(child.status)


def test_a_killed_fork_server_is_replaced(launcher: Launcher, tmp_path: Path) -> None:
    launcher.warm_up()
    server = launcher._server
    assert server is not None
    server.kill()
    server.wait()
    child = launcher.start(write_order(tmp_path, programs.refuse))
    assert child.exit_code() == 0
    child.close()
    assert launcher._server is not server


def test_children_of_one_server_run_side_by_side(launcher: Launcher, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first = launcher.start(write_order(tmp_path / "one", programs.hang))
    second = launcher.start(write_order(tmp_path / "two", programs.hang))
    with selectors.DefaultSelector() as selector:
        for child in (first, second):
            selector.register(child.status, selectors.EVENT_READ)
        second.signal(signal.SIGKILL)
        assert [key.fd for key, _ in selector.select()] == [second.status]
    first.signal(signal.SIGTERM)
    assert second.exit_code() == -signal.SIGKILL
    assert first.exit_code() == -signal.SIGTERM
    first.signal(signal.SIGKILL)  # And nothing happens.
    for child in (first, second):
        child.close()


def test_an_engine_that_cannot_be_imported_is_known_at_once() -> None:
    with pytest.raises(LaunchError):
        Launcher(["worker.no_such_module"]).warm_up()
