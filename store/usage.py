"""Which inputs are needed still."""

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from store.tables import JobRow
from store.transitions import FINAL_STATES


def unfinished_job_using(session: Session, input_id: str) -> str | None:
    """A job that is not final and reads this model or data set; None if there is none."""
    query = (
        select(JobRow.id)
        .where(
            or_(
                JobRow.model_id == input_id,
                JobRow.train_dataset_id == input_id,
                JobRow.test_dataset_id == input_id,
            ),
            JobRow.state.not_in(FINAL_STATES),
        )
        .limit(1)
    )
    return session.scalars(query).first()
