"""What the service tells the workers, and hears of them."""

import asyncio
import logging
import resource
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import redis
import redis.asyncio
from celery import Celery
from kombu.exceptions import OperationalError

from secateur.messages import RUN_JOB, job_channel, queue_of, redis_url
from secateur.models import ModelFormat

logger = logging.getLogger("secateur.service")

# A broker is near, or of no use: requests wait no longer than this for it.
_TIMEOUT_S = 2
# redis-py lets some of the system's errors through, as when no more files can be opened.
_BROKEN = (redis.RedisError, OSError)


class Messages(Protocol):
    """How jobs are announced. Nothing here can fail a request: the job's row is the truth."""

    def send(self, job_id: str, model_format: ModelFormat) -> None:
        """Wake a worker for a queued job. The sweep does it again if this gets lost.

        Args:
            job_id: The job.
            model_format: Of its model: a worker is woken that reads it.
        """

    def announce(self, job_id: str) -> None:
        """Wake whoever watches a job, its worker and requests that wait; likewise for a sweep."""

    def watch(self, job_id: str) -> AbstractAsyncContextManager["Watch"]:
        """Hear of what happens to a job, or to a sweep, from here on."""

    def check(self) -> None:
        """Raise `OSError` if the broker does not answer."""

    async def close(self) -> None:
        """Let go of connections."""


class Watch(Protocol):
    """Changes of one job, as they are announced."""

    async def changed(self, timeout_s: float) -> bool:
        """Wait for the next change. False: none came in time, or none can be heard of."""


class CeleryMessages:
    """Messages by Celery's broker; where that is Redis, announcements go through it too."""

    def __init__(self, broker_url: str) -> None:
        self._celery = Celery("secateur.service", broker=broker_url, set_as_current=False)
        self._celery.conf.update(
            broker_connection_timeout=_TIMEOUT_S,
            broker_transport_options={
                "socket_connect_timeout": _TIMEOUT_S,
                "socket_timeout": _TIMEOUT_S,
                # A request does not wait for a broker to come back: the sweep sends again.
                "max_retries": 0,
            },
            task_ignore_result=True,  # The job's row is the result.
        )
        url = redis_url(broker_url)
        self._publisher = None
        self._subscriber = None
        if url is not None:
            timeouts: dict[str, Any] = {
                "socket_connect_timeout": _TIMEOUT_S,
                "socket_timeout": _TIMEOUT_S,
            }
            self._publisher = redis.Redis.from_url(url, **timeouts)
            self._subscriber = redis.asyncio.Redis.from_url(
                url, max_connections=_most_watches(), **timeouts
            )

    def send(self, job_id: str, model_format: ModelFormat) -> None:
        try:
            self._celery.send_task(
                RUN_JOB,
                args=[job_id],
                queue=queue_of(model_format),
                retry=False,
                ignore_result=True,
            )
        except (OperationalError, OSError) as error:
            _warn("secateur.service.send_failed", job_id, error)

    def announce(self, job_id: str) -> None:
        if self._publisher is None:
            return
        try:
            self._publisher.publish(job_channel(job_id), "changed")
        except _BROKEN as error:
            _warn("secateur.service.announce_failed", job_id, error)

    @asynccontextmanager
    async def watch(self, job_id: str) -> AsyncIterator[Watch]:
        if self._subscriber is None:
            yield _Deaf()
            return
        async with self._subscriber.pubsub() as subscription:
            try:
                await subscription.subscribe(job_channel(job_id))
                # The server confirms: what is announced after this is heard.
                await subscription.get_message(timeout=_TIMEOUT_S)
            except _BROKEN as error:
                _warn("secateur.service.watch_failed", job_id, error)
                yield _Deaf()
                return
            yield _Subscribed(job_id, subscription)

    def check(self) -> None:
        with self._celery.connection_for_write() as connection:
            try:
                connection.ensure_connection(max_retries=0, timeout=_TIMEOUT_S)
            except OperationalError as error:
                raise ConnectionError(str(error)) from error

    async def close(self) -> None:
        self._celery.close()
        if self._publisher is not None:
            self._publisher.close()
        if self._subscriber is not None:
            await self._subscriber.aclose()


class _Subscribed:
    """A subscription to a job's channel."""

    def __init__(self, job_id: str, subscription: redis.asyncio.client.PubSub) -> None:
        self._job_id = job_id
        self._subscription = subscription

    async def changed(self, timeout_s: float) -> bool:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        try:
            while (left_s := deadline_s - loop.time()) > 0:
                message = await self._subscription.get_message(timeout=left_s)
                if message is not None and message["type"] == "message":
                    return True
        except _BROKEN as error:
            _warn("secateur.service.watch_failed", self._job_id, error)
        return False


class _Deaf:
    """Nothing announces: whoever would wait is answered at once."""

    async def changed(self, timeout_s: float) -> bool:
        del timeout_s
        return False


class RecordedMessages:
    """A `Messages` without a broker, that keeps what was sent: for tests and for OpenAPI."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.announced: list[str] = []

    def send(self, job_id: str, model_format: ModelFormat) -> None:
        del model_format
        self.sent.append(job_id)

    def announce(self, job_id: str) -> None:
        self.announced.append(job_id)

    @asynccontextmanager
    async def watch(self, job_id: str) -> AsyncIterator[Watch]:
        del job_id
        yield _Deaf()

    def check(self) -> None:
        """There is nothing that could be down."""

    async def close(self) -> None:
        """There is nothing to let go of."""


def _most_watches() -> int:
    """How many requests may wait: each is two open files, and half of all are for the others.

    Whoever comes when it is full is answered at once, and asks again.
    """
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(1000, open_files // 4))


def _warn(event: str, job_id: str, error: Exception) -> None:
    # The kind alone: a broker's messages may quote its URL, and that a password.
    logger.warning(event, extra={"job_id": job_id, "error": type(error).__name__})
