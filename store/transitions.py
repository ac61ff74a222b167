"""The one way in which a job changes its state: an UPDATE that names the state it expects."""

from typing import Any

from sqlalchemy import ColumnElement, delete, update
from sqlalchemy.orm import Session

from secateur.jobs import NEXT_STATES, JobState
from store.tables import CheckpointRow, JobRow

FINAL_STATES = [state for state in JobState if state.is_final]

AT_REST: dict[str, Any] = {
    "stage": None,
    "progress_done": None,
    "progress_total": None,
    "progress_unit": None,
}
"""What is true of a job that no attempt works on."""


def move(
    session: Session,
    job_id: str,
    expected: JobState,
    then: JobState,
    *,
    attempt: int | None = None,
    **values: Any,
) -> bool:
    """Change a job if it is where it is expected to be, and say whether it was.

    Args:
        session: The transaction.
        job_id: The job.
        expected: The state it must be in.
        then: The state it gets: the same one, or one of its `NEXT_STATES`.
        attempt: The attempt it must be in, where an attempt speaks.
        values: Other columns that change with it.
    """
    query = (
        update(JobRow)
        .where(JobRow.id == job_id, JobRow.state == expected)
        .values(state=_next(expected, then), **values)
        .returning(JobRow.id)
        .execution_options(synchronize_session=False)
    )
    if attempt is not None:
        query = query.where(JobRow.attempt == attempt)
    is_moved = session.scalars(query).one_or_none() is not None
    if is_moved and then.is_final:
        _drop_checkpoints(session, [job_id])
    return is_moved


def move_all(
    session: Session,
    where: ColumnElement[bool],
    expected: JobState,
    then: JobState,
    **values: Any,
) -> list[str]:
    """Change every such job that is where it is expected to be, and give their ids."""
    query = (
        update(JobRow)
        .where(JobRow.state == expected, where)
        .values(state=_next(expected, then), **AT_REST, **values)
        .returning(JobRow.id)
        .execution_options(synchronize_session=False)
    )
    moved = list(session.scalars(query))
    if then.is_final:
        _drop_checkpoints(session, moved)
    return moved


def _drop_checkpoints(session: Session, job_ids: list[str]) -> None:
    """Forget what jobs that end would have gone on from."""
    session.execute(
        delete(CheckpointRow)
        .where(CheckpointRow.job_id.in_(job_ids))
        .execution_options(synchronize_session=False)
    )


def _next(expected: JobState, then: JobState) -> JobState:
    assert then == expected or then in NEXT_STATES[expected]
    return then
