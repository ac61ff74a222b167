"""`python -m worker.health`: whether a worker on this machine answers, for container checks."""

import socket
import sys
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from worker.settings import WorkerSettings

_TIMEOUT_S = 10.0


def is_answering(broker_url: str) -> bool:
    """Ask the workers of this machine; one answer is enough."""
    app = Celery(broker=broker_url, set_as_current=False)
    control: Any = app.control  # celery-types takes a matcher's name for a function.
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1)
            answers = control.broadcast(
                "ping",
                connection=connection,
                reply=True,
                timeout=_TIMEOUT_S,
                limit=1,
                pattern=f"*@{socket.gethostname()}",
                matcher="glob",
            )
    except OperationalError:
        return False
    return bool(answers)


if __name__ == "__main__":
    sys.exit(0 if is_answering(WorkerSettings().broker_url) else 1)
