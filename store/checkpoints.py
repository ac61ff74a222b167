"""Checkpoints: what an attempt leaves for the next one. At most one a job, gone when it ends."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from secateur.jobs import JobState
from store.tables import CheckpointRow
from store.transitions import move


class Checkpoints:
    """The repository of checkpoints, within one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def keep(
        self, job_id: str, *, attempt: int, sha256: str, size_bytes: int, now: datetime
    ) -> bool:
        """Take a checkpoint in place of the one before; its bytes are a blob already.

        Returns:
            Whether it was this attempt's to leave. False: nothing was recorded.
        """
        # A sign of life too. It locks the job's row: no other ends it while this is written.
        if not move(
            self._session,
            job_id,
            JobState.RUNNING,
            JobState.RUNNING,
            attempt=attempt,
            heartbeat_at=now,
        ):
            return False
        row = CheckpointRow(job_id=job_id, sha256=sha256, size_bytes=size_bytes, created_at=now)
        self._session.merge(row)
        self._session.flush()
        return True

    def digest(self, job_id: str) -> str | None:
        """The sha256 of a job's checkpoint; None where there is none."""
        query = select(CheckpointRow.sha256).where(CheckpointRow.job_id == job_id)
        return self._session.scalars(query).one_or_none()
