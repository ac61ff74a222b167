"""How many jobs of sweeps run at once, over all workers: the rest of the workers is for others.

A job of a sweep is *under way* from when its message is sent until it has ended. As many are kept
under way as may run, so a sweep of hundreds never fills the queue, and whoever sees one of them
end, or come to nothing, has the next one sent: no order of events leaves one behind, for each
looks at how things are and not at what has happened.
"""

from datetime import datetime

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from secateur.jobs import JobState
from store.tables import JobRow

SWEEP_JOBS_MAX = 8
"""How many run at once unless a worker is told otherwise."""

# Any number, as long as nothing else in this database locks the same.
_LOCK = 0x5EC_A7E_05

_IS_RUNNING = JobRow.sweep_id.is_not(None) & JobRow.state.in_(
    (JobState.RUNNING, JobState.CANCELING)
)
_IS_WAITING = JobRow.sweep_id.is_not(None) & (JobRow.state == JobState.QUEUED)


def take_slot(session: Session, job_id: str, *, most: int) -> bool:
    """Make sure that a job may run. Whoever takes a slot is alone until its transaction ends.

    Returns:
        Whether it may. False: `most` jobs of sweeps run; it waits to be sent again.
    """
    if session.scalar(select(JobRow.sweep_id).where(JobRow.id == job_id)) is None:
        return True  # Of no sweep, or not there: that is for others to say.
    _lock(session)
    if _count(session, _IS_RUNNING) < most:
        return True
    session.execute(
        update(JobRow)
        .where(JobRow.id == job_id, JobRow.state == JobState.QUEUED)
        .values(resent_at=None)
        .execution_options(synchronize_session=False)
    )
    return False


def send_next(session: Session, now: datetime, *, most: int) -> list[str]:
    """The jobs of sweeps that come next, so that `most` are under way.

    Each is marked as sent. The caller sends their messages once that is committed.
    """
    if _count(session, _IS_WAITING & JobRow.resent_at.is_(None)) == 0:
        return []
    _lock(session)
    is_under_way = _IS_RUNNING | (_IS_WAITING & JobRow.resent_at.is_not(None))
    free = max(0, most - _count(session, is_under_way))
    waiting = (
        select(JobRow.id)
        .where(_IS_WAITING, JobRow.resent_at.is_(None))
        .order_by(JobRow.queued_at, JobRow.sweep_position, JobRow.id)
        .limit(free)
        # Locked by whoever cancels them. Who waited here could be waited for there.
        .with_for_update(skip_locked=True)
    )
    next_ids = list(session.scalars(waiting))
    session.execute(
        update(JobRow)
        .where(JobRow.id.in_(next_ids))
        .values(resent_at=now)
        .execution_options(synchronize_session=False)
    )
    return next_ids


def _count(session: Session, where: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count()).select_from(JobRow).where(where)) or 0


def _lock(session: Session) -> None:
    """Be the only one that counts. On SQLite every writing transaction is alone already."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(_LOCK)))
