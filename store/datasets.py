"""Data sets: what was uploaded to tune and to measure with."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from secateur.models import Dataset, DatasetFormat, TensorInfo
from store.ids import is_id, new_id
from store.paging import newest_first
from store.rows import as_dataset
from store.tables import DatasetRow
from store.usage import unfinished_job_using


class Datasets:
    """The repository of data sets, within one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(
        self,
        *,
        file_format: DatasetFormat,
        filename: str | None,
        size_bytes: int,
        sha256: str,
        row_count: int,
        arrays: Sequence[TensorInfo],
        now: datetime,
    ) -> Dataset:
        """Record a data set. The caller holds `sha256` and has looked whether it is there."""
        row = DatasetRow(
            id=new_id("dst"),
            format=file_format,
            filename=filename,
            size_bytes=size_bytes,
            sha256=sha256,
            row_count=row_count,
            arrays=[array.model_dump() for array in arrays],
            created_at=now,
        )
        self._session.add(row)
        self._session.flush()
        return as_dataset(row)

    def get(self, dataset_id: str) -> Dataset | None:
        row = self._session.get(DatasetRow, dataset_id) if is_id(dataset_id) else None
        return None if row is None else as_dataset(row)

    def pin(self, dataset_id: str) -> Dataset | None:
        """Like `get`, and nobody deletes the data set before this transaction ends."""
        return self._locked(dataset_id, read=True)

    def lock(self, dataset_id: str) -> Dataset | None:
        """Like `get`, and nobody pins or deletes the data set before this transaction ends."""
        return self._locked(dataset_id, read=False)

    def by_digest(self, sha256: str, file_format: DatasetFormat) -> Dataset | None:
        row = self._session.scalars(
            select(DatasetRow).where(DatasetRow.sha256 == sha256, DatasetRow.format == file_format)
        ).one_or_none()
        return None if row is None else as_dataset(row)

    def page(
        self, *, limit: int, cursor: str | None = None, sha256: str | None = None
    ) -> tuple[list[Dataset], str | None]:
        """Data sets, newest first, and the cursor of the next page; all, or those with one digest.

        Raises:
            BadCursor: `cursor` was not made here.
        """
        where = [] if sha256 is None else [DatasetRow.sha256 == sha256]
        rows, next_cursor = newest_first(
            self._session, DatasetRow, limit=limit, cursor=cursor, where=where
        )
        return [as_dataset(row) for row in rows], next_cursor

    def in_use_by(self, dataset_id: str) -> str | None:
        """A job that is not final and reads the data set; None if there is none."""
        return unfinished_job_using(self._session, dataset_id)

    def delete(self, dataset_id: str) -> None:
        """Delete a data set that the caller has locked and knows to be unused."""
        self._session.delete(self._session.get_one(DatasetRow, dataset_id))
        self._session.flush()

    def _locked(self, dataset_id: str, *, read: bool) -> Dataset | None:
        if not is_id(dataset_id):
            return None
        row = self._session.get(DatasetRow, dataset_id, with_for_update={"read": read})
        return None if row is None else as_dataset(row)
