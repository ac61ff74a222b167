"""Waiting for something to happen to a job, or to a sweep."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from anyio.to_thread import run_sync

from service.messages import Messages

Document = TypeVar("Document")


async def document_when(
    get: Callable[[str], Document],
    document_id: str,
    messages: Messages,
    *,
    is_awaited: Callable[[Document], bool],
    wait_s: float,
) -> Document:
    """The document as soon as it is as awaited; as it is after `wait_s` otherwise.

    First listen, then look, then wait: a change between the look and the wait is not missed.

    Raises:
        NotFound: There is no such thing, or no longer.
    """
    document = await run_sync(get, document_id)
    if wait_s <= 0 or is_awaited(document):
        return document
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + wait_s
    async with messages.watch(document_id) as watch:
        is_waiting = True
        while is_waiting:
            document = await run_sync(get, document_id)
            if is_awaited(document):
                return document
            is_waiting = await watch.changed(deadline_s - loop.time())
    # The wait is over; an announcement may have been lost, the row is not.
    return await run_sync(get, document_id)
