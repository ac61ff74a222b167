"""`python -m worker`: take jobs until told to stop (SIGTERM or Ctrl-C)."""

import logging
import os
import socket
import sys

from worker import confine
from worker.functions import FUNCTIONS, modules_of
from worker.launch import Launcher
from worker.settings import WorkerSettings

_log = logging.getLogger("secateur.worker")


def main() -> int:
    """Run a worker with settings from the environment."""
    logging.basicConfig(
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        level=logging.INFO,
    )
    confine.hide_from_children()
    settings = WorkerSettings()
    launcher = Launcher(modules_of(FUNCTIONS.values()))
    try:
        launcher.begin()
        return _work(settings, launcher)
    finally:
        launcher.close()


def _work(settings: WorkerSettings, launcher: Launcher) -> int:
    # Imported now, while the fork server imports PyTorch: each takes its time.
    from celery.signals import worker_ready

    from worker.app import make_app

    app, runtime = make_app(settings, launcher)
    worker_ready.connect(_tell, weak=False)
    try:
        # Two workers on one machine are two: remote control needs to tell them apart.
        name = f"worker-{os.getpid()}@{socket.gethostname()}"
        # Workers need not know each other: neither their clocks nor who has gone.
        worker = app.Worker(
            hostname=name, loglevel="INFO", without_mingle=True, without_gossip=True
        )
        worker.start()
        return int(worker.exitcode or 0)
    finally:
        runtime.close()


def _tell(**_: object) -> None:
    """For whoever started the worker, and waits for this line."""
    _log.info("secateur.worker.ready")


if __name__ == "__main__":
    sys.exit(main())
