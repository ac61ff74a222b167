"""Models and data sets alike: what was uploaded, and is an input of jobs."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from store.ids import is_id
from store.paging import newest_first
from store.tables import DatasetRow, JobRow, ModelRow
from store.transitions import FINAL_STATES

Row = TypeVar("Row", ModelRow, DatasetRow)
Input = TypeVar("Input")


class Inputs(ABC, Generic[Row, Input]):
    """A repository of one kind of input, within one transaction.

    A kind says its table, how a row reads, and how one is added.
    """

    # Any: the type of a class attribute cannot depend on the kind.
    table: ClassVar[Any]

    def __init__(self, session: Session) -> None:
        self._session = session

    @staticmethod
    @abstractmethod
    def as_input(row: Row) -> Input:
        """The row as the contracts say it."""

    def get(self, input_id: str) -> Input | None:
        return self._read(input_id)

    def pin(self, input_id: str) -> Input | None:
        """Like `get`, and nobody deletes it before this transaction ends."""
        return self._read(input_id, with_for_update={"read": True})

    def lock(self, input_id: str) -> Input | None:
        """Like `get`, and nobody pins or deletes it before this transaction ends."""
        return self._read(input_id, with_for_update={"read": False})

    def by_digest(self, sha256: str, file_format: str) -> Input | None:
        table = self._table
        row = self._session.scalars(
            select(table).where(table.sha256 == sha256, table.format == file_format)
        ).one_or_none()
        return None if row is None else self.as_input(row)

    def page(
        self, *, limit: int, cursor: str | None = None, sha256: str | None = None
    ) -> tuple[list[Input], str | None]:
        """Newest first, and the cursor of the next page; all, or those with one digest.

        Raises:
            BadCursor: `cursor` was not made here.
        """
        where = [] if sha256 is None else [self._table.sha256 == sha256]
        rows, next_cursor = newest_first(
            self._session, self._table, limit=limit, cursor=cursor, where=where
        )
        return [self.as_input(row) for row in rows], next_cursor

    def in_use_by(self, input_id: str) -> str | None:
        """A job that is not final and reads it; None if there is none."""
        is_read = or_(
            JobRow.model_id == input_id,
            JobRow.train_dataset_id == input_id,
            JobRow.test_dataset_id == input_id,
        )
        query = select(JobRow.id).where(is_read, JobRow.state.not_in(FINAL_STATES)).limit(1)
        return self._session.scalars(query).first()

    def delete(self, input_id: str) -> None:
        """Delete what the caller has locked and knows to be unused."""
        self._session.delete(self._session.get_one(self._table, input_id))
        self._session.flush()

    @property
    def _table(self) -> type[Row]:
        table: type[Row] = self.table
        return table

    def _added(self, row: Row) -> Input:
        self._session.add(row)
        self._session.flush()
        return self.as_input(row)

    def _read(self, input_id: str, **lock: Any) -> Input | None:
        row = self._session.get(self._table, input_id, **lock) if is_id(input_id) else None
        return None if row is None else self.as_input(row)
