"""Saying that a job, or a sweep, has changed, and hearing it said, through Redis.

Nothing depends on it: rows are the truth, whoever waits looks at them now and then. It makes them
look at once.
"""

import logging
import secrets
import threading
from collections.abc import Callable
from typing import Any

import redis

from secateur.messages import job_channel, redis_url

_log = logging.getLogger(__name__)

_RECONNECT_S = 1.0
_CONNECT_TIMEOUT_S = 2.0
_EVERY_JOB = job_channel("*")


class Announcer:
    """One connection to say, and one to listen on, in a thread of its own."""

    def __init__(self, broker_url: str, *, on_change: Callable[[str], None]) -> None:
        """Prepare it.

        Args:
            broker_url: Celery's, which must be Redis or speak like it.
            on_change: Called with a job's id, from the listening thread, when others announce it.

        Raises:
            ValueError: The broker is not Redis.
        """
        url = redis_url(broker_url)
        if url is None:
            raise ValueError(
                "SECATEUR_BROKER_URL: workers need a Redis-protocol broker; use redis://, "
                f"rediss:// or redis+socket:///path/to.sock, not {broker_url.partition(':')[0]}://"
            )
        self._saying = redis.Redis.from_url(url, socket_connect_timeout=_CONNECT_TIMEOUT_S)
        self._hearing = redis.Redis.from_url(url, socket_connect_timeout=_CONNECT_TIMEOUT_S)
        self._on_change = on_change
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="announcements", daemon=True)
        # What this worker says itself comes back to it, and is no news.
        self._signature = secrets.token_hex(8).encode()
        self._farewell = f"secateur:worker:{self._signature.decode()}"

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._say(self._farewell)
        if self._thread.is_alive():
            # It may be connecting to a server that is gone; it is a daemon, so nobody waits longer.
            self._thread.join(_CONNECT_TIMEOUT_S)
        self._saying.close()

    def announce(self, job_id: str) -> None:
        self._say(job_channel(job_id))

    def _say(self, channel: str) -> None:
        try:
            self._saying.publish(channel, self._signature)
        except redis.RedisError as error:
            # The kind alone: the message may quote the URL, and that a password.
            _log.warning("cannot announce on %s: %s", channel, type(error).__name__)

    def _listen(self) -> None:
        while not self._closing.is_set():
            try:
                self._listen_once()
            except redis.RedisError as error:
                _log.warning("cannot hear announcements: %s", type(error).__name__)
                self._closing.wait(_RECONNECT_S)
        self._hearing.close()

    def _listen_once(self) -> None:
        hearing: Any = self._hearing  # redis-py has no types for this part of it.
        with hearing.pubsub(ignore_subscribe_messages=True) as subscription:
            subscription.psubscribe(_EVERY_JOB)
            subscription.subscribe(self._farewell)
            for message in subscription.listen():
                if self._closing.is_set():
                    return
                if message["data"] != self._signature:
                    channel = message["channel"].decode()
                    self._on_change(channel.removeprefix(job_channel("")))
