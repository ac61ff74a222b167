"""What goes through a real broker."""

import asyncio
import json
import socket
import time

import pytest
import valkey

from secateur.messages import QUEUE, RUN_JOB
from secateur.models import ModelFormat
from service.messages import CeleryMessages

JOB = "job_" + "0" * 24


def run(scenario, broker_url):
    """Do something with messages, and close them."""

    async def whole():
        messages = CeleryMessages(broker_url)
        try:
            return await scenario(messages)
        finally:
            await messages.close()

    return asyncio.run(whole())


@pytest.fixture
def broker_url(valkey_socket):
    with valkey.Valkey(unix_socket_path=valkey_socket) as server:
        server.flushall()
    return f"redis+socket://{valkey_socket}"


def test_a_message_carries_the_job_id_and_nothing_else(broker_url, valkey_socket):
    async def scenario(messages):
        await asyncio.to_thread(messages.send, JOB, ModelFormat.PT2)

    run(scenario, broker_url)
    with valkey.Valkey(unix_socket_path=valkey_socket) as server:
        [sent] = server.lrange(QUEUE, 0, -1)
    message = json.loads(sent)
    assert message["headers"]["task"] == RUN_JOB
    assert message["headers"]["argsrepr"] == repr((JOB,)) or JOB in message["headers"]["argsrepr"]


def test_a_model_that_few_workers_read_waits_in_a_queue_of_its_own(broker_url, valkey_socket):
    async def scenario(messages):
        await asyncio.to_thread(messages.send, JOB, ModelFormat.SAVED_MODEL)

    run(scenario, broker_url)
    with valkey.Valkey(unix_socket_path=valkey_socket) as server:
        assert server.llen(QUEUE) == 0
        assert server.llen("jobs.saved_model") == 1


def test_whoever_watches_hears_of_a_change(broker_url):
    async def scenario(messages):
        async with messages.watch(JOB) as watch:
            await asyncio.to_thread(messages.announce, JOB)
            return await watch.changed(60)

    assert run(scenario, broker_url)


def test_changes_of_other_jobs_are_not_heard(broker_url):
    async def scenario(messages):
        async with messages.watch(JOB) as watch:
            await asyncio.to_thread(messages.announce, "job_" + "1" * 24)
            return await watch.changed(0.05)

    assert not run(scenario, broker_url)


def test_a_broker_that_is_gone_fails_nobody(tmp_path):
    assert fails_nobody(f"redis+socket://{tmp_path}/nobody")


def fails_nobody(broker_url):
    async def scenario(messages):
        await asyncio.to_thread(messages.send, JOB, ModelFormat.PT2)
        await asyncio.to_thread(messages.announce, JOB)
        with pytest.raises(ConnectionError):
            await asyncio.to_thread(messages.check)
        async with messages.watch(JOB) as watch:
            return await watch.changed(60)

    return not run(scenario, broker_url)


def test_when_as_many_wait_as_can_the_next_is_answered_at_once(broker_url, monkeypatch):
    monkeypatch.setattr("service.messages._most_watches", lambda: 1)

    async def scenario(messages):
        async with messages.watch(JOB) as first, messages.watch(JOB) as second:
            is_heard_by_second = await second.changed(60)
            await asyncio.to_thread(messages.announce, JOB)
            return await first.changed(60), is_heard_by_second

    assert run(scenario, broker_url) == (True, False)


def test_a_broker_that_says_nothing_keeps_nobody_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr("service.messages._TIMEOUT_S", 0.1)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(f"{tmp_path}/mute")
        mute.listen(10)
        started_s = time.monotonic()
        assert fails_nobody(f"redis+socket://{tmp_path}/mute")
        assert time.monotonic() - started_s < 10


def test_a_broker_that_is_there_is_noticed(broker_url):
    async def scenario(messages):
        await asyncio.to_thread(messages.check)

    run(scenario, broker_url)


def test_without_redis_there_is_nothing_to_hear():
    async def scenario(messages):
        await asyncio.to_thread(messages.announce, JOB)
        async with messages.watch(JOB) as watch:
            return await watch.changed(60)

    assert not run(scenario, "memory://")
