"""Models: what was uploaded to be compressed."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from secateur.models import Model, ModelFormat, TensorInfo
from store.ids import is_id, new_id
from store.paging import newest_first
from store.rows import as_model
from store.tables import ModelRow
from store.usage import unfinished_job_using


class Models:
    """The repository of models, within one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(
        self,
        *,
        file_format: ModelFormat,
        filename: str | None,
        size_bytes: int,
        sha256: str,
        inputs: Sequence[TensorInfo],
        outputs: Sequence[TensorInfo],
        parameter_count: int,
        now: datetime,
    ) -> Model:
        """Record a model. The caller holds `sha256` and has looked whether it is there already."""
        row = ModelRow(
            id=new_id("mdl"),
            format=file_format,
            filename=filename,
            size_bytes=size_bytes,
            sha256=sha256,
            inputs=[tensor.model_dump() for tensor in inputs],
            outputs=[tensor.model_dump() for tensor in outputs],
            parameter_count=parameter_count,
            created_at=now,
        )
        self._session.add(row)
        self._session.flush()
        return as_model(row)

    def get(self, model_id: str) -> Model | None:
        row = self._session.get(ModelRow, model_id) if is_id(model_id) else None
        return None if row is None else as_model(row)

    def pin(self, model_id: str) -> Model | None:
        """Like `get`, and nobody deletes the model before this transaction ends."""
        return self._locked(model_id, read=True)

    def lock(self, model_id: str) -> Model | None:
        """Like `get`, and nobody pins or deletes the model before this transaction ends."""
        return self._locked(model_id, read=False)

    def by_digest(self, sha256: str, file_format: ModelFormat) -> Model | None:
        row = self._session.scalars(
            select(ModelRow).where(ModelRow.sha256 == sha256, ModelRow.format == file_format)
        ).one_or_none()
        return None if row is None else as_model(row)

    def page(
        self, *, limit: int, cursor: str | None = None, sha256: str | None = None
    ) -> tuple[list[Model], str | None]:
        """Models, newest first, and the cursor of the next page; all, or those with one digest.

        Raises:
            BadCursor: `cursor` was not made here.
        """
        where = [] if sha256 is None else [ModelRow.sha256 == sha256]
        rows, next_cursor = newest_first(
            self._session, ModelRow, limit=limit, cursor=cursor, where=where
        )
        return [as_model(row) for row in rows], next_cursor

    def in_use_by(self, model_id: str) -> str | None:
        """A job that is not final and reads the model; None if there is none."""
        return unfinished_job_using(self._session, model_id)

    def delete(self, model_id: str) -> None:
        """Delete a model that the caller has locked and knows to be unused."""
        self._session.delete(self._session.get_one(ModelRow, model_id))
        self._session.flush()

    def _locked(self, model_id: str, *, read: bool) -> Model | None:
        if not is_id(model_id):
            return None
        row = self._session.get(ModelRow, model_id, with_for_update={"read": read})
        return None if row is None else as_model(row)
