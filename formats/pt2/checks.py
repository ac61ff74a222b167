"""Small checks that are put together into the schema: each takes a value and returns a clean one.

What is returned holds nothing that was not looked at, so that it can be written to a new file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Never

from formats.errors import shown
from formats.pt2.findings import Finding

Check = Callable[[Any], Any]

_INT64 = 2**63
_SPECIAL_FLOATS = frozenset(("Infinity", "-Infinity", "NaN"))


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Finding(f"{shown(value)} is not true or false")
    return value


def integer(value: Any) -> int:
    # True is an int to Python, and not to torch.
    if type(value) is not int or not -_INT64 <= value < _INT64:
        raise Finding(f"{shown(value)} is not an integer of 64 bits")
    return value


def natural(value: Any) -> int:
    if integer(value) < 0:
        raise Finding(f"{shown(value)} is negative")
    return integer(value)


def number(value: Any) -> float | int | str:
    """Check a float; JSON has no word for infinity, so torch writes a string for it."""
    if isinstance(value, str) and value in _SPECIAL_FLOATS:
        return value
    if type(value) is float:
        return value
    return integer(value)


def one_of(*allowed: int) -> Check:
    def check(value: Any) -> int:
        if type(value) is not int or value not in allowed:
            raise Finding(f"{shown(value)} is not one of {', '.join(map(str, allowed))}")
        return value

    return check


def text(check_text: Callable[[str], str]) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise Finding(f"{shown(value)} is not a text")
        return check_text(value)

    return check


def optional(inner: Check) -> Check:
    def check(value: Any) -> Any:
        return None if value is None else inner(value)

    return check


def list_of(inner: Check) -> Check:
    def check(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise Finding(f"{shown(value)} is not a list")
        clean = []
        for index, item in enumerate(value):
            try:
                clean.append(inner(item))
            except Finding as finding:
                raise finding.inside(f"[{index}]") from None
        return clean

    return check


def map_of(key: Callable[[str], str], inner: Check) -> Check:
    def check(value: Any) -> dict[str, Any]:
        clean = {}
        for name, item in _object(value).items():
            try:
                clean[key(name)] = inner(item)
            except Finding as finding:
                raise finding.inside(f"[{shown(name)}]") from None
        return clean

    return check


@dataclass(frozen=True, slots=True)
class Maybe:
    """A field that a file may lack, as files of older versions of torch do."""

    check: Check


def record(fields: Mapping[str, Check | Maybe]) -> Check:
    """An object with exactly these fields."""

    def check(value: Any) -> dict[str, Any]:
        given = _object(value)
        if unknown := given.keys() - fields.keys():
            raise Finding(f"field {shown(min(unknown))} is unknown")
        clean = {}
        for name, field in fields.items():
            if name in given:
                inner = field.check if isinstance(field, Maybe) else field
                try:
                    clean[name] = inner(given[name])
                except Finding as finding:
                    raise finding.inside(f".{name}") from None
            elif not isinstance(field, Maybe):
                raise Finding(f"field {name} is missing")
        return clean

    return check


def union(variants: Mapping[str, Check]) -> Check:
    """An object with exactly one field, whose name says what the value is."""

    def check(value: Any) -> dict[str, Any]:
        given = _object(value)
        kind = next(iter(given), "")
        if len(given) != 1 or kind not in variants:
            raise Finding(f"{shown(kind)} is not one of {', '.join(variants)}")
        try:
            return {kind: variants[kind](given[kind])}
        except Finding as finding:
            raise finding.inside(f".{kind}") from None

    return check


def unsupported(what: str) -> Check:
    def check(_: Any) -> Never:
        raise Finding(f"{what} cannot be taken", is_unsupported=True)

    return check


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Finding(f"{shown(value)} is not an object")
    return value
