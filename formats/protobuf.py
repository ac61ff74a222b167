"""Messages of Protocol Buffers, read where they lie, by rules that leave readers no choice.

A message is a row of fields, each with a number; what a number means, a table says. What is long,
such as the elements of a tensor, is located and never copied. protobuf itself takes the last of two
values of a field that should be there once, merges two messages, and keeps what it does not know:
each of these is refused here, so that whoever reads the bytes later finds what was found here.

Source: https://protobuf.dev/programming-guides/encoding/
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from mmap import mmap

_VARINT, _FIXED_64, _LENGTH, _FIXED_32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED_64: 8, _FIXED_32: 4}
_LONGEST_VARINT = 10
_SIGN, _MODULUS = 2**63, 2**64
_MAX_NUMBER = 2**29 - 1
_CHUNK_BYTES = 2**20
_NOT_LAST = bytes(range(0x80, 0x100))
_TOO_LONG_VARINT = re.compile(rb"[\x80-\xff]{10}", re.DOTALL)


class ProtobufError(ValueError):
    """The bytes are not such a message."""


class CutShortError(ProtobufError):
    """The message ends in the middle of a field: the rest of the file is missing."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one file may hold. ``fields`` counts them in all messages that are looked at."""

    fields: int = 10_000_000
    depth: int = 100
    text_bytes: int = 2**16
    integers: int = 2**16


@dataclass(frozen=True, slots=True)
class Span:
    """Where bytes are: from ``start`` up to, and without, ``end``."""

    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Table:
    """The fields of a message, by number; any other is refused.

    Attributes:
        name: Of the message, as its documentation calls it.
        integer: One number.
        integers: Any count of numbers, packed or one by one.
        one: Text, bytes or a message.
        many: Any count of those.
        counted: Any count of numbers, which are counted and not read.
        fixed: The same, of numbers of a fixed width.
        ignored: What may be there, and is not looked at.
    """

    name: str
    integer: Mapping[int, str] = field(default_factory=dict)
    integers: Mapping[int, str] = field(default_factory=dict)
    one: Mapping[int, str] = field(default_factory=dict)
    many: Mapping[int, str] = field(default_factory=dict)
    counted: Mapping[int, str] = field(default_factory=dict)
    fixed: Mapping[int, str] = field(default_factory=dict)
    ignored: Collection[int] = ()

    def __post_init__(self) -> None:
        # A message knows its fields by their names.
        named = (self.integer, self.integers, self.one, self.many, self.counted, self.fixed)
        names = [name for part in named for name in part.values()]
        numbers = [*self.ignored, *(number for part in named for number in part)]
        assert len(set(names)) == len(names)
        assert len(set(numbers)) == len(numbers)


class Message:
    """One message. Its fields have been located; those within its fields have not."""

    __slots__ = ("_depth", "_found", "_reader", "span", "table")

    def __init__(
        self, reader: "Reader", table: Table, span: Span, depth: int, found: dict[str, list[int]]
    ) -> None:
        self._reader = reader
        self.table = table
        self.span = span
        self._depth = depth
        # Numbers as they are; of what has a length, starts and ends in turn.
        self._found = found

    def has(self, name: str) -> bool:
        return name in self._found

    def integer(self, name: str, default: int = 0) -> int:
        return self._found.get(name, [default])[0]

    def integers(self, name: str) -> tuple[int, ...]:
        return tuple(self._found.get(name, ()))

    def count(self, name: str) -> int:
        """Say how many numbers there are in a field that is only counted."""
        return self._found.get(name, [0])[0]

    def spans(self, name: str) -> Iterator[Span]:
        found = self._found.get(name, [])
        for start, end in zip(found[::2], found[1::2], strict=True):
            yield Span(start, end)

    def span_of(self, name: str) -> Span | None:
        return next(self.spans(name), None)

    def bytes_of(self, name: str) -> bytes:
        return next((self._reader.read(span) for span in self.spans(name)), b"")

    def text(self, name: str) -> str:
        return next(self.texts(name), "")

    def texts(self, name: str) -> Iterator[str]:
        """Read texts.

        Raises:
            ProtobufError: One is no UTF-8, or too long.
        """
        for span in self.spans(name):
            try:
                yield self._reader.read(span).decode()
            except UnicodeDecodeError:
                raise ProtobufError(f"{self.table.name}.{name} is no text") from None

    def message(self, name: str, table: Table) -> "Message | None":
        return next(self.messages(name, table), None)

    def messages(self, name: str, table: Table) -> Iterator["Message"]:
        """Look into messages, one after another.

        Raises:
            ProtobufError: One does not follow the rules.
        """
        for span in self.spans(name):
            yield self._reader.message(table, span, depth=self._depth + 1)


