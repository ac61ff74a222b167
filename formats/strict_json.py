"""JSON as data of known cost: its size and depth are limited before anything parses it.

``json.loads`` alone recurses as deep as the text asks, and lets the last of two equal keys win, so
that two readers may see two documents in one text.
"""

import json
import re
from typing import Any

MAX_BYTES = 32 * 2**20
MAX_DEPTH = 80

# The closing quote is optional, and the repetition never gives back: any text is read once.
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NOT_BRACKETS = re.compile(r"[^\[\]{}]++")


class JsonError(ValueError):
    """The text is not the plain JSON that is allowed; the message says why."""


def loads(text: str | bytes, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> Any:
    """Parse a JSON text that may have been written by an enemy.

    Raises:
        JsonError: Not UTF-8, not JSON, too long, too deep, a key twice, or NaN as a bare word.
    """
    if len(text) > max_bytes:
        raise JsonError(f"{len(text)} bytes of JSON, at most {max_bytes} are allowed")
    try:
        characters = text if isinstance(text, str) else text.decode("utf-8")
        _check_depth(characters, max_depth)
        return json.loads(
            characters, object_pairs_hook=_without_duplicates, parse_constant=_no_constant
        )
    except UnicodeDecodeError:
        raise JsonError("not UTF-8") from None
    except json.JSONDecodeError as error:
        raise JsonError(f"not JSON at character {error.pos}: {error.msg}") from None
    except ValueError as error:
        # Also Python's own limit on the digits of an integer.
        raise JsonError(str(error)) from None


def _check_depth(text: str, max_depth: int) -> None:
    depth = 0
    for bracket in _NOT_BRACKETS.sub("", _STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > max_depth:
            raise JsonError(f"nested more than {max_depth} deep")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise JsonError("an object names the same key twice")
    return found


def _no_constant(word: str) -> Any:
    raise JsonError(f"{word} is not JSON")
