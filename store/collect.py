"""Blobs and rows together: which blobs may go.

A blob that is written again while the last row that refers to it is deleted must not vanish under
the new row. So whoever adds a row for a digest and whoever removes a blob first `hold` the digest:

* adding: in one transaction hold, `writer.commit()`, add the row;
* removing: delete the row and commit; then in a transaction of its own `remove_unreferenced`.

A process that dies in between leaves a blob that no row refers to; `remove_orphans` finds it later.
"""

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import func, select, union
from sqlalchemy.orm import Session

from store.blobs import BlobStore
from store.errors import BlobNotFound
from store.tables import ArtifactRow, CheckpointRow, DatasetRow, ModelRow

# Less than any database's limit of parameters.
_BATCH = 500


def hold(session: Session, digests: Iterable[str]) -> None:
    """Keep others from adding or removing these blobs until this transaction ends.

    On SQLite every writing transaction is alone already.
    """
    if session.get_bind().dialect.name != "postgresql":
        return
    # In one order, so that two holders of the same digests never wait for each other.
    for digest in sorted(set(digests)):
        key = int.from_bytes(bytes.fromhex(digest)[:8], signed=True)
        session.execute(select(func.pg_advisory_xact_lock(key)))


def remove_unreferenced(session: Session, blobs: BlobStore, digests: Iterable[str]) -> list[str]:
    """Remove those of the blobs that no row refers to, and give their digests."""
    wanted = set(digests)
    hold(session, wanted)
    unreferenced = sorted(wanted - _referenced(session, wanted))
    for digest in unreferenced:
        blobs.delete(digest)
    return unreferenced


def remove_orphans(session: Session, blobs: BlobStore, *, before: datetime) -> list[str]:
    """Remove blobs stored before a time that no row refers to, and give their digests."""
    old = [digest for digest in blobs.digests() if _is_older(blobs, digest, before)]
    orphans: list[str] = []
    for start in range(0, len(old), _BATCH):
        batch = set(old[start : start + _BATCH])
        # Looked for before they are held: PostgreSQL has room for some thousand locks at a time.
        orphans += batch - _referenced(session, batch)
    return remove_unreferenced(session, blobs, orphans)


def _is_older(blobs: BlobStore, digest: str, before: datetime) -> bool:
    try:
        return blobs.stored_at(digest) < before
    except BlobNotFound:  # Removed just now.
        return False


def _referenced(session: Session, digests: set[str]) -> set[str]:
    tables = (ModelRow, DatasetRow, ArtifactRow, CheckpointRow)
    queries = (select(table.sha256).where(table.sha256.in_(digests)) for table in tables)
    return set(session.scalars(union(*queries)))
