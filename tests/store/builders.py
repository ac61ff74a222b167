"""Rows to test with."""

from datetime import UTC, datetime

from sqlalchemy import Engine

from secateur.jobs import Job, JobKind, JobState
from secateur.models import DatasetFormat, ModelFormat, TensorInfo
from secateur.spec import JobSpec
from secateur.sweeps import Sweep, SweepSpec
from store.datasets import Datasets
from store.ids import new_id
from store.jobs import Jobs
from store.models import Models
from store.session import session_scope
from store.sweeps import NewChild, Sweeps
from store.tables import JobRow

NOON = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)


def spec_of(model_id: str, **fields: object) -> JobSpec:
    recipe = [{"step": "prune", "budget": {"channel_ratio": 0.5}}]
    return JobSpec.model_validate({"model_id": model_id, "recipe": recipe, **fields})


def add_model(engine: Engine, *, sha256: str = "a" * 64) -> str:
    tensor = TensorInfo(name="x", dtype="float32", shape=["batch", 4])
    with session_scope(engine) as session:
        model = Models(session).add(
            file_format=ModelFormat.PT2,
            filename="model.pt2",
            size_bytes=7,
            sha256=sha256,
            inputs=[tensor],
            outputs=[tensor],
            parameter_count=20,
            now=NOON,
        )
    return model.id


def add_dataset(engine: Engine, *, sha256: str = "b" * 64) -> str:
    with session_scope(engine) as session:
        dataset = Datasets(session).add(
            file_format=DatasetFormat.NPZ,
            filename=None,
            size_bytes=9,
            sha256=sha256,
            row_count=3,
            arrays=[TensorInfo(name="inputs", dtype="float32", shape=[3, 4])],
            now=NOON,
        )
    return dataset.id


def add_job(engine: Engine, model_id: str, *, now: datetime = NOON, **fields: object) -> Job:
    with session_scope(engine) as session:
        created = Jobs(session).create(spec_of(model_id, **fields), kind=JobKind.COMPRESS, now=now)
    return created.job


def add_sweep(engine: Engine, model_id: str, *, count: int = 3, now: datetime = NOON) -> Sweep:
    """A sweep of so many jobs; of its messages, the first one's is sent."""
    criteria, budgets = ["magnitude"], [{"macs": (1 + n) / (1 + count)} for n in range(count)]
    spec = SweepSpec.model_validate(
        {"model_id": model_id, "grid": {"criteria": criteria, "budgets": budgets}}
    )
    children = [
        NewChild(child.method, child.amount, child.spec())
        for child in spec.children(has_labels=False)
    ]
    with session_scope(engine) as session:
        return Sweeps(session).create(spec, children, now=now).sweep


def put_in_state(engine: Engine, job_id: str, state: JobState, *, attempt: int = 1) -> None:
    """Write a state that a test starts from, past the repository."""
    with session_scope(engine) as session:
        row = session.get_one(JobRow, job_id)
        row.state = state
        row.attempt = 0 if state is JobState.QUEUED else attempt
        row.heartbeat_at = None if state is JobState.QUEUED else NOON


def random_digest() -> str:
    return (new_id("x").removeprefix("x_").encode().hex() + "0" * 64)[:64]
