"""Waiting for something to happen to a job."""

import asyncio
from collections.abc import Callable

from anyio.to_thread import run_sync

from secateur.jobs import Job
from service.jobs import JobService


async def job_when(
    jobs: JobService, job_id: str, *, is_awaited: Callable[[Job], bool], wait_s: float
) -> Job:
    """The job as soon as it is as awaited; as it is after `wait_s` otherwise.

    First listen, then look, then wait: a change between the look and the wait is not missed.

    Raises:
        JobNotFound: There is no such job, or no longer.
    """
    job = await run_sync(jobs.get, job_id)
    if wait_s <= 0 or is_awaited(job):
        return job
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + wait_s
    async with jobs.messages.watch(job_id) as watch:
        is_waiting = True
        while is_waiting:
            job = await run_sync(jobs.get, job_id)
            if is_awaited(job):
                return job
            is_waiting = await watch.changed(deadline_s - loop.time())
    # The wait is over; an announcement may have been lost, the row is not.
    return await run_sync(jobs.get, job_id)
