"""Conditions, preferences and ranges in request headers (RFC 9110, sections 12 to 14)."""

import re
from dataclasses import dataclass

# Up to 18 digits: no file is longer, and int() refuses to read thousands.
_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.IGNORECASE | re.ASCII)

_WEIGHT = re.compile(r"q=(0(\.\d{0,3})?|1(\.0{0,3})?)", re.ASCII)


@dataclass(frozen=True)
class ByteRange:
    """Part of a file: from `start` up to, not including, `stop`."""

    start: int
    stop: int


class Unsatisfiable(Exception):
    """The range begins after the file's end."""


def is_match(if_none_match: str | None, etag: str) -> bool:
    """Whether the caller has this version already."""
    if if_none_match is None:
        return False
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return "*" in tags or etag in tags


def is_preferred(accept: str | None, media_type: str) -> bool:
    """Whether a caller asks for this kind by name, rather than for JSON."""
    weights = dict(_weighted(part) for part in (accept or "").split(","))
    wanted = weights.get(media_type, 0.0)
    return wanted > 0 and wanted >= weights.get("application/json", 0.0)


def _weighted(part: str) -> tuple[str, float]:
    kind, *parameters = (each.strip().lower() for each in part.split(";"))
    weights = (each[2:] for each in parameters if _WEIGHT.fullmatch(each))
    return kind, float(next(weights, "1"))


def requested_range(
    header: str | None, *, if_range: str | None, etag: str, size_bytes: int
) -> ByteRange | None:
    """The part that is asked for; None for the whole.

    What is no single byte range is answered with the whole, as RFC 9110 allows: other units, broken
    headers, several ranges, and a range of another version than ours (`If-Range`).

    Raises:
        Unsatisfiable: The range begins after the end.
    """
    if header is None or (if_range is not None and if_range.strip() != etag):
        return None
    found = _RANGE.fullmatch(header.strip())
    if found is None or found.groups() == ("", ""):
        return None
    first, last = (int(digits) if digits else None for digits in found.groups())
    if first is None:  # The last so many bytes.
        assert last is not None
        start, stop = max(0, size_bytes - last), size_bytes
    else:
        if last is not None and last < first:
            return None
        start, stop = first, size_bytes if last is None else min(last + 1, size_bytes)
    if start >= size_bytes:
        raise Unsatisfiable
    return ByteRange(start, stop)
