"""What libraries say, as far as it may be told."""

import re

_PATH = re.compile(r"(?:[a-z]+://|(?<![\w.])/)[^\s'\"),;]+")
_MOST = 200


def first_line(error: BaseException) -> str:
    """The kind of an exception and its first line, without paths and addresses: those are ours."""
    said = str(error).strip()
    line = _PATH.sub("...", said.splitlines()[0]) if said else ""
    return f"{type(error).__name__}: {line[:_MOST]}" if line else type(error).__name__
