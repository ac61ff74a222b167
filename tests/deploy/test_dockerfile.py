"""The images, as far as they can be tried without Docker: laid out in a folder, and started."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from store.migrate import migrate_to_head
from tests.deploy.images import DOCKERFILE, ROOT, Image, images

IMAGES = ("service", "worker")
READY = {"service": "secateur.service.ready", "worker": "secateur.worker.ready"}


@pytest.fixture(params=IMAGES)
def image(request: pytest.FixtureRequest) -> Image:
    return images()[request.param]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.skipif(sys.platform != "linux", reason="hadolint's wheels are for Linux")
def test_the_linter_finds_nothing() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "hadolint", "--failure-threshold", "info", DOCKERFILE],
        capture_output=True,
        text=True,
    )
    assert done.stdout == ""
    assert done.returncode == 0


def test_it_does_not_run_as_root(image: Image) -> None:
    user, _, group = image.user.partition(":")
    assert int(user) > 0
    assert int(group) > 0


def test_everything_copied_is_in_the_build_context(image: Image) -> None:
    allowed = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    for stage in (image, images()[f"{image.name}-dependencies"]):
        for sources, _ in stage.copies:
            for source in sources:
                assert (ROOT / source).exists(), source
                assert any(source == each or source.startswith(f"{each}/") for each in allowed)


def test_no_image_holds_a_secret() -> None:
    for image in images().values():
        assert not [name for name in image.environment if "KEY" in name or "PASSWORD" in name]


def test_only_the_worker_installs_pytorch() -> None:
    text = DOCKERFILE.read_text()
    assert text.count('".[${EXTRAS}]"') == 1
    assert text.count("ARG EXTRAS=worker,architectures") == 1
    assert text.count("'.[service]'") == 1


def test_the_image_starts_is_healthy_and_stops(
    image: Image, tmp_path: Path, valkey_socket: str
) -> None:
    """With what the image holds and no more: a package that was forgotten is not found."""
    folder = tmp_path / "app"
    image.lay_out(folder)
    data = tmp_path / "data"
    data.mkdir()
    migrate_to_head(f"sqlite:///{data / 'secateur.db'}")
    environment = {
        **image.environment,
        "PATH": os.environ["PATH"],
        "SECATEUR_DATA_DIR": str(data),
        "SECATEUR_BROKER_URL": f"redis+socket://{valkey_socket}",
        "SECATEUR_API_KEYS": f"sha256:{hashlib.sha256(b'key').hexdigest()}",
        "SECATEUR_PORT": str(free_port()),
        # An installed `secateur` points at the checkout, which holds everything else too.
        "PYTHONSAFEPATH": "",
    }
    with subprocess.Popen(
        _here(image.command),
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if READY[image.name] in line:
                break
        try:
            assert READY[image.name] in said[-1], "".join(said)
            health = subprocess.run(
                _here(image.health), cwd=folder, env=environment, capture_output=True, text=True
            )
            assert health.returncode == 0, health.stderr
        finally:
            process.send_signal(signal.SIGTERM)
            rest = process.stdout.read()
        # uvicorn ends by the signal that it was sent.
        assert process.wait() in (0, -signal.SIGTERM), rest
    sick = subprocess.run(
        _here(image.health),
        cwd=folder,
        env={**environment, "SECATEUR_BROKER_URL": "redis+socket:///nowhere"},
        capture_output=True,
        text=True,
    )
    assert sick.returncode == 1


def test_the_service_image_needs_no_worker(tmp_path: Path) -> None:
    images()["service"].lay_out(tmp_path)
    assert not (tmp_path / "worker").exists()
    code = "import sys, service.app; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr


def _here(command: list[str]) -> list[str]:
    """A command of an image, with this environment's Python."""
    assert command[0] == "python"
    return [sys.executable, *command[1:]]
