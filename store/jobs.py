"""Jobs: the only repository that changes a job's state.

The row is the truth, a message only wakes a worker. Each change is one UPDATE that names the state
(and where an attempt speaks, the attempt) that it expects, so of any two who try, one succeeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from secateur.failures import Failure, FailureCode
from secateur.jobs import Job, JobKind, JobState, JobSummary, Progress, Stage
from secateur.models import ModelFormat
from secateur.spec import JobSpec
from store.artifacts import NewArtifact, add_artifacts
from store.claims import Claim, claimed
from store.errors import IdempotencyMismatch
from store.ids import is_id, new_id
from store.paging import newest_first
from store.rows import as_job, as_summary
from store.slots import SWEEP_JOBS_MAX, take_slot
from store.tables import FAILURE_POINTER_LENGTH, JobRow, ModelRow
from store.transitions import AT_REST, FINAL_STATES, move, move_all


@dataclass(frozen=True)
class Created:
    """A job, and whether the request for it was a repetition."""

    job: Job
    is_replay: bool


@dataclass(frozen=True)
class Released:
    """Ids of the jobs whose worker was given up, by where they went."""

    queued: list[str]
    failed: list[str]
    canceled: list[str]


def new_job(spec: JobSpec, *, kind: JobKind, now: datetime) -> dict[str, Any]:
    """The columns of a job that is queued now, with a fresh id."""
    return {
        "id": new_id("job"),
        "kind": kind,
        "state": JobState.QUEUED,
        "attempt": 0,
        "spec": spec.model_dump(mode="json"),
        "spec_sha256": spec.sha256,
        "model_id": spec.model_id,
        "train_dataset_id": spec.data.train,
        "test_dataset_id": spec.data.test,
        "label": spec.label,
        "created_at": now,
        "queued_at": now,
    }


class Jobs:
    """The repository of jobs, within one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def create(
        self,
        spec: JobSpec,
        *,
        kind: JobKind,
        now: datetime,
        idempotency_key: str | None = None,
        fingerprint: str | None = None,
    ) -> Created:
        """Add a queued job. The caller has locked the model and data sets that it names.

        Args:
            spec: What is asked.
            kind: Whether a model is made, or a plan alone.
            now: The time of creation.
            idempotency_key: A repeated key creates nothing and gets the first job back, as it was.
            fingerprint: Digest of the payload; goes with the key.

        Raises:
            IdempotencyMismatch: The key came before with another fingerprint.
        """
        values = {
            **new_job(spec, kind=kind, now=now),
            "idempotency_key": idempotency_key,
            "idempotency_fingerprint": fingerprint,
        }
        dialect = postgresql if self._session.get_bind().dialect.name == "postgresql" else sqlite
        # Waits for a transaction that is adding the same key, and then adds nothing.
        insert = dialect.insert(JobRow).values(values).on_conflict_do_nothing()
        row = self._session.scalars(insert.returning(JobRow)).one_or_none()
        if row is not None:
            return Created(as_job(row), is_replay=False)
        assert idempotency_key is not None
        replay = self.replay(idempotency_key, fingerprint=fingerprint)
        assert replay is not None
        return Created(replay, is_replay=True)

    def model_format(self, job_id: str) -> ModelFormat | None:
        """The format of a job's model; None if the job is not there, or its model any more."""
        return self._session.scalars(
            select(ModelRow.format)
            .join(JobRow, JobRow.model_id == ModelRow.id)
            .where(JobRow.id == job_id)
        ).one_or_none()

    def replay(self, idempotency_key: str, *, fingerprint: str | None) -> Job | None:
        """The job that this key made, as it was when made; None for a new key.

        Raises:
            IdempotencyMismatch: The key came before with another fingerprint.
        """
        row = self._session.scalars(
            select(JobRow).where(JobRow.idempotency_key == idempotency_key)
        ).one_or_none()
        if row is None:
            return None
        if row.idempotency_fingerprint != fingerprint:
            raise IdempotencyMismatch(idempotency_key)
        at_creation = {
            "state": JobState.QUEUED,
            "stage": None,
            "progress": None,
            "attempt": 0,
            "failure": None,
            "started_at": None,
            "finished_at": None,
        }
        return as_job(row).model_copy(update=at_creation)

    def get(self, job_id: str) -> Job | None:
        row = self._session.get(JobRow, job_id) if is_id(job_id) else None
        return None if row is None else as_job(row)

    def result(self, job_id: str) -> dict[str, Any] | None:
        """What a job reported; None before it ends, and for most that failed."""
        return self._session.scalars(select(JobRow.result).where(JobRow.id == job_id)).one_or_none()

    def page(
        self,
        *,
        limit: int,
        cursor: str | None = None,
        state: JobState | None = None,
        model_id: str | None = None,
        label: str | None = None,
        sweep_id: str | None = None,
    ) -> tuple[list[JobSummary], str | None]:
        """Jobs, newest first, and the cursor of the next page.

        Raises:
            BadCursor: `cursor` was not made here.
        """
        wanted = {
            JobRow.state: state,
            JobRow.model_id: model_id,
            JobRow.label: label,
            JobRow.sweep_id: sweep_id,
        }
        where = [column == value for column, value in wanted.items() if value is not None]
        rows, next_cursor = newest_first(
            self._session,
            JobRow,
            limit=limit,
            cursor=cursor,
            where=where,
            without=(JobRow.spec, JobRow.result),
        )
        return [as_summary(row) for row in rows], next_cursor

    def claim(
        self, job_id: str, now: datetime, *, sweep_jobs_max: int = SWEEP_JOBS_MAX
    ) -> Claim | None:
        """Take a queued job: a new attempt begins.

        Args:
            job_id: The job.
            now: When the attempt begins.
            sweep_jobs_max: How many jobs of sweeps may run at once, over all workers.

        Returns:
            All that the attempt needs. None: there is nothing to do, for the job is another's,
            canceled, finished or deleted; or it is a sweep's, and has to wait for others of them.
        """
        if not take_slot(self._session, job_id, most=sweep_jobs_max):
            return None
        row = self._session.scalars(
            update(JobRow)
            .where(JobRow.id == job_id, JobRow.state == JobState.QUEUED)
            .values(
                state=JobState.RUNNING,
                attempt=JobRow.attempt + 1,
                started_at=now,
                heartbeat_at=now,
                **AT_REST,
            )
            .returning(JobRow)
            .execution_options(populate_existing=True)
        ).one_or_none()
        return None if row is None else claimed(self._session, row)

    def beat(
        self,
        job_id: str,
        *,
        attempt: int,
        now: datetime,
        stage: Stage | None = None,
        progress: Progress | None = None,
    ) -> bool:
        """Say that an attempt is alive, and how far it is.

        Returns:
            Whether the attempt may go on. False: the job is to be canceled, or was given to
            another attempt.
        """
        return move(
            self._session,
            job_id,
            JobState.RUNNING,
            JobState.RUNNING,
            attempt=attempt,
            heartbeat_at=now,
            stage=stage,
            progress_done=progress.done if progress else None,
            progress_total=progress.total if progress else None,
            progress_unit=progress.unit if progress else None,
        )

    def succeed(
        self,
        job_id: str,
        *,
        attempt: int,
        now: datetime,
        result: dict[str, Any],
        artifacts: Sequence[NewArtifact],
    ) -> bool:
        """Finish a job: its result, its artifacts and its state at once.

        Returns:
            Whether it was this attempt's to finish. False: nothing was recorded.
        """
        is_ours = move(
            self._session,
            job_id,
            JobState.RUNNING,
            JobState.SUCCEEDED,
            attempt=attempt,
            finished_at=now,
            result=result,
            **AT_REST,
        )
        if is_ours:
            add_artifacts(self._session, job_id, artifacts, now)
        return is_ours

    def fail(
        self,
        job_id: str,
        *,
        attempt: int,
        now: datetime,
        failure: Failure,
        result: dict[str, Any] | None = None,
        artifacts: Sequence[NewArtifact] = (),
    ) -> bool:
        """End a job that cannot be done, with what is kept of it, if anything is.

        Returns:
            Whether it was this attempt's to end. False: nothing was recorded.
        """
        is_ours = move(
            self._session,
            job_id,
            JobState.RUNNING,
            JobState.FAILED,
            attempt=attempt,
            finished_at=now,
            failure_code=failure.code,
            # PostgreSQL keeps no text with a zero in it, and a failure is kept whatever it says.
            failure_detail=failure.detail.replace("\0", " "),
            result=result,
            failure_pointer=_kept_pointer(failure),
            **AT_REST,
        )
        if is_ours:
            add_artifacts(self._session, job_id, artifacts, now)
        return is_ours

    def cancel(self, job_id: str, now: datetime) -> JobState | None:
        """Ask for a job to stop: at once if it waits, as soon as its worker hears if it runs.

        Returns:
            The state that it is in now, whether or not this call changed it; None: no such job.
        """
        if not move(
            self._session, job_id, JobState.QUEUED, JobState.CANCELED, finished_at=now, **AT_REST
        ):
            move(self._session, job_id, JobState.RUNNING, JobState.CANCELING)
        return self._session.scalars(select(JobRow.state).where(JobRow.id == job_id)).one_or_none()

    def finish_cancel(self, job_id: str, *, attempt: int, now: datetime) -> bool:
        """Record that the attempt has stopped. False: it was not asked to."""
        return move(
            self._session,
            job_id,
            JobState.CANCELING,
            JobState.CANCELED,
            attempt=attempt,
            finished_at=now,
            **AT_REST,
        )

    def release_lost(self, now: datetime, *, silent_for: timedelta, max_attempts: int) -> Released:
        """Give up attempts that have not beaten for `silent_for`.

        Their jobs are queued again, or fail if `max_attempts` were lost, or are canceled if that
        was asked. The caller sends a message for each that is queued.
        """
        is_silent = JobRow.heartbeat_at < now - silent_for
        is_last = JobRow.lost_count + 1 >= max_attempts
        lost = Failure.of(
            FailureCode.RESOURCE_WORKER_LOST,
            f"The worker stopped without a word in each of {max_attempts} attempts. A model or "
            "batch that needs more memory than a worker has does this.",
        )
        return Released(
            canceled=move_all(
                self._session, is_silent, JobState.CANCELING, JobState.CANCELED, finished_at=now
            ),
            failed=move_all(
                self._session,
                is_silent & is_last,
                JobState.RUNNING,
                JobState.FAILED,
                finished_at=now,
                failure_code=lost.code,
                failure_detail=lost.detail,
            ),
            queued=move_all(
                self._session,
                is_silent & ~is_last,
                JobState.RUNNING,
                JobState.QUEUED,
                queued_at=now,
                lost_count=JobRow.lost_count + 1,
            ),
        )

    def give_back(self, job_id: str, *, attempt: int, now: datetime) -> bool:
        """Queue a job again whose worker has to stop: nothing was lost, and none is counted.

        Returns:
            Whether it was queued; the caller then sends a message for it.
        """
        return move(
            self._session,
            job_id,
            JobState.RUNNING,
            JobState.QUEUED,
            attempt=attempt,
            queued_at=now,
            **AT_REST,
        )

    def waiting(self, now: datetime, *, older_than: timedelta) -> list[str]:
        """Jobs queued for longer than `older_than`: their message may be lost.

        Each is marked as sent again now, so that the next call gives it after `older_than` more.
        Jobs of sweeps that were not sent yet are not among them: `slots.send_next` gives those.
        """
        is_sent = JobRow.sweep_id.is_(None) | JobRow.resent_at.is_not(None)
        last_sent_at = func.coalesce(JobRow.resent_at, JobRow.queued_at)
        query = (
            update(JobRow)
            .where(
                JobRow.state == JobState.QUEUED,
                is_sent,
                JobRow.queued_at <= now - older_than,
                last_sent_at <= now - older_than,
            )
            .values(resent_at=now)
            .returning(JobRow.id)
            .execution_options(synchronize_session=False)
        )
        return list(self._session.scalars(query))

    def delete(self, job_id: str) -> bool:
        """Delete a final job with its artifacts.

        False: it is not final, or not there, or a sweep's, which it goes with.
        """
        query = (
            delete(JobRow)
            .where(JobRow.id == job_id, JobRow.state.in_(FINAL_STATES), JobRow.sweep_id.is_(None))
            .returning(JobRow.id)
            .execution_options(synchronize_session=False)
        )
        return self._session.scalars(query).one_or_none() is not None

    def sweeps_of(self, job_ids: Sequence[str]) -> list[str]:
        """The sweeps that any of these jobs are of."""
        query = select(JobRow.sweep_id).where(JobRow.id.in_(job_ids), JobRow.sweep_id.is_not(None))
        return sorted({sweep_id for sweep_id in self._session.scalars(query) if sweep_id})


def _kept_pointer(failure: Failure) -> str | None:
    """A failure is kept whatever it says; a pointer that does not fit leads nowhere."""
    pointer = failure.pointer
    is_kept = pointer is not None and "\0" not in pointer and len(pointer) <= FAILURE_POINTER_LENGTH
    return pointer if is_kept else None
