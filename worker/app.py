"""The Celery application: how messages come in, each setting with its reason."""

from typing import Any

from celery import Celery, bootsteps
from kombu import Queue

from secateur.messages import QUEUE, queue_of
from worker.launch import Launcher
from worker.reads import readable_formats
from worker.runtime import Runtime
from worker.settings import WorkerSettings
from worker.tasks import add_tasks

# Longer than any job may run (`run_timeout_s`) plus a day: see below.
_VISIBILITY_TIMEOUT_S = 8 * 86400


def make_app(settings: WorkerSettings, launcher: Launcher) -> tuple[Celery, Runtime]:
    """The application of one worker, and what its tasks share, which the caller closes."""
    app = Celery("secateur.worker", broker=settings.broker_url, set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE,
        task_queues=[Queue(name) for name in dict.fromkeys(map(queue_of, readable_formats()))],
        # One attempt at a time, for it owns the GPU. A thread is enough, as the work is done by a
        # child process; and unlike a pool process, it leaves remote control and shutdown to a main
        # thread that is always free.
        worker_pool="threads",
        worker_concurrency=1,
        # With late acknowledgment, the message being worked on is the only one that a worker
        # holds. The others stay in the queue, for other workers.
        worker_prefetch_multiplier=1,
        task_acks_late=True,
        # Redis gives a message to another worker when it was not acknowledged for this long. It
        # would find nothing to do, as the claim fails. A lost worker's job is found by the sweep,
        # within seconds, so there is no need for it to be short.
        broker_transport_options={
            "visibility_timeout": _VISIBILITY_TIMEOUT_S,
            "socket_connect_timeout": 5.0,
            "socket_keepalive": True,
        },
        # An attempt goes on while the broker is away: the database says whose the job is.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # A message is a job's id. Nothing that runs code when it is read.
        task_serializer="json",
        accept_content=["json"],
        # The job's row is the result.
        task_ignore_result=True,
        # Job ids are all that a worker would tell others; nobody listens.
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    runtime = Runtime(settings, app, launcher)
    add_tasks(app, runtime)
    app.steps["worker"].add(_step(runtime))
    return app, runtime


def _step(runtime: Runtime) -> type[bootsteps.StartStopStep]:
    class RuntimeStep(bootsteps.StartStopStep):
        """Starts before the first message is taken, stops before running tasks are waited for."""

        requires = ("celery.worker.components:Pool",)

        def start(self, parent: Any) -> None:
            del parent
            runtime.start()

        def stop(self, parent: Any) -> None:
            del parent
            runtime.stop()

        def terminate(self, parent: Any) -> None:
            self.stop(parent)

    return RuntimeStep
