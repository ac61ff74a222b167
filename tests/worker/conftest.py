"""A place to run attempts in: a real database, real blobs, a real fork server."""

import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from secateur.jobs import Job, JobKind
from secateur.models import ModelFormat, TensorInfo
from secateur.spec import JobSpec
from secateur.sweeps import Sweep
from store import slots
from store.artifacts import Artifacts
from store.blobs import put
from store.file_blobs import FileBlobs
from store.jobs import Jobs, Released
from store.models import Models
from store.session import make_engine, read_scope, session_scope
from tests.store.builders import add_sweep
from tests.worker import programs
from worker.attempt import Workplace, run_job
from worker.launch import Launcher
from worker.settings import WorkerSettings
from worker.wake import Wakes

WAIT_S = 60
"""How long a test waits for an event that is bound to come."""

MODEL = b"the bytes of a model"


@dataclass
class Bench:
    """A workplace, and what was seen of it."""

    place: Workplace
    announced: "queue.Queue[str]" = field(default_factory=queue.Queue)
    released: list[Released] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    sent_next: list[list[str]] = field(default_factory=list)
    """The jobs of sweeps that were sent, at each look at what comes next."""

    @property
    def engine(self) -> Engine:
        return self.place.engine

    def add_job(
        self, function: Callable[..., object], *, kind: JobKind = JobKind.PLAN, **fields: object
    ) -> str:
        """A queued job whose child runs this function."""
        functions = dict.fromkeys(JobKind, f"{programs.HERE}:{function.__name__}")
        self.place = replace(self.place, functions=functions)
        spec = JobSpec.model_validate(
            {
                "model_id": self._model_id(),
                "recipe": [{"step": "prune", "budget": {"channel_ratio": 0.5}}],
                **fields,
            }
        )
        with session_scope(self.engine) as session:
            return Jobs(session).create(spec, kind=kind, now=datetime.now(UTC)).job.id

    def add_sweep(self, function: Callable[..., object], *, count: int = 3) -> Sweep:
        """A sweep whose children run this function; its first job's message is sent."""
        functions = dict.fromkeys(JobKind, f"{programs.HERE}:{function.__name__}")
        self.place = replace(self.place, functions=functions)
        return add_sweep(self.engine, self._model_id(), count=count, now=datetime.now(UTC))

    def run(self, job_id: str) -> Job:
        """Do one attempt here and now, and see what became of the job."""
        run_job(self.place, job_id)
        return self.job(job_id)

    def begin(self, job_id: str) -> threading.Thread:
        """Do one attempt in a thread."""
        thread = threading.Thread(target=run_job, args=(self.place, job_id))
        thread.start()
        return thread

    def running(self, job_id: str) -> Job:
        """The job, once its child has reported progress."""
        while (job := self.job(job_id)).progress is None:
            self.announced.get(timeout=WAIT_S)
        return job

    def job(self, job_id: str) -> Job:
        with read_scope(self.engine) as session:
            job = Jobs(session).get(job_id)
        assert job is not None
        return job

    def cancel(self, job_id: str) -> None:
        with session_scope(self.engine) as session:
            Jobs(session).cancel(job_id, datetime.now(UTC))

    def result(self, job_id: str) -> dict[str, Any] | None:
        with read_scope(self.engine) as session:
            return Jobs(session).result(job_id)

    def artifacts(self, job_id: str) -> dict[str, bytes]:
        with read_scope(self.engine) as session:
            made = Artifacts(session).of_job(job_id)
        return {each.name: self.place.blobs.path(each.sha256).read_bytes() for each in made}

    def settings(self, **changes: object) -> None:
        self.place = replace(self.place, settings=self.place.settings.model_copy(update=changes))

    def _model_id(self) -> str:
        sha256 = put(self.place.blobs, [MODEL])
        with session_scope(self.engine) as session:
            known = Models(session).by_digest(sha256, ModelFormat.PT2)
            if known is not None:
                return known.id
            tensor = TensorInfo(name="x", dtype="float32", shape=["batch", 4])
            return (
                Models(session)
                .add(
                    file_format=ModelFormat.PT2,
                    filename="model.pt2",
                    size_bytes=len(MODEL),
                    sha256=sha256,
                    inputs=[tensor],
                    outputs=[tensor],
                    parameter_count=20,
                    now=datetime.now(UTC),
                )
                .id
            )


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECATEUR_DATABASE_URL", "postgresql://user:password@host/db")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
        launcher = Launcher([programs.HERE])
        launcher.warm_up()
    yield launcher
    launcher.close()


@pytest.fixture
def bench(tmp_path: Path, sqlite_template: Path, launcher: Launcher) -> Iterator[Bench]:
    shutil.copy(sqlite_template, tmp_path / "secateur.db")
    settings = WorkerSettings(data_dir=tmp_path, stop_grace_s=10, progress_s=0)
    engine = make_engine(settings)

    def release() -> None:
        with session_scope(engine) as session:
            bench.released.append(
                Jobs(session).release_lost(
                    datetime.now(UTC),
                    silent_for=datetime.now(UTC) - datetime(2020, 1, 1, tzinfo=UTC),
                    max_attempts=settings.max_attempts,
                )
            )

    def send_next() -> None:
        with session_scope(engine) as session:
            most = bench.place.settings.sweep_jobs_max
            bench.sent_next.append(slots.send_next(session, datetime.now(UTC), most=most))

    bench = Bench(
        Workplace(
            settings=settings,
            engine=engine,
            blobs=FileBlobs(settings.blob_dir),
            launcher=launcher,
            wakes=Wakes(),
            announce=lambda job_id: bench.announced.put(job_id),
            send=lambda job_id: bench.sent.append(job_id),
            release=release,
            send_next=send_next,
            functions={},
        )
    )
    yield bench
    # Whatever happened, nothing of it is left.
    assert not settings.scratch_dir.exists() or not list(settings.scratch_dir.iterdir())
    engine.dispose()
