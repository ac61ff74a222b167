"""Lists, newest first, a page at a time."""

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, literal, select, tuple_
from sqlalchemy.orm import QueryableAttribute, Session, defer

from store.errors import BadCursor
from store.ids import is_id
from store.tables import DatasetRow, JobRow, ModelRow, SweepRow, UtcDateTime

Row = TypeVar("Row", ModelRow, DatasetRow, JobRow, SweepRow)


def newest_first(
    session: Session,
    table: type[Row],
    *,
    limit: int,
    cursor: str | None,
    where: Sequence[ColumnElement[bool]] = (),
    without: Sequence[QueryableAttribute[Any]] = (),
) -> tuple[Sequence[Row], str | None]:
    """The rows after `cursor`, and the cursor of the page after them, None at the end.

    A cursor names the last row seen, so rows that come or go in the meantime neither repeat nor
    hide others; rows with the same time are in the order of their ids.

    Args:
        session: To read in.
        table: What to list.
        limit: Most rows of a page.
        cursor: Of the page before; None for the first.
        where: What rows must be like.
        without: Columns that nobody will read.

    Raises:
        BadCursor: `cursor` was not made here.
    """
    query = select(table).where(*where).options(*(defer(column) for column in without))
    if cursor is not None:
        created_at, last_id = _decode(cursor, table.__tablename__)
        query = query.where(
            tuple_(table.created_at, table.id)
            < tuple_(literal(created_at, UtcDateTime()), literal(last_id))
        )
    query = query.order_by(table.created_at.desc(), table.id.desc()).limit(limit + 1)
    rows = session.scalars(query).all()
    if len(rows) <= limit:
        return rows, None
    return rows[:limit], _encode(rows[limit - 1])


def _encode(row: ModelRow | DatasetRow | JobRow | SweepRow) -> str:
    position = json.dumps([row.__tablename__, row.created_at.isoformat(), row.id])
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def _decode(cursor: str, table_name: str) -> tuple[datetime, str]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        name, created_at, last_id = json.loads(base64.urlsafe_b64decode(padded.encode("ascii")))
        # Some times are out of range only once they are in UTC: that is an OverflowError.
        moment = datetime.fromisoformat(created_at).astimezone(UTC)
    except (ValueError, TypeError, OverflowError) as error:
        raise BadCursor(cursor) from error
    if name != table_name or not isinstance(last_id, str) or not is_id(last_id):
        raise BadCursor(cursor)
    return moment, last_id
