"""Messages to workers, as this worker sends them: for jobs that need another attempt."""

import logging
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from secateur.messages import QUEUE, RUN_JOB

_log = logging.getLogger(__name__)


class Messages:
    """The queue. Nothing here fails: what is not sent now is sent by a later sweep."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def send(self, job_id: str) -> None:
        try:
            self._app.send_task(RUN_JOB, args=[job_id], queue=QUEUE, retry=False)
        except OperationalError as error:
            # The kind alone: the message may quote the broker's URL, and that a password.
            _log.warning("cannot send %s: %s", job_id, type(error).__name__)

    def depth(self) -> int | None:
        """How many messages no worker has taken yet; None if the broker is away."""
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1)
                channel: Any = connection.default_channel
                declared = channel.queue_declare(queue=QUEUE, durable=True, auto_delete=False)
        except OperationalError as error:
            _log.warning("cannot look at the queue: %s", type(error).__name__)
            return None
        return int(declared.message_count)
