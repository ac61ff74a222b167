"""What a worker is given with a job."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from secateur.jobs import JobKind
from secateur.models import DatasetFormat, ModelFormat
from secateur.spec import JobSpec
from store.checkpoints import Checkpoints
from store.tables import DatasetRow, JobRow, ModelRow


@dataclass(frozen=True)
class ModelInput:
    """The model file that an attempt reads."""

    id: str
    format: ModelFormat
    filename: str | None
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class DatasetInput:
    """A data set file that an attempt reads."""

    id: str
    format: DatasetFormat
    filename: str | None
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Claim:
    """One attempt at a job, and all that it needs to know."""

    job_id: str
    attempt: int
    sweep_id: str | None
    kind: JobKind
    spec: JobSpec
    model: ModelInput
    train: DatasetInput | None
    test: DatasetInput | None
    checkpoint: str | None = None
    """The digest of what an earlier attempt left to go on from."""


def claimed(session: Session, row: JobRow) -> Claim:
    """The claim on a job that has just been taken. Its inputs are there: see `JobRow`."""
    model = session.get_one(ModelRow, row.model_id)
    return Claim(
        job_id=row.id,
        attempt=row.attempt,
        sweep_id=row.sweep_id,
        kind=row.kind,
        spec=JobSpec.model_validate(row.spec),
        model=ModelInput(model.id, model.format, model.filename, model.sha256, model.size_bytes),
        train=_dataset(session, row.train_dataset_id),
        test=_dataset(session, row.test_dataset_id),
        checkpoint=Checkpoints(session).digest(row.id),
    )


def _dataset(session: Session, dataset_id: str | None) -> DatasetInput | None:
    if dataset_id is None:
        return None
    row = session.get_one(DatasetRow, dataset_id)
    return DatasetInput(row.id, row.format, row.filename, row.sha256, row.size_bytes)
