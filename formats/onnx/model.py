"""Check an ONNX model, alone or in a zip with its external data, and hand on what was checked.

ONNX's own loader opens, by paths that the model names, files beside it; paths that lead elsewhere,
links and hard links have each got past its checks. Here no path from a model is ever opened: the
file itself is one protobuf, or an archive, and external data are members of that archive.
"""

import mmap
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO

from formats.archive import Archive, open_archive
from formats.errors import (
    ArchiveTooLarge,
    NotOnnx,
    TruncatedFile,
    UnreadableFile,
    UnsafeFile,
    UnsupportedProgram,
    shown,
)
from formats.names import checked_name
from formats.onnx import tables
from formats.onnx.graphs import (
    Contents,
    check_size_when_inlined,
    read_function,
    read_graph,
    read_values,
    standard_domain,
)
from formats.onnx.tensors import check_external
from formats.protobuf import CutShortError, Message, ProtobufError, Reader
from formats.sniff import describe, describe_archive, refuse_pickled_archive, refuse_pickles
from formats.tensors import Dimension, TensorInfo

_HEAD_BYTES = 512
_ZIP = b"PK\x03\x04"
# What a protobuf can have at all.
_MAX_MODEL_BYTES = 2**31 - 1
_IN_MEMORY_BYTES = 2**24
_UNKNOWN_PROTOBUF = "an ONNX model"


@dataclass(frozen=True, slots=True)
class OnnxInfo:
    """What an ONNX model says about itself.

    ``parameter_count`` counts elements of initializers that are floating and no scalars.
    ``operators`` says how often each is called, graphs within graphs and functions included; those
    of other domains have them in front, as in ``com.microsoft::Gelu``. ``opsets`` are versions by
    domain, where the standard's own is ``""``.
    """

    inputs: tuple[TensorInfo, ...] | None
    outputs: tuple[TensorInfo, ...] | None
    parameter_count: int
    ir_version: int
    opsets: Mapping[str, int]
    operators: Mapping[str, int]


class CheckedOnnx:
    """An ONNX model that was checked, still open so that it cannot be exchanged.

    Attributes:
        info: What the file says about the model.
    """

    def __init__(
        self, data: bytes | mmap.mmap, *, archive: Archive | None = None, folder: str = ""
    ) -> None:
        self._data = data
        self._archive = archive
        self._folder = folder
        self._sizes: dict[str, int] = {}
        if archive is not None:
            self._sizes = {
                name.removeprefix(folder): member.size_bytes
                for name, member in archive.members.items()
                if name.startswith(folder) and not name.lower().endswith(".onnx")
            }
        self.info, self._external = _read_model(data, self._sizes)

    @property
    def external_locations(self) -> tuple[str, ...]:
        """The files beside the model that hold elements of its tensors."""
        return tuple(sorted(self._external))

    def model_bytes(self) -> bytes:
        """Copy the model as it is in the file, without what is in other files."""
        return self._data[:]

    def external_chunks(self, location: str) -> Iterator[bytes]:
        """Read one of the files beside the model, piece by piece.

        Raises:
            FormatError: It is damaged.
        """
        assert self._archive is not None
        assert location in self._external
        return self._archive.chunks(self._folder + location)


