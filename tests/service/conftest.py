"""The real service over a migrated database, with a broker that keeps what is sent."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from service.app import create_app
from service.messages import RecordedMessages
from tests.service.files import labeled_dataset_file, model_file
from tests.service.helpers import KEY, services_of, settings_in
from tests.service.serving import Switch, served


@pytest.fixture(scope="session")
def switch() -> Iterator[Switch]:
    """The HTTP server of all tests."""
    with served() as switch:
        yield switch


@pytest.fixture
def messages() -> RecordedMessages:
    return RecordedMessages()


@pytest.fixture
def app(tmp_path: Path, sqlite_template: Path, messages: RecordedMessages) -> Iterator[FastAPI]:
    shutil.copy(sqlite_template, tmp_path / "secateur.db")
    settings = settings_in(
        tmp_path,
        model_max_bytes=1 << 20,
        dataset_max_bytes=1 << 20,
        database_lock_wait_s=0.2,
    )
    app = create_app(settings, messages=messages)
    yield app
    services_of(app).engine.dispose()


@pytest.fixture
def stranger(app: FastAPI, switch: Switch) -> Iterator[httpx.Client]:
    """A client without a key."""
    switch.app = app
    transport = httpx.HTTPTransport(uds=switch.socket_path)
    with httpx.Client(transport=transport, base_url="http://service") as client:
        yield client


@pytest.fixture
def client(stranger: httpx.Client) -> httpx.Client:
    """A client with a key."""
    stranger.headers["Authorization"] = f"Bearer {KEY}"
    return stranger


@pytest.fixture
def model_id(client: httpx.Client) -> str:
    model_id: str = client.post("/v1/models", content=model_file()).json()["id"]
    return model_id


@pytest.fixture
def dataset_id(client: httpx.Client) -> str:
    dataset_id: str = client.post("/v1/datasets", content=labeled_dataset_file()).json()["id"]
    return dataset_id
