"""`python -m service`, as it is started, with a real broker: what only a process can show."""

import hashlib
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import valkey

from secateur.jobs import Progress, Stage
from secateur.messages import job_channel
from store.jobs import Jobs
from store.session import make_engine, session_scope
from store.settings import StoreSettings
from tests.service.files import model_file
from tests.service.helpers import KEY, assert_problem, prune_spec, repr_digest, sweep_spec

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, sqlite_template):
    folder = tmp_path_factory.mktemp("served")
    shutil.copy(sqlite_template, folder / "secateur.db")
    return folder


@pytest.fixture(scope="module")
def broker_url(valkey_socket):
    return f"redis+socket://{valkey_socket}"


@pytest.fixture(scope="module")
def service(folder, broker_url):
    """The process, and what it said when it was ready."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONWARNINGS": "error",
        "SECATEUR_DATA_DIR": str(folder),
        "SECATEUR_BROKER_URL": broker_url,
        "SECATEUR_API_KEYS": f"sha256:{hashlib.sha256(KEY.encode()).hexdigest()}",
        "SECATEUR_PORT": "0",
        "SECATEUR_URL_FILE": str(folder / "url"),
        "SECATEUR_MODEL_MAX_BYTES": str(1 << 20),
        "SECATEUR_SHUTDOWN_GRACE_S": "1",
    }
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "service"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            yield process.stdout.readline()
        finally:
            process.terminate()
            assert process.wait() in (0, -15)


@pytest.fixture
def client(service, folder):
    url = (folder / "url").read_text()
    assert service == f"secateur.service.ready url={url}\n"
    headers = {"Authorization": f"Bearer {KEY}"}
    # No limit of the client's own: what hangs is ended by the test run.
    with httpx.Client(base_url=url, headers=headers, timeout=None) as client:
        yield client


@pytest.fixture
def engine(folder):
    engine = make_engine(StoreSettings(data_dir=folder))
    yield engine
    engine.dispose()


@pytest.fixture
def announce(valkey_socket):
    """Announce as a worker does."""
    with valkey.Valkey(unix_socket_path=valkey_socket) as server:
        yield lambda job_id: server.publish(job_channel(job_id), "changed")


@pytest.fixture
def path(client):
    model = client.post(
        "/v1/models",
        content=model_file(),
        headers={"Repr-Digest": repr_digest(model_file())},
    ).json()
    return client.post("/v1/jobs", json=prune_spec(model["id"])).headers["location"]


@pytest.fixture
def wait_for(client, valkey_socket):
    """Make a request that waits, and return when it listens: what comes then is news to it."""

    def start(path, **headers):
        channel = job_channel(path.rsplit("/", 1)[1])
        with (
            valkey.Valkey(unix_socket_path=valkey_socket) as server,
            server.monitor() as monitor,
        ):
            waiting = executor.submit(client.get, path, params={"wait": 60}, headers=headers)
            while next(monitor.listen())["command"] != f"SUBSCRIBE {channel}":
                pass
        return waiting

    with ThreadPoolExecutor() as executor:
        yield start


def test_the_service_is_ready(client):
    assert client.get("/readyz").status_code == 200


def test_a_request_that_waits_is_woken_by_the_end(client, path, wait_for):
    waiting = wait_for(path)
    client.post(f"{path}/cancel")
    assert waiting.result().json()["state"] == "canceled"


def test_a_request_that_waits_for_any_change_is_woken_by_progress(
    client, path, engine, announce, wait_for
):
    job_id = path.rsplit("/", 1)[1]
    with session_scope(engine) as session:
        Jobs(session).claim(job_id, NOW)
    waiting = wait_for(path, **{"If-None-Match": client.get(path).headers["etag"]})
    announce(job_id)  # Of nothing: the request goes on waiting.
    with session_scope(engine) as session:
        progress = Progress(done=1, total=2, unit="epochs")
        Jobs(session).beat(job_id, attempt=1, now=NOW, stage=Stage.RECOVERING, progress=progress)
    announce(job_id)
    assert waiting.result().json()["progress"] == progress.model_dump()


def test_a_request_that_waits_for_a_sweep_is_woken_by_a_change_of_a_job(client, path, wait_for):
    model_id = client.get(path).json()["model_id"]
    sweep = client.post("/v1/sweeps", json=sweep_spec(model_id)).json()
    sweep_path = f"/v1/sweeps/{sweep['id']}"
    waiting = wait_for(sweep_path, **{"If-None-Match": client.get(sweep_path).headers["etag"]})
    client.post(f"/v1/jobs/{sweep['children'][1]['job_id']}/cancel")
    assert waiting.result().json()["counts"]["canceled"] == 1
    waiting = wait_for(sweep_path)
    client.post(f"{sweep_path}/cancel")
    assert waiting.result().json()["state"] == "canceled"


def test_a_request_that_waits_for_a_deleted_job_hears_that_it_is_gone(client, path):
    client.post(f"{path}/cancel")
    client.delete(path)
    assert_problem(client.get(path, params={"wait": 60}), 404, "job.not_found")


def test_a_job_that_has_ended_is_answered_without_waiting(client, path):
    client.post(f"{path}/cancel")
    assert client.get(path, params={"wait": 60}).json()["state"] == "canceled"


def test_a_refusal_is_read_by_a_client_that_is_still_sending(client):
    content = b"x" * (8 << 20)
    assert_problem(client.post("/v1/models", content=content), 413, "upload.too_large")
    assert_problem(client.post("/v1/models", content=iter([content])), 413, "upload.too_large")


def test_the_log_has_no_key(client, folder):
    client.get("/v1/models")
    line = "secateur.service.request method=GET path=/v1/models status=200"
    while line not in (log := (folder / "log").read_text()):
        time.sleep(0.01)  # The line is written once the answer is out.
    assert KEY not in log
