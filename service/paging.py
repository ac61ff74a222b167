"""Pages of lists."""

from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import UnknownCursor
from store.errors import BadCursor


@contextmanager
def cursors_checked() -> Iterator[None]:
    """Say of a bad cursor that the caller sent it."""
    try:
        yield
    except BadCursor as error:
        raise UnknownCursor from error
