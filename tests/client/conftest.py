"""A real service in a process of its own, and the tests in the place of its worker."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine

from secateur.client import Client
from secateur.failures import Failure
from secateur.jobs import Job, Progress, Stage
from secateur.messages import job_channel
from secateur.transport import Retries
from store.artifacts import NewArtifact
from store.blobs import put
from store.file_blobs import FileBlobs
from store.jobs import Jobs
from store.migrate import migrate_to_head
from store.session import make_engine, session_scope
from store.settings import StoreSettings

KEY = "key-of-the-tests"
AT_ONCE = Retries(count=3, first_wait_s=0)


@dataclass
class Service:
    """A running service, and its store."""

    url: str
    engine: Engine
    blobs: FileBlobs
    announcer: redis.Redis

    def claim(self, job: Job) -> None:
        with session_scope(self.engine) as session:
            assert Jobs(session).claim(job.id, datetime.now(UTC)) is not None
        self.announce(job.id)

    def progress(self, job: Job, stage: Stage, done: int) -> None:
        with session_scope(self.engine) as session:
            assert Jobs(session).beat(
                job.id,
                attempt=1,
                now=datetime.now(UTC),
                stage=stage,
                progress=Progress(done=done, total=10, unit="batches"),
            )
        self.announce(job.id)

    def succeed(self, job: Job, result: dict[str, object], **files: bytes) -> None:
        with session_scope(self.engine) as session:
            assert Jobs(session).succeed(
                job.id,
                attempt=1,
                now=datetime.now(UTC),
                result=result,
                artifacts=self._artifacts(files),
            )
        self.announce(job.id)

    def fail(
        self,
        job: Job,
        failure: Failure,
        result: dict[str, object] | None = None,
        **files: bytes,
    ) -> None:
        with session_scope(self.engine) as session:
            assert Jobs(session).fail(
                job.id,
                attempt=1,
                now=datetime.now(UTC),
                failure=failure,
                result=result,
                artifacts=self._artifacts(files),
            )
        self.announce(job.id)

    def _artifacts(self, files: dict[str, bytes]) -> list[NewArtifact]:
        return [
            NewArtifact(
                name=name.replace("__", "."),
                media_type="application/octet-stream",
                sha256=put(self.blobs, [content]),
                size_bytes=len(content),
            )
            for name, content in files.items()
        ]

    def announce(self, changed_id: str) -> None:
        self.announcer.publish(job_channel(changed_id), "changed")


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, valkey_socket: str) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    settings = StoreSettings(data_dir=folder)
    migrate_to_head(settings.database_url)
    with subprocess.Popen(
        [sys.executable, "-m", "service"],
        env={
            **os.environ,
            "SECATEUR_DATA_DIR": str(folder),
            "SECATEUR_BROKER_URL": f"redis+socket://{valkey_socket}",
            "SECATEUR_API_KEYS": KEY,
            "SECATEUR_PORT": "0",
        },
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip().rpartition("url=")[2]
        engine = make_engine(settings)
        announcer = redis.Redis.from_url(f"unix://{valkey_socket}?db=0")
        yield Service(url, engine, FileBlobs(settings.blob_dir), announcer)
        announcer.close()
        engine.dispose()
        process.terminate()


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.url, KEY, retries=AT_ONCE) as client:
        yield client


@pytest.fixture
def download_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "downloads"
    folder.mkdir()
    return folder
