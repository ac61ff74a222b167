"""Keeping what a child leaves for the next attempt, while it works and when it has been killed."""

import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from store.blobs import CHUNK_BYTES, BlobStore
from store.checkpoints import Checkpoints
from store.claims import Claim
from store.collect import hold, remove_unreferenced
from store.session import session_scope
from worker.order import CHECKPOINT_FILE
from worker.results import BadResult, opened

_log = logging.getLogger(__name__)


class CheckpointKeeper:
    """The newest checkpoint of one attempt, as a blob. Nothing in it is read here."""

    def __init__(self, claim: Claim, engine: Engine, blobs: BlobStore) -> None:
        self._claim = claim
        self._engine = engine
        self._blobs = blobs
        self._seen: tuple[int, int] | None = None
        self._digest = claim.checkpoint

    def look(self, folder: Path, *, idle: Callable[[], None]) -> None:
        """Store the child's checkpoint if there is a new one. A fault costs time, not the job.

        Args:
            folder: The attempt's scratch folder.
            idle: Called between chunks: large files take longer than a heartbeat.
        """
        path = folder / CHECKPOINT_FILE
        try:
            found = path.lstat()
        except FileNotFoundError:
            return
        mark = (found.st_ino, found.st_mtime_ns)
        if mark == self._seen:
            return
        try:
            self._store(path, idle)
        except (BadResult, OSError, OperationalError):
            _log.exception("%s: its checkpoint is not kept", self._claim.job_id)
            return
        self._seen = mark

    def forget(self) -> None:
        """Remove the blob, once no row refers to it: the job has ended."""
        if self._digest is None:
            return
        try:
            with session_scope(self._engine) as session:
                remove_unreferenced(session, self._blobs, [self._digest])
        except OperationalError:
            # What nobody refers to is found and removed later.
            _log.exception("%s: its checkpoint is left behind", self._claim.job_id)

    def _store(self, path: Path, idle: Callable[[], None]) -> None:
        with self._blobs.writer() as writer, opened(path) as file:
            while chunk := file.read(CHUNK_BYTES):
                writer.write(chunk)
                idle()
            sha256 = writer.seal()
            with session_scope(self._engine) as session:
                hold(session, [sha256])
                is_ours = Checkpoints(session).keep(
                    self._claim.job_id,
                    attempt=self._claim.attempt,
                    sha256=sha256,
                    size_bytes=os.fstat(file.fileno()).st_size,
                    now=datetime.now(UTC),
                )
                if not is_ours:
                    return
                writer.commit()
        if self._digest is not None and self._digest != sha256:
            with session_scope(self._engine) as session:
                remove_unreferenced(session, self._blobs, [self._digest])
        self._digest = sha256
