"""Messages to workers, as this worker sends them: for jobs that need another attempt."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy.exc import SQLAlchemyError

from secateur.messages import QUEUE, RUN_JOB, queue_of
from secateur.models import ModelFormat

_log = logging.getLogger(__name__)


class Messages:
    """The queue. Nothing here fails: what is not sent now is sent by a later sweep."""

    def __init__(
        self,
        app: Celery,
        format_of: Callable[[str], ModelFormat | None],
        formats: Iterable[ModelFormat],
    ) -> None:
        """Say how the format of a job's model is found, and which of them this worker reads."""
        self._app = app
        self._format_of = format_of
        self._queues = {QUEUE, *map(queue_of, formats)}

    def is_ours(self, job_id: str) -> bool:
        """Whether this worker takes from the queue that a job is in."""
        return queue_of(self._format_of(job_id)) in self._queues

    def send(self, job_id: str) -> None:
        try:
            queue = queue_of(self._format_of(job_id))
        except SQLAlchemyError as error:
            _log.warning("cannot look for %s: %s", job_id, type(error).__name__)
            return
        try:
            self._app.send_task(RUN_JOB, args=[job_id], queue=queue, retry=False)
        except OperationalError as error:
            # The kind alone: the message may quote the broker's URL, and that a password.
            _log.warning("cannot send %s: %s", job_id, type(error).__name__)

    def depth(self) -> int | None:
        """How many messages wait in the queues of this worker; None if the broker is away."""
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1)
                channel: Any = connection.default_channel
                return sum(
                    int(channel.queue_declare(queue=queue, durable=True, auto_delete=False)[1])
                    for queue in self._queues
                )
        except OperationalError as error:
            _log.warning("cannot look at the queue: %s", type(error).__name__)
            return None
