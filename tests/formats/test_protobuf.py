"""Messages: what protobuf writes is found, and what readers could take in two ways is refused."""

import mmap

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.protobuf import (
    CutShortError,
    Limits,
    ProtobufError,
    Reader,
    Span,
    Table,
    field_of,
    integer_of,
)

INNER = Table("Inner", integer={1: "number"}, one={2: "inner"})
THING = Table(
    "Thing",
    integer={1: "number"},
    integers={2: "numbers"},
    one={3: "text", 4: "inner"},
    many={5: "texts"},
    counted={6: "counted"},
    fixed={7: "wide"},
    ignored=(8,),
)


def read(data, **limits):
    return Reader(data, limits=Limits(**limits)).message(THING)


def read_all(data, **limits):
    message = read(data, **limits)
    message.text("text")
    message.message("inner", INNER)


def refusal(data, **limits):
    with pytest.raises(ProtobufError) as error:
        read_all(data, **limits)
    return error.value


def test_fields_are_found_by_their_names():
    message = read(
        b"\x08\x96\x01"  # 150, the example of protobuf's documentation.
        + field_of(2, b"\x01\x02")
        + integer_of(2, 3)
        + field_of(3, "é".encode())
        + field_of(4, integer_of(1, -1))
        + field_of(5, b"a")
        + field_of(5, b"")
        + field_of(6, b"\x01\x96\x01")
        + integer_of(6, 5)
        + b"\x3d\x00\x00\x00\x00"
        + field_of(7, bytes(8))
        + b"\x45\x00\x00\x00\x00"
    )
    assert message.integer("number") == 150
    assert message.integers("numbers") == (1, 2, 3)
    assert message.text("text") == "é"
    assert list(message.texts("texts")) == ["a", ""]
    assert message.count("counted") == 3
    assert message.count("wide") == 12
    inner = message.message("inner", INNER)
    assert inner.integer("number") == -1
    assert not inner.has("inner")


def test_what_is_not_there_is_empty():
    message = read(b"")
    assert message.integer("number", 7) == 7
    assert message.integers("numbers") == ()
    assert message.text("text") == ""
    assert message.span_of("text") is None
    assert message.message("inner", INNER) is None
    assert message.count("wide") == 0


def test_long_fields_are_located_and_not_copied(tmp_path):
    path = tmp_path / "long"
    path.write_bytes(field_of(5, bytes(10_000_000)) + field_of(3, b"end"))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        message = Reader(data).message(THING)
        assert message.text("text") == "end"
        assert list(message.spans("texts")) == [Span(5, 10_000_005)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (integer_of(1, 1) + integer_of(1, 1), "Thing.number is there twice"),
        (field_of(4) + field_of(4), "Thing.inner is there twice"),
        (integer_of(9, 1), "has a number as its field 9, which is not known"),
        (integer_of(0, 1), "field 0"),
        (field_of(1, b"\x01"), "has something with a length as its field 1"),
        (integer_of(3, 1), "has a number as its field 3"),
        (b"\x0d\0\0\0\0", "a number of a fixed width as its field 1"),
        (b"\x0b", "group"),
        (b"\x0c", "group"),
        (b"\x0f", "group"),
        (b"\x08\x80\x00", "written longer than it is"),
        (b"\x88\x00\x01", "written longer than it is"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "written longer than it is"),
        (b"\x08" + b"\xff" * 10, "longer than any"),
        (field_of(2, b"\x80"), "middle of a number"),
        (field_of(6, b"\x80"), "middle of a number"),
        (field_of(6, b"\xff" * 10 + b"\x01"), "longer than any"),
        (field_of(3, b"\xff"), "is no text"),
        (field_of(4, b"\x12\x05a"), "middle of a field"),
    ],
)
def test_what_readers_could_take_in_two_ways_is_refused(data, reason):
    assert reason in str(refusal(data))


@pytest.mark.parametrize("data", [b"\x08", b"\x1a\x05abc", b"\x3d\0\0", b"\x1a\xff\xff\x7fabc"])
def test_message_without_its_end_is_cut_short(data):
    assert isinstance(refusal(data), CutShortError)


def test_message_in_a_message_that_ends_early_is_not_a_file_cut_short():
    assert not isinstance(refusal(field_of(4, b"\x08")), CutShortError)


@pytest.mark.parametrize(
    ("data", "limits"),
    [
        (field_of(3, b"abcd"), {"text_bytes": 3}),
        (integer_of(2, 1) * 4, {"integers": 3}),
        (field_of(2, b"\1\1\1\1"), {"integers": 3}),
        (integer_of(6, 1) * 4, {"fields": 3}),
    ],
)
def test_too_much_is_refused(data, limits):
    name = next(iter(limits))
    assert refusal(data, **limits)
    read_all(data, **{name: 4})


def test_messages_in_messages_are_refused_beyond_the_depth():
    data = b""
    for _ in range(6):
        data = field_of(2, data)

    def descend(depth):
        message = Reader(data, limits=Limits(depth=depth)).message(INNER)
        while message is not None:
            message = message.message("inner", INNER)

    descend(6)
    with pytest.raises(ProtobufError, match="more than 5 deep"):
        descend(5)


TENSOR = Table(
    "TensorProto",
    integers={1: "dims"},
    integer={2: "data_type"},
    one={8: "name", 9: "raw_data"},
    many={6: "string_data"},
    counted={5: "int32_data", 7: "int64_data"},
    fixed={4: "float_data", 10: "double_data"},
)
int64s = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5)


@given(
    dims=int64s,
    data_type=st.integers(-(2**31), 2**31 - 1),
    name=st.text(max_size=200),
    raw=st.binary(max_size=300),
    strings=st.lists(st.binary(max_size=9), max_size=4),
    int32s=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5),
    longs=int64s,
    floats=st.lists(st.floats(width=32), max_size=5),
)
def test_what_protobuf_writes_is_read_as_it_was(
    dims, data_type, name, raw, strings, int32s, longs, floats
):
    written = onnx.TensorProto(
        dims=dims,
        data_type=data_type,
        name=name,
        raw_data=raw,
        string_data=strings,
        int32_data=int32s,
        int64_data=longs,
        float_data=floats,
    ).SerializeToString()
    reader = Reader(written)
    message = reader.message(TENSOR)
    assert message.integers("dims") == tuple(dims)
    assert message.integer("data_type") == data_type
    assert message.text("name") == name
    assert message.bytes_of("raw_data") == raw
    assert [reader.read(span) for span in message.spans("string_data")] == strings
    assert message.count("int32_data") == len(int32s)
    assert message.count("int64_data") == len(longs)
    assert message.count("float_data") == 4 * len(floats)


@given(data=st.binary(max_size=60))
def test_any_bytes_are_a_message_or_none(data):
    try:
        message = Reader(data).message(TENSOR)
    except ProtobufError:
        return
    # What passes here, protobuf takes too, and finds the same in it.
    parsed = onnx.TensorProto.FromString(data)
    assert message.integers("dims") == tuple(parsed.dims)
    assert message.count("int64_data") == len(parsed.int64_data)
    assert message.count("float_data") == 4 * len(parsed.float_data)
