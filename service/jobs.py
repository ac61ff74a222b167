"""What can be done with jobs."""

import hashlib
from dataclasses import dataclass
from typing import Any, BinaryIO

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from secateur.jobs import Artifact, Job, JobKind, JobPage, JobState
from secateur.models import MODEL_FORMATS
from secateur.precision import PRECISIONS
from secateur.problems import FieldProblem, ModelFormatStatus, PrecisionStatus, Validation
from secateur.spec import JobFrame, JobSpec
from secateur.trials import SearchReport
from service import errors
from service.checks import (
    Named,
    mismatched_data,
    mismatched_plans,
    missing_data,
    too_few_rows,
    unavailable_outputs,
    uncomputed_precisions,
    unknown_references,
    unread_format,
)
from service.clock import now
from service.measures import missing_test_data, unmeasurable
from service.messages import Messages
from service.paging import cursors_checked
from store.artifacts import Artifacts
from store.blobs import BlobStore
from store.collect import remove_unreferenced
from store.datasets import Datasets
from store.errors import BlobNotFound, IdempotencyMismatch
from store.jobs import Created, Jobs
from store.models import Models
from store.session import read_scope, session_scope
from store.workers import Workers


@dataclass(frozen=True)
class JobService:
    """Jobs: asked for, looked up, canceled, deleted. One call is one transaction."""

    engine: Engine
    blobs: BlobStore
    messages: Messages
    retry_after_s: int

    def create(self, spec: JobSpec, *, kind: JobKind, idempotency_key: str | None) -> Created:
        """Queue a job, and wake a worker once the row is there to be found.

        Raises:
            UnknownReference: The spec names something that is not there.
            DataMissing: A step, measure or promise needs data that the job does not have.
            DataMismatch: A data set does not fit the model, or not what is to be measured.
            PlanMismatch: A plan was made for another model.
            OutputUnavailable: The model's format does not lead to one that is asked for.
            FormatUnavailable: No worker is up that reads the model.
            PrecisionUnavailable: No worker is up that computes with a type to cast to.
            IdempotencyReused: The key came before with another spec.
        """
        with session_scope(self.engine) as session:
            created = _create(session, spec, kind=kind, idempotency_key=idempotency_key)
            model_format = Jobs(session).model_format(created.job.id)
        if not created.is_replay:
            assert model_format is not None, "the model was pinned"
            self.messages.send(created.job.id, model_format)
        return created

    def validate(self, spec: JobSpec) -> Validation:
        """Say all that `create` would object to, and change nothing."""
        with read_scope(self.engine) as session:
            named = Named(
                model=Models(session).get(spec.model_id),
                train=Datasets(session).get(spec.data.train) if spec.data.train else None,
                test=Datasets(session).get(spec.data.test) if spec.data.test else None,
                readable=Workers(session).formats(now()),
                computable=Workers(session).precisions(now()),
            )
        problems = [
            *unknown_references(spec, named),
            *missing_data(spec, named),
            *missing_test_data(spec, named),
            *mismatched_data(named),
            *too_few_rows(spec, named),
            *unmeasurable(spec, named),
            *mismatched_plans(spec, named),
            *unavailable_outputs(spec, named),
            *unread_format(named),
            *uncomputed_precisions(spec, named),
        ]
        return Validation(
            valid=not problems,
            problems=problems,
            canonical_spec=spec.model_dump(mode="json"),
            spec_sha256=spec.sha256,
        )

    def get(self, job_id: str) -> Job:
        with read_scope(self.engine) as session:
            return _existing(session, job_id)

    def page(
        self,
        *,
        limit: int,
        cursor: str | None,
        state: JobState | None,
        model_id: str | None,
        label: str | None,
        sweep_id: str | None,
    ) -> JobPage:
        with cursors_checked(), read_scope(self.engine) as session:
            jobs, next_cursor = Jobs(session).page(
                limit=limit,
                cursor=cursor,
                state=state,
                model_id=model_id,
                label=label,
                sweep_id=sweep_id,
            )
        return JobPage(data=jobs, next_cursor=next_cursor)

    def model_formats(self) -> list[ModelFormatStatus]:
        """Every format of models, and whether a worker is up that reads it."""
        with read_scope(self.engine) as session:
            readable = Workers(session).formats(now())
        return [
            ModelFormatStatus(name=name, summary=info.summary, is_available=name in readable)
            for name, info in MODEL_FORMATS.items()
        ]

    def precisions(self) -> list[PrecisionStatus]:
        """Every data type of fewer bits, and whether a worker is up that computes with it."""
        with read_scope(self.engine) as session:
            computable = Workers(session).precisions(now()) or frozenset()
        return [
            PrecisionStatus(name=name, summary=info.summary, is_available=name in computable)
            for name, info in PRECISIONS.items()
        ]

    def cancel(self, job_id: str) -> Job:
        """Ask for a job to stop.

        Raises:
            JobNotFound: There is no such job.
            JobTerminal: It has ended otherwise.
        """
        with session_scope(self.engine) as session:
            before = _existing(session, job_id)
            state = Jobs(session).cancel(job_id, now())
            if state in (JobState.SUCCEEDED, JobState.FAILED):
                raise errors.JobTerminal(job_id, state)
            session.expire_all()
            job = _existing(session, job_id)
        if job.state != before.state:
            self.messages.announce(job_id)
            if job.sweep_id is not None:
                self.messages.announce(job.sweep_id)
        return job

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended, its artifacts, and their bytes if nothing else has them.

        Raises:
            JobNotFound: There is no such job.
            JobInSweep: It is a sweep's, and goes with it.
            JobNotFinal: It has not ended.
        """
        with session_scope(self.engine) as session:
            job = _existing(session, job_id)
            if job.sweep_id is not None:
                raise errors.JobInSweep(job_id, sweep_id=job.sweep_id)
            digests = [artifact.sha256 for artifact in Artifacts(session).of_job(job_id)]
            if not Jobs(session).delete(job_id):
                raise errors.JobNotFinal(job)
        with session_scope(self.engine) as session:
            remove_unreferenced(session, self.blobs, digests)

    def result(self, job_id: str) -> dict[str, Any]:
        """What a job reported.

        Raises:
            JobNotFound: There is no such job.
            JobNotFinished: It is not there yet.
            JobHasNoResult: It will never be there.
        """
        with read_scope(self.engine) as session:
            job = _existing(session, job_id)
            result = Jobs(session).result(job_id)
        if not job.state.is_final:
            raise errors.JobNotFinished(job, retry_after_s=self.retry_after_s)
        if result is None:
            raise errors.JobHasNoResult(job_id, failure=job.failure)
        return result

    def search(self, job_id: str) -> SearchReport:
        """What a job tried to find the smallest model.

        Raises:
            JobHasNoSearch: It has a result and tried nothing; without a result as `result` does.
        """
        search = self.result(job_id).get("search")
        if search is None:
            raise errors.JobHasNoSearch(job_id)
        return SearchReport.model_validate(search)

    def artifacts(self, job_id: str) -> list[Artifact]:
        with read_scope(self.engine) as session:
            _existing(session, job_id)
            return Artifacts(session).of_job(job_id)

    def artifact(self, artifact_id: str) -> Artifact:
        with read_scope(self.engine) as session:
            artifact = Artifacts(session).get(artifact_id)
        if artifact is None:
            raise errors.ArtifactNotFound(artifact_id)
        return artifact

    def open(self, artifact: Artifact) -> BinaryIO:
        """Open an artifact's file for reading.

        Raises:
            ArtifactNotFound: It was deleted in the meantime.
        """
        try:
            return self.blobs.open(artifact.sha256)
        except BlobNotFound:
            self.artifact(artifact.id)
            raise


def _create(
    session: Session, spec: JobSpec, *, kind: JobKind, idempotency_key: str | None
) -> Created:
    fingerprint = _fingerprint(spec, kind)
    try:
        if idempotency_key is not None:
            # Before the checks: a repetition is answered alike even if the model is gone by now.
            replay = Jobs(session).replay(idempotency_key, fingerprint=fingerprint)
            if replay is not None:
                return Created(replay, is_replay=True)
        _check(spec, pinned(session, spec))
        return Jobs(session).create(
            spec, kind=kind, now=now(), idempotency_key=idempotency_key, fingerprint=fingerprint
        )
    except IdempotencyMismatch as error:
        raise errors.IdempotencyReused(error.key) from error


def _existing(session: Session, job_id: str) -> Job:
    job = Jobs(session).get(job_id)
    if job is None:
        raise errors.JobNotFound(job_id)
    return job


def pinned(session: Session, spec: JobFrame) -> Named:
    """What the spec names, so that it stays until the job is there to protect it."""
    datasets = Datasets(session)
    return Named(
        model=Models(session).pin(spec.model_id),
        train=datasets.pin(spec.data.train) if spec.data.train else None,
        test=datasets.pin(spec.data.test) if spec.data.test else None,
        readable=Workers(session).formats(now()),
        computable=Workers(session).precisions(now()),
    )


def _check(spec: JobSpec, named: Named) -> None:
    refuse(
        (errors.UnknownReference, unknown_references(spec, named)),
        (errors.DataMissing, [*missing_data(spec, named), *missing_test_data(spec, named)]),
        (
            errors.DataMismatch,
            [*mismatched_data(named), *too_few_rows(spec, named), *unmeasurable(spec, named)],
        ),
        (errors.PlanMismatch, mismatched_plans(spec, named)),
        (errors.OutputUnavailable, unavailable_outputs(spec, named)),
        (errors.FormatUnavailable, unread_format(named)),
        (errors.PrecisionUnavailable, uncomputed_precisions(spec, named)),
    )


def refuse(*found: tuple[type[errors.SpecRefused], list[FieldProblem]]) -> None:
    """Raise the first error that there are problems for."""
    for error, problems in found:
        if problems:
            raise error(problems)


def _fingerprint(spec: JobSpec, kind: JobKind) -> str:
    payload = f"{kind.value}\n{spec.model_dump_json()}"
    return hashlib.sha256(payload.encode()).hexdigest()
