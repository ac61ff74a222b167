"""The tables."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Enum,
    ForeignKey,
    Index,
    MetaData,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from secateur.failures import FailureCode
from secateur.jobs import JobKind, JobState, Stage
from secateur.models import DatasetFormat, ModelFormat

ID = String(32)
SHA256 = String(64)
FILENAME = String(255)
FAILURE_POINTER_LENGTH = 500


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time, always aware and UTC in Python; SQLite keeps it without its zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time without a zone: {value!r}")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        del dialect  # Every driver gives the same point in time, with or without its zone.
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _values(enum: type[StrEnum]) -> Enum:
    """A short text column that holds an enum's values; a new value needs no migration."""
    return Enum(
        enum, native_enum=False, length=40, values_callable=lambda e: [member.value for member in e]
    )


class Base(DeclarativeBase):
    """Every constraint has a name that follows from what it constrains, so it can be migrated."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime,
        JobKind: _values(JobKind),
        JobState: _values(JobState),
        Stage: _values(Stage),
        FailureCode: _values(FailureCode),
        ModelFormat: _values(ModelFormat),
        DatasetFormat: _values(DatasetFormat),
    }


class ModelRow(Base):
    __tablename__ = "models"
    __table_args__ = (
        UniqueConstraint("sha256", "format"),
        Index(None, "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    format: Mapped[ModelFormat]
    filename: Mapped[str | None] = mapped_column(FILENAME)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(SHA256)
    # JSON's null where the file does not tell; the columns themselves are never null.
    inputs: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON, nullable=False)
    outputs: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON, nullable=False)
    parameter_count: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime]


class DatasetRow(Base):
    __tablename__ = "datasets"
    __table_args__ = (
        UniqueConstraint("sha256", "format"),
        Index(None, "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    format: Mapped[DatasetFormat]
    filename: Mapped[str | None] = mapped_column(FILENAME)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(SHA256)
    row_count: Mapped[int] = mapped_column(BigInteger)
    arrays: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    created_at: Mapped[datetime]


class SweepRow(Base):
    """A sweep: what was asked. How it is follows from its jobs."""

    __tablename__ = "sweeps"
    __table_args__ = (
        UniqueConstraint("idempotency_key"),
        Index(None, "created_at", "id"),
        Index(None, "label"),
        Index(None, "model_id"),
    )

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    spec_sha256: Mapped[str] = mapped_column(SHA256)
    model_id: Mapped[str] = mapped_column(ID)
    label: Mapped[str | None] = mapped_column(String(200))

    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    idempotency_fingerprint: Mapped[str | None] = mapped_column(SHA256)

    created_at: Mapped[datetime]
    canceled_at: Mapped[datetime | None]
    """When it was asked to be canceled."""


class JobRow(Base):
    """A job. Only `store.jobs` changes `state`.

    Models and data sets are named without a foreign key: a finished job outlives its inputs. While
    a job is not final its inputs cannot be deleted; `Jobs.create` and the `delete` methods lock
    the input's row to see to that.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("idempotency_key"),
        Index(None, "created_at", "id"),
        Index(None, "state", "queued_at"),
        Index(None, "model_id"),
        Index(None, "train_dataset_id"),
        Index(None, "test_dataset_id"),
        Index(None, "label"),
        Index(None, "sweep_id", "sweep_position"),
    )

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    kind: Mapped[JobKind]
    state: Mapped[JobState]
    attempt: Mapped[int]
    lost_count: Mapped[int] = mapped_column(default=0)
    """Attempts whose worker fell silent. One that was given back in good order is not one."""
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    spec_sha256: Mapped[str] = mapped_column(SHA256)
    model_id: Mapped[str] = mapped_column(ID)
    train_dataset_id: Mapped[str | None] = mapped_column(ID)
    test_dataset_id: Mapped[str | None] = mapped_column(ID)
    label: Mapped[str | None] = mapped_column(String(200))

    sweep_id: Mapped[str | None] = mapped_column(ForeignKey("sweeps.id"))
    """The sweep that it is a job of. Neither goes without the other: see `Sweeps.delete`."""
    sweep_position: Mapped[int | None]
    sweep_method: Mapped[str | None]
    sweep_amount: Mapped[str | None]

    stage: Mapped[Stage | None]
    progress_done: Mapped[int | None] = mapped_column(BigInteger)
    progress_total: Mapped[int | None] = mapped_column(BigInteger)
    progress_unit: Mapped[str | None] = mapped_column(String(40))
    failure_code: Mapped[FailureCode | None]
    failure_detail: Mapped[str | None]
    failure_pointer: Mapped[str | None] = mapped_column(String(FAILURE_POINTER_LENGTH))
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))

    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    idempotency_fingerprint: Mapped[str | None] = mapped_column(SHA256)

    created_at: Mapped[datetime]
    queued_at: Mapped[datetime]
    """When it last became `queued`: at creation, or when its worker was lost."""
    resent_at: Mapped[datetime | None]
    """When the sweep of lost messages last sent its message again. Of a sweep's job, when its
    message was last sent: null while it waits for its turn to be sent."""
    started_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class ArtifactRow(Base):
    __tablename__ = "artifacts"
    __table_args__ = (
        UniqueConstraint("job_id", "name"),
        Index(None, "sha256"),
    )

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(FILENAME)
    media_type: Mapped[str] = mapped_column(String(100))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(SHA256)
    created_at: Mapped[datetime]


class WorkerRow(Base):
    """A worker that is up, as long as it says so."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    formats: Mapped[list[str]] = mapped_column(JSON)
    """The formats of models that it reads."""
    precisions: Mapped[list[str]] = mapped_column(JSON, server_default="[]")
    """The data types that its device computes with."""
    alive_until: Mapped[datetime]


class CheckpointRow(Base):
    """What an attempt left for the next one. Not there once the job has ended."""

    __tablename__ = "checkpoints"
    __table_args__ = (Index(None, "sha256"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    sha256: Mapped[str] = mapped_column(SHA256)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]