@contextmanager
def open_onnx(path: Path) -> Iterator[CheckedOnnx]:
    """Check an ONNX model, and keep it open as long as what was checked is used.

    Raises:
        FormatError: It is no ONNX model, or something in it is not to be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        refuse_pickles(head)
        if not head.startswith(_ZIP):
            with _mapped(file) as data:
                yield CheckedOnnx(data)
            return
    with open_archive(path, allow_folders=True) as archive:
        name = _find_model(archive)
        with _unpacked(archive, name) as data:
            yield CheckedOnnx(
                data, archive=archive, folder=name.rpartition("/")[0] + "/"[: "/" in name]
            )


def inspect_onnx(path: Path) -> OnnxInfo:
    """Check an ONNX model, and say what is in it.

    Raises:
        FormatError: It is no ONNX model, or something in it is not to be read.
    """
    with open_onnx(path) as model:
        return model.info


@contextmanager
def _mapped(file: IO[bytes]) -> Iterator[bytes | mmap.mmap]:
    size_bytes = file.seek(0, 2)
    if not size_bytes:
        raise NotOnnx(describe(b""))
    if size_bytes > _MAX_MODEL_BYTES:
        raise ArchiveTooLarge("a model with bytes", found=size_bytes, limit=_MAX_MODEL_BYTES)
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


@contextmanager
def _unpacked(archive: Archive, name: str) -> Iterator[bytes | mmap.mmap]:
    if archive.members[name].size_bytes <= _IN_MEMORY_BYTES:
        yield archive.read(name, max_bytes=_IN_MEMORY_BYTES)
        return
    with tempfile.TemporaryFile(prefix="secateur-onnx-") as file:
        for piece in archive.chunks(name):
            file.write(piece)
        file.flush()
        with _mapped(file) as data:
            yield data


def _find_model(archive: Archive) -> str:
    found = [name for name in archive.members if _is_model(PurePosixPath(name))]
    if len(found) == 1:
        return found[0]
    refuse_pickled_archive(archive)
    if found:
        raise NotOnnx(
            f"an archive with {len(found)} ONNX models, {shown(found[0])} and {shown(found[1])} "
            "among them"
        )
    names = {name.removeprefix(archive.root) for name in archive.members}
    raise NotOnnx(describe_archive(names))


def _is_model(path: PurePosixPath) -> bool:
    # macOS puts a shadow beside each file.
    is_shadow = path.name.startswith("._") or "__MACOSX" in path.parts
    return path.suffix.lower() == ".onnx" and not is_shadow


def _read_model(
    data: bytes | mmap.mmap, sizes: Mapping[str, int]
) -> tuple[OnnxInfo, frozenset[str]]:
    reader = Reader(data)
    looks_like = describe(data[:_HEAD_BYTES])
    try:
        model = reader.message(tables.MODEL)
    except CutShortError as error:
        if looks_like != _UNKNOWN_PROTOBUF:
            raise NotOnnx(looks_like) from None
        raise TruncatedFile(str(error)) from None
    except ProtobufError as error:
        if looks_like == _UNKNOWN_PROTOBUF:
            looks_like = f"a damaged one, or another kind of protobuf ({error})"
        raise NotOnnx(looks_like) from None
    try:
        return _describe(model, sizes)
    except ProtobufError as error:
        raise UnreadableFile(str(error)) from None


def _describe(model: Message, sizes: Mapping[str, int]) -> tuple[OnnxInfo, frozenset[str]]:
    graph = model.message("graph", tables.GRAPH)
    opsets = _read_opsets(model)
    if graph is None or not opsets or model.integer("ir_version") < 1:
        raise NotOnnx("a protobuf of something else, or a model that is cut short")
    contents = Contents()
    initialized = read_graph(graph, contents, contents.calls)
    for function in model.messages("functions", tables.FUNCTION):
        read_function(function, contents)
    check_size_when_inlined(contents)
    check_external(contents.external, sizes)
    inputs = [*read_values(graph, "input")]
    outputs = [*read_values(graph, "output")]
    names = [value.text("name") for value in graph.messages("input", tables.VALUE)]
    if len(set(names)) != len(names):
        raise UnsafeFile("", "two inputs have the same name")
    inputs = [value for value, name in zip(inputs, names, strict=True) if name not in initialized]
    if None in inputs:
        raise UnsupportedProgram(
            "one of its inputs has no shape; give it one, where dimensions that vary have names"
        )
    named_inputs, named_outputs = _with_names_for_open_sizes(inputs, outputs)
    locations = frozenset(
        tensor.external.location for tensor in contents.external if tensor.external is not None
    )
    info = OnnxInfo(
        inputs=named_inputs,
        outputs=named_outputs,
        parameter_count=contents.parameter_count,
        ir_version=model.integer("ir_version"),
        opsets=opsets,
        operators=dict(sorted(contents.operators.items())),
    )
    return info, locations


def _read_opsets(model: Message) -> dict[str, int]:
    opsets: dict[str, int] = {}
    for message in model.messages("opset_import", tables.OPSET):
        domain = standard_domain(checked_name(message.text("domain")))
        if domain in opsets:
            raise UnsafeFile(domain, "the model imports two versions of this domain")
        opsets[domain] = message.integer("version")
    return opsets


def _with_names_for_open_sizes(
    inputs: list[TensorInfo | None], outputs: list[TensorInfo | None]
) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...] | None]:
    values = [value for value in (*inputs, *outputs) if value is not None]
    taken = Counter(size for value in values for size in value.shape)
    fresh = (name for number in range(2**31) if (name := f"dim_{number}") not in taken)

    def named(value: TensorInfo) -> TensorInfo:
        shape: list[Dimension] = [size or next(fresh) for size in value.shape]
        return replace(value, shape=tuple(shape))

    named_inputs = tuple(named(value) for value in inputs if value is not None)
    known = [named(value) for value in outputs if value is not None]
    return named_inputs, tuple(known) if len(known) == len(outputs) else None
