"""Workers that are up, what they can read, and what they compute with."""

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from secateur.models import ModelFormat
from secateur.precision import Precision
from store.tables import WorkerRow


class Workers:
    """The repository of workers, within one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def alive(
        self,
        worker_id: str,
        formats: Iterable[ModelFormat],
        precisions: Iterable[Precision] = (),
        *,
        now: datetime,
        until: datetime,
    ) -> None:
        """Say that a worker is up, and remove those that said nothing any more.

        Args:
            worker_id: Of the worker that says it.
            formats: Of the models that it reads.
            precisions: That its device computes with.
            now: Whoever was to be heard of before this is gone.
            until: When it will have been heard of again.
        """
        self._session.execute(delete(WorkerRow).where(WorkerRow.alive_until < now))
        dialect = postgresql if self._session.get_bind().dialect.name == "postgresql" else sqlite
        told = {
            "formats": [each.value for each in formats],
            "precisions": [each.value for each in precisions],
            "alive_until": until,
        }
        row = dialect.insert(WorkerRow).values(id=worker_id, **told)
        # One statement: another worker, whose clock is ahead, may be removing the row.
        self._session.execute(row.on_conflict_do_update(index_elements=["id"], set_=told))

    def gone(self, worker_id: str) -> None:
        self._session.execute(delete(WorkerRow).where(WorkerRow.id == worker_id))

    def formats(self, now: datetime) -> frozenset[ModelFormat]:
        """The formats that some worker reads which is up."""
        rows = self._session.scalars(
            select(WorkerRow.formats).where(WorkerRow.alive_until >= now)
        ).all()
        known = set(ModelFormat)
        return frozenset(ModelFormat(name) for row in rows for name in row if name in known)

    def precisions(self, now: datetime) -> frozenset[Precision] | None:
        """The data types that some worker computes with which is up; None while none is up."""
        rows = self._session.scalars(
            select(WorkerRow.precisions).where(WorkerRow.alive_until >= now)
        ).all()
        if not rows:
            return None
        known = set(Precision)
        return frozenset(Precision(name) for row in rows for name in row if name in known)
