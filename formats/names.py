"""Names in messages of Protocol Buffers: of nodes, tensors, functions."""

from formats.errors import UnsafeFile

_MAX_CHARACTERS = 2048


def checked_name(name: str) -> str:
    """Return a name that can be shown and written anywhere.

    Raises:
        FormatError: It cannot.
    """
    if not name.isprintable() or len(name) > _MAX_CHARACTERS:
        raise UnsafeFile(name, "it is a name, and is too long or has characters that are not taken")
    return name
