"""Finding what was lost: attempts that fell silent, messages that never came, blobs nobody owns."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from secateur.precision import Precision
from store import slots
from store.blobs import BlobStore
from store.collect import remove_orphans
from store.ids import new_id
from store.jobs import Jobs
from store.session import session_scope
from store.workers import Workers
from worker.messages import Messages
from worker.reads import readable_formats
from worker.settings import WorkerSettings

_log = logging.getLogger(__name__)

# Messages of a long queue are rarely lost ones. Sent as often as in an empty queue, they would grow
# faster than they are worked off.
_PATIENCE_WITH_A_QUEUE = 20

# A sweep that takes long makes no worker look gone.
_MISSED_SWEEPS = 6

_TIDY_EVERY_S = 3600.0
# Older than any upload or delivery that is still going on.
_ABANDONED_AFTER = timedelta(days=1)


class Sweeper:
    """A thread in every worker. Several may sweep at once: each change is made by one of them."""

    def __init__(
        self,
        settings: WorkerSettings,
        engine: Engine,
        blobs: BlobStore,
        messages: Messages,
        announce: Callable[[str], None],
        precisions: Callable[[], tuple[Precision, ...]] = tuple,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._blobs = blobs
        self._messages = messages
        self._announce = announce
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweep")
        self._tidy_at = time.monotonic()
        self._worker_id = new_id("wrk")
        self._formats = readable_formats()
        self._precisions = precisions

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
            with suppress(OperationalError), session_scope(self._engine) as session:
                Workers(session).gone(self._worker_id)

    def sweep(self) -> None:
        """Look once."""
        self._be_seen()
        self.release()
        self._send_again()
        self.send_next()
        if time.monotonic() >= self._tidy_at:
            self._tidy_at = time.monotonic() + _TIDY_EVERY_S
            self._tidy()

    def _be_seen(self) -> None:
        """Say that this worker is up, what it reads, and what it computes with."""
        precisions = self._precisions()
        now = datetime.now(UTC)
        patience = timedelta(seconds=self._settings.sweep_s * _MISSED_SWEEPS)
        with session_scope(self._engine) as session:
            Workers(session).alive(
                self._worker_id, self._formats, precisions, now=now, until=now + patience
            )

    def release(self) -> None:
        """Take jobs from attempts that fell silent, and have them tried again."""
        with session_scope(self._engine) as session:
            released = Jobs(session).release_lost(
                datetime.now(UTC),
                silent_for=timedelta(seconds=self._settings.silent_s),
                max_attempts=self._settings.max_attempts,
            )
            lost = (*released.queued, *released.failed, *released.canceled)
            sweeps = Jobs(session).sweeps_of(lost)
        for job_id in lost:
            _log.warning("%s has lost its worker", job_id)
        for changed in (*lost, *sweeps):
            self._announce(changed)
        for job_id in released.queued:
            self._messages.send(job_id)
        if sweeps:
            self.send_next()

    def send_next(self) -> None:
        """Have the jobs of sweeps done that come next, as many as may run."""
        with session_scope(self._engine) as session:
            next_ids = slots.send_next(
                session, datetime.now(UTC), most=self._settings.sweep_jobs_max
            )
        for job_id in next_ids:
            self._messages.send(job_id)

    def _send_again(self) -> None:
        depth = self._messages.depth()
        if depth is None:
            return
        patience = _PATIENCE_WITH_A_QUEUE if depth else 1
        older_than = timedelta(seconds=self._settings.waiting_s * patience)
        with session_scope(self._engine) as session:
            waiting = Jobs(session).waiting(datetime.now(UTC), older_than=older_than)
        # Those of other queues are for workers that read them: nobody else would take them.
        for job_id in filter(self._messages.is_ours, waiting):
            _log.info("%s has waited long: its message is sent again", job_id)
            self._messages.send(job_id)

    def _tidy(self) -> None:
        before = datetime.now(UTC) - _ABANDONED_AFTER
        self._blobs.abort_stale(before)
        with session_scope(self._engine) as session:
            removed = remove_orphans(session, self._blobs, before=before)
        if removed:
            _log.info("%d blobs that belonged to nothing are removed", len(removed))

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self.sweep()
            except SQLAlchemyError:
                # The database is away, or somebody was faster; the next round is soon.
                _log.exception("the sweep is put off")
            self._closing.wait(self._settings.sweep_s)
