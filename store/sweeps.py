"""Sweeps: a row for what was asked, and its jobs, which say how it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, defer

from secateur.jobs import JobKind, JobState
from secateur.spec import JobSpec
from secateur.sweeps import JobCounts, Sweep, SweepJob, SweepSpec, SweepState, SweepSummary
from store.errors import IdempotencyMismatch
from store.ids import is_id, new_id
from store.jobs import new_job
from store.paging import newest_first
from store.rows import failure_in
from store.tables import ArtifactRow, JobRow, SweepRow
from store.transitions import FINAL_STATES, move_all


@dataclass(frozen=True)
class NewChild:
    """A job that a sweep begins with."""

    method: str
    amount: str
    spec: JobSpec


@dataclass(frozen=True)
class CreatedSweep:
    """A sweep, and whether the request for it was a repetition."""

    sweep: Sweep
    is_replay: bool


class Sweeps:
    """The repository of sweeps, within one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def create(
        self,
        spec: SweepSpec,
        children: Sequence[NewChild],
        *,
        now: datetime,
        idempotency_key: str | None = None,
        fingerprint: str | None = None,
    ) -> CreatedSweep:
        """Add a sweep and all its jobs, queued. The caller has locked what they name.

        The first job counts as sent: the caller sends its message. The worker that takes it has
        the others sent, as many as may run.

        Args:
            spec: What is asked.
            children: The jobs that it comes to, at least one.
            now: The time of creation.
            idempotency_key: A repeated key creates nothing and gets the first sweep, as it was.
            fingerprint: Digest of the payload; goes with the key.

        Raises:
            IdempotencyMismatch: The key came before with another fingerprint.
        """
        values = {
            "id": new_id("swp"),
            "spec": spec.model_dump(mode="json"),
            "spec_sha256": spec.sha256,
            "model_id": spec.model_id,
            "label": spec.label,
            "idempotency_key": idempotency_key,
            "idempotency_fingerprint": fingerprint,
            "created_at": now,
        }
        dialect = postgresql if self._session.get_bind().dialect.name == "postgresql" else sqlite
        # Waits for a transaction that is adding the same key, and then adds nothing.
        insert = dialect.insert(SweepRow).values(values).on_conflict_do_nothing()
        sweep_id = self._session.scalars(insert.returning(SweepRow.id)).one_or_none()
        if sweep_id is None:
            assert idempotency_key is not None
            replay = self.replay(idempotency_key, fingerprint=fingerprint)
            assert replay is not None
            return CreatedSweep(replay, is_replay=True)
        self._session.add_all(
            JobRow(
                **new_job(child.spec, kind=JobKind.COMPRESS, now=now),
                sweep_id=sweep_id,
                sweep_position=position,
                sweep_method=child.method,
                sweep_amount=child.amount,
                resent_at=now if position == 0 else None,
            )
            for position, child in enumerate(children)
        )
        self._session.flush()
        return CreatedSweep(self._read(self._session.get_one(SweepRow, sweep_id)), is_replay=False)

    def replay(self, idempotency_key: str, *, fingerprint: str | None) -> Sweep | None:
        """The sweep that this key made, as it was when made; None for a new key.

        Raises:
            IdempotencyMismatch: The key came before with another fingerprint.
        """
        row = self._session.scalars(
            select(SweepRow).where(SweepRow.idempotency_key == idempotency_key)
        ).one_or_none()
        if row is None:
            return None
        if row.idempotency_fingerprint != fingerprint:
            raise IdempotencyMismatch(idempotency_key)
        sweep = self._read(row)
        queued = {"state": JobState.QUEUED, "failure": None}
        at_creation = {
            "state": SweepState.RUNNING,
            "counts": JobCounts.of({JobState.QUEUED: len(sweep.children)}),
            "finished_at": None,
            "children": [child.model_copy(update=queued) for child in sweep.children],
        }
        return sweep.model_copy(update=at_creation)

    def get(self, sweep_id: str) -> Sweep | None:
        row = self._session.get(SweepRow, sweep_id) if is_id(sweep_id) else None
        return None if row is None else self._read(row)

    def page(
        self,
        *,
        limit: int,
        cursor: str | None = None,
        model_id: str | None = None,
        label: str | None = None,
    ) -> tuple[list[SweepSummary], str | None]:
        """Sweeps, newest first, and the cursor of the next page.

        Raises:
            BadCursor: `cursor` was not made here.
        """
        wanted = {SweepRow.model_id: model_id, SweepRow.label: label}
        where = [column == value for column, value in wanted.items() if value is not None]
        rows, next_cursor = newest_first(
            self._session,
            SweepRow,
            limit=limit,
            cursor=cursor,
            where=where,
            without=(SweepRow.spec,),
        )
        counts: dict[str, dict[JobState, int]] = {row.id: {} for row in rows}
        ended: dict[str, datetime | None] = {}
        query = (
            select(JobRow.sweep_id, JobRow.state, func.count(), func.max(JobRow.finished_at))
            .where(JobRow.sweep_id.in_(counts))
            .group_by(JobRow.sweep_id, JobRow.state)
        )
        for sweep_id, state, count, finished_at in self._session.execute(query):
            assert sweep_id is not None
            counts[sweep_id][state] = count
            ended[sweep_id] = _latest(ended.get(sweep_id), finished_at)
        return [_summary(row, counts[row.id], ended.get(row.id)) for row in rows], next_cursor

    def reports(self, sweep_id: str) -> dict[str, dict[str, Any]]:
        """What the jobs that have ended reported, by job: a broken promise keeps its report."""
        query = select(JobRow.id, JobRow.result).where(JobRow.sweep_id == sweep_id)
        return {
            job_id: result for job_id, result in self._session.execute(query) if result is not None
        }

    def cancel(self, sweep_id: str, now: datetime) -> list[str]:
        """Ask for all jobs of a sweep to stop that have not ended; give those that were told.

        None of them: it is canceled already, or has ended.
        """
        of_sweep = JobRow.sweep_id == sweep_id
        # In one order, and before any is changed: one that is taken or given back just now would
        # else be in neither of the states that are looked for.
        locked = (
            select(JobRow.id)
            .where(of_sweep, JobRow.state.not_in(FINAL_STATES))
            .order_by(JobRow.id)
            .with_for_update()
        )
        if not self._session.scalars(locked).all():
            return []
        row = self._session.get_one(SweepRow, sweep_id)
        row.canceled_at = row.canceled_at or now
        self._session.flush()
        return [
            *move_all(self._session, of_sweep, JobState.QUEUED, JobState.CANCELED, finished_at=now),
            *move_all(self._session, of_sweep, JobState.RUNNING, JobState.CANCELING),
        ]

    def digests(self, sweep_id: str) -> list[str]:
        """The digests of all artifacts of its jobs."""
        query = (
            select(ArtifactRow.sha256)
            .join(JobRow, JobRow.id == ArtifactRow.job_id)
            .where(JobRow.sweep_id == sweep_id)
        )
        return list(self._session.scalars(query))

    def delete(self, sweep_id: str) -> bool:
        """Delete a sweep, its jobs and their artifacts. False: not all of its jobs are final.

        The foreign key has no ON DELETE: a sweep whose jobs are there cannot go, by whatever way.
        """
        of_sweep = JobRow.sweep_id == sweep_id
        is_going_on = select(JobRow.id).where(of_sweep, JobRow.state.not_in(FINAL_STATES)).limit(1)
        if self._session.scalar(is_going_on) is not None:
            return False
        self._session.execute(
            delete(JobRow).where(of_sweep).execution_options(synchronize_session=False)
        )
        self._session.execute(
            delete(SweepRow)
            .where(SweepRow.id == sweep_id)
            .execution_options(synchronize_session=False)
        )
        return True

    def _read(self, row: SweepRow) -> Sweep:
        query = (
            select(JobRow)
            .where(JobRow.sweep_id == row.id)
            .order_by(JobRow.sweep_position)
            .options(defer(JobRow.spec), defer(JobRow.result))
            # What this transaction has changed by UPDATEs is read as it is now.
            .execution_options(populate_existing=True)
        )
        jobs = self._session.scalars(query).all()
        counts: dict[JobState, int] = {}
        ended: datetime | None = None
        for job in jobs:
            counts[job.state] = counts.get(job.state, 0) + 1
            ended = _latest(ended, job.finished_at)
        return Sweep(
            **dict(_summary(row, counts, ended)),
            children=[_child(job) for job in jobs],
            spec=SweepSpec.model_validate(row.spec),
        )


def _summary(
    row: SweepRow, counts: dict[JobState, int], last_finished_at: datetime | None
) -> SweepSummary:
    counted = JobCounts.of(counts)
    state = counted.state(is_canceled=row.canceled_at is not None)
    return SweepSummary(
        id=row.id,
        state=state,
        counts=counted,
        model_id=row.model_id,
        spec_sha256=row.spec_sha256,
        label=row.label,
        created_at=row.created_at,
        finished_at=last_finished_at if state.is_final else None,
    )


def _child(row: JobRow) -> SweepJob:
    assert row.sweep_position is not None
    assert row.sweep_method is not None
    assert row.sweep_amount is not None
    return SweepJob(
        position=row.sweep_position,
        job_id=row.id,
        method=row.sweep_method,
        amount=row.sweep_amount,
        state=row.state,
        failure=failure_in(row),
    )


def _latest(one: datetime | None, other: datetime | None) -> datetime | None:
    return max(filter(None, (one, other)), default=None)
