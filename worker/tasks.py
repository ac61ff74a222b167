"""What a message makes a worker do."""

from celery import Celery

from secateur.messages import RUN_JOB
from worker.attempt import run_job
from worker.runtime import Runtime


def add_tasks(app: Celery, runtime: Runtime) -> None:
    """Register every name in `secateur.messages`."""

    @app.task(name=RUN_JOB)
    def run(job_id: str) -> None:
        run_job(runtime.place, job_id)
