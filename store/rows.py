"""Rows as what the contracts say of them."""

from typing import Any

from secateur.failures import Failure
from secateur.jobs import Artifact, Job, JobSummary, Progress
from secateur.models import Dataset, Model, TensorInfo
from secateur.spec import JobSpec
from store.tables import ArtifactRow, DatasetRow, JobRow, ModelRow


def as_job(row: JobRow) -> Job:
    return Job(**dict(as_summary(row)), spec=JobSpec.model_validate(row.spec))


def as_summary(row: JobRow) -> JobSummary:
    return JobSummary(
        id=row.id,
        kind=row.kind,
        state=row.state,
        stage=row.stage,
        progress=_progress(row),
        attempt=row.attempt,
        model_id=row.model_id,
        spec_sha256=row.spec_sha256,
        label=row.label,
        sweep_id=row.sweep_id,
        failure=failure_in(row),
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def as_model(row: ModelRow) -> Model:
    return Model(
        id=row.id,
        format=row.format,
        filename=row.filename,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        inputs=_tensors(row.inputs),
        outputs=_tensors(row.outputs),
        parameter_count=row.parameter_count,
        created_at=row.created_at,
    )


def _tensors(stored: list[dict[str, Any]] | None) -> list[TensorInfo] | None:
    return None if stored is None else [TensorInfo.model_validate(tensor) for tensor in stored]


def as_dataset(row: DatasetRow) -> Dataset:
    return Dataset(
        id=row.id,
        format=row.format,
        filename=row.filename,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        row_count=row.row_count,
        arrays=[TensorInfo.model_validate(array) for array in row.arrays],
        created_at=row.created_at,
    )


def as_artifact(row: ArtifactRow) -> Artifact:
    return Artifact(
        id=row.id,
        job_id=row.job_id,
        name=row.name,
        media_type=row.media_type,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        created_at=row.created_at,
    )


def _progress(row: JobRow) -> Progress | None:
    if row.progress_done is None:
        return None
    assert row.progress_total is not None
    assert row.progress_unit is not None
    return Progress(done=row.progress_done, total=row.progress_total, unit=row.progress_unit)


def failure_in(row: JobRow) -> Failure | None:
    if row.failure_code is None:
        return None
    assert row.failure_detail is not None
    return Failure.of(row.failure_code, row.failure_detail, row.failure_pointer)