class Reader:
    """Reads messages from bytes.

    Args:
        data: All of them. Never changed.
        limits: What is too much.
    """

    def __init__(self, data: bytes | mmap, *, limits: Limits | None = None) -> None:
        self._data = data
        self._limits = limits or Limits()
        self._fields_left = self._limits.fields

    def read(self, span: Span) -> bytes:
        """Copy text or a few bytes.

        Raises:
            ProtobufError: They are too many.
        """
        if span.size_bytes > self._limits.text_bytes:
            raise ProtobufError(
                f"a text has {span.size_bytes} bytes; at most {self._limits.text_bytes} are taken"
            )
        return self._data[span.start : span.end]

    def message(self, table: Table, span: Span | None = None, *, depth: int = 0) -> Message:
        """Locate the fields of one message; of all bytes, where no span is given.

        Raises:
            ProtobufError: It does not follow the rules.
        """
        where = Span(0, len(self._data)) if span is None else span
        if depth > self._limits.depth:
            raise ProtobufError(f"messages lie in messages, more than {self._limits.depth} deep")
        try:
            found = self._locate(table, where)
        except CutShortError as error:
            if not depth:
                raise
            # Within another message, the length of which is right, it is no missing end.
            raise ProtobufError(str(error)) from None
        return Message(self, table, where, depth, found)

    def _locate(self, table: Table, span: Span) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        position, end = span.start, span.end
        while position < end:
            self._spend()
            tag, position = self._varint(position, end)
            number, wire = tag >> 3, tag & 7
            if wire == _VARINT:
                value, position = self._varint(position, end)
                self._take_number(table, found, number, value)
            elif wire == _LENGTH:
                length, position = self._varint(position, end)
                if length > end - position:
                    raise CutShortError(f"{table.name} ends in the middle of a field")
                self._take_length(table, found, number, Span(position, position + length))
                position += length
            elif wire in _FIXED_BYTES:
                if _FIXED_BYTES[wire] > end - position:
                    raise CutShortError(f"{table.name} ends in the middle of a field")
                self._take_fixed(table, found, number, _FIXED_BYTES[wire])
                position += _FIXED_BYTES[wire]
            else:
                raise ProtobufError(f"{table.name} has a group, or is no message")
        return found

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        data = self._data
        value = shift = 0
        for place in range(position, min(position + _LONGEST_VARINT, end)):
            byte = data[place]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >= _MODULUS or (byte == 0 and place > position):
                    raise ProtobufError("a number is written longer than it is")
                return value, place + 1
            shift += 7
        if end - position >= _LONGEST_VARINT:
            raise ProtobufError("a number is longer than any")
        raise CutShortError("it ends in the middle of a number")

    def _spend(self) -> None:
        self._fields_left -= 1
        if self._fields_left < 0:
            raise ProtobufError(f"it has more than {self._limits.fields} fields")

    def _take_number(
        self, table: Table, found: dict[str, list[int]], number: int, value: int
    ) -> None:
        if number in table.integer:
            self._take_once(table, found, table.integer[number]).append(_signed(value))
        elif number in table.integers:
            self._append(table, found, table.integers[number], value)
        elif number in table.counted:
            found.setdefault(table.counted[number], [0])[0] += 1
        else:
            _refuse_unknown(table, number, "a number")

    def _take_length(
        self, table: Table, found: dict[str, list[int]], number: int, span: Span
    ) -> None:
        if number in table.many:
            found.setdefault(table.many[number], []).extend((span.start, span.end))
        elif number in table.one:
            self._take_once(table, found, table.one[number]).extend((span.start, span.end))
        elif number in table.integers:
            position = span.start
            while position < span.end:
                value, position = self._packed(position, span.end)
                self._append(table, found, table.integers[number], value)
        elif number in table.counted:
            found.setdefault(table.counted[number], [0])[0] += self._count_varints(span)
        elif number in table.fixed:
            self._take_bytes(table, found, number, span.size_bytes)
        else:
            _refuse_unknown(table, number, "something with a length")

    def _packed(self, position: int, end: int) -> tuple[int, int]:
        try:
            return self._varint(position, end)
        except CutShortError as error:
            raise ProtobufError(str(error)) from None

    def _take_fixed(
        self, table: Table, found: dict[str, list[int]], number: int, size_bytes: int
    ) -> None:
        if number in table.fixed:
            self._take_bytes(table, found, number, size_bytes)
        else:
            _refuse_unknown(table, number, "a number of a fixed width")

    def _take_bytes(
        self, table: Table, found: dict[str, list[int]], number: int, size_bytes: int
    ) -> None:
        """Count the bytes of numbers of a fixed width; how wide they are, the caller knows."""
        found.setdefault(table.fixed[number], [0])[0] += size_bytes

    def _take_once(self, table: Table, found: dict[str, list[int]], name: str) -> list[int]:
        if name in found:
            raise ProtobufError(f"{table.name}.{name} is there twice")
        return found.setdefault(name, [])

    def _append(self, table: Table, found: dict[str, list[int]], name: str, value: int) -> None:
        values = found.setdefault(name, [])
        if len(values) >= self._limits.integers:
            raise ProtobufError(
                f"{table.name}.{name} has more than {self._limits.integers} numbers"
            )
        values.append(_signed(value))

    def _count_varints(self, span: Span) -> int:
        count = 0
        # Pieces overlap, so that none that is too long lies across two of them.
        for start in range(span.start, span.end, _CHUNK_BYTES):
            end = min(start + _CHUNK_BYTES, span.end)
            piece = self._data[start:end]
            count += len(piece.translate(None, _NOT_LAST))
            around = self._data[max(span.start, start - _LONGEST_VARINT) : end]
            if _TOO_LONG_VARINT.search(around):
                raise ProtobufError("a number is longer than any")
        if span.size_bytes and self._data[span.end - 1] >= 0x80:
            raise ProtobufError("it ends in the middle of a number")
        return count


def field_of(number: int, *pieces: bytes) -> bytes:
    """Write a field that is text, bytes or a message."""
    data = b"".join(pieces)
    return b"".join((_written(number << 3 | _LENGTH), _written(len(data)), data))


def integer_of(number: int, value: int) -> bytes:
    """Write a field that is a number."""
    return _written(number << 3 | _VARINT) + _written(value % _MODULUS)


def _written(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*written, value))


def _signed(value: int) -> int:
    return value - _MODULUS if value >= _SIGN else value


def _refuse_unknown(table: Table, number: int, what: str) -> None:
    if number not in table.ignored or not 1 <= number <= _MAX_NUMBER:
        raise ProtobufError(f"{table.name} has {what} as its field {number}, which is not known")
