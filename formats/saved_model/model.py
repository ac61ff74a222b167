"""Check a TensorFlow SavedModel in a zip or tar, and hand on what was checked.

A SavedModel is code in TensorFlow's graph language. What is handed on is written anew: one graph's
functions that the model's objects can call, each of known operations, the objects, one signature,
and the variables. What saves and restores, initializes, or belongs to other graphs is left out.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from formats.archive import Members, open_archive
from formats.errors import (
    NotASavedModel,
    TruncatedFile,
    UnreadableFile,
    UnsafeFile,
    UnsupportedProgram,
    shown,
)
from formats.names import checked_name
from formats.protobuf import (
    CutShortError,
    Message,
    ProtobufError,
    Reader,
    field_of,
    integer_of,
)
from formats.saved_model import tables
from formats.saved_model.graphs import (
    map_of,
    reachable,
    read_library,
    read_node,
    shape_of,
)
from formats.saved_model.objects import DTYPES, Objects, read_objects
from formats.saved_model.operators import MEMBER, check_operators
from formats.sniff import describe, describe_archive, refuse_pickles
from formats.tar import open_tar
from formats.tensors import Dimension, ModelFacts, TensorInfo

SIGNATURE = "serving_default"
_TAG = "serve"
_HEAD_BYTES = 512
_ZIP, _GZIP, _TAR = b"PK\x03\x04", b"\x1f\x8b", b"ustar"
_TAR_MAGIC_OFFSET = 257
_MAX_GRAPH_BYTES = 2**29
_VARIABLES = "variables/variables"
_SHARD = re.compile(r"variables/variables\.data-([0-9]{5})-of-([0-9]{5})")
# Variables that are in two places of the tree of objects are saved twice, or once.
_MAX_TIMES = 4
_SMALL_BYTES = 2**24


class CheckedSavedModel:
    """A SavedModel that was checked, still open so that it cannot be exchanged.

    Attributes:
        info: What the file says about the model.
    """

    def __init__(self, container: Members) -> None:
        self._container = container
        self._root = _find_root(container)
        self._shards = _find_shards(
            name.removeprefix(self._root)
            for name in container.members
            if name.startswith(self._root)
        )
        data = container.read(self._root + MEMBER, max_bytes=_MAX_GRAPH_BYTES)
        data_bytes = sum(
            container.members[self._root + name].size_bytes for name in self._shards[1:]
        )
        try:
            self.info, self._clean = _read_model(data, data_bytes)
        except CutShortError as error:
            raise TruncatedFile(f"{MEMBER}: {error}") from None
        except ProtobufError as error:
            raise UnreadableFile(f"{MEMBER}: {error}") from None

    @property
    def variable_bytes(self) -> int:
        """Bytes of all variables."""
        return sum(self._container.members[self._root + name].size_bytes for name in self._shards)

    def unpack(self, folder: Path) -> None:
        """Write the model, with what was checked and with nothing else from the file.

        Args:
            folder: Where to; must not exist.
        """
        (folder / "variables").mkdir(parents=True)
        (folder / MEMBER).write_bytes(self._clean)
        for name in self._shards:
            with (folder / name).open("xb") as file:
                for piece in self._container.chunks(self._root + name):
                    file.write(piece)


@contextmanager
def open_saved_model(path: Path) -> Iterator[CheckedSavedModel]:
    """Check a SavedModel, and keep it open as long as what was checked is used.

    Raises:
        FormatError: It is no SavedModel, or something in it is not to be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    refuse_pickles(head)
    if head.startswith(_ZIP):
        with open_archive(path, allow_folders=True) as archive:
            yield CheckedSavedModel(archive)
    elif head.startswith(_GZIP) or head[_TAR_MAGIC_OFFSET:].startswith(_TAR):
        with open_tar(path) as tar:
            yield CheckedSavedModel(tar)
    else:
        looks_like = describe(head)
        if looks_like == "an ONNX model":
            looks_like += f", or {MEMBER} without the rest of its folder"
        raise NotASavedModel(looks_like)


def inspect_saved_model(path: Path) -> ModelFacts:
    """Check a SavedModel, and say what is in it. The variables themselves are not read.

    Raises:
        FormatError: It is no SavedModel, or something in it is not to be read.
    """
    with open_saved_model(path) as model:
        return model.info


def _find_root(container: Members) -> str:
    names = set(container.members)
    found = [name for name in names if name == MEMBER or name.endswith("/" + MEMBER)]
    if len(found) == 1 and found[0].count("/") <= 1:
        return found[0].removesuffix(MEMBER)
    if found:
        raise NotASavedModel(f"an archive with {MEMBER} at {shown(min(found))}, or twice")
    plain = {name.removeprefix(container.root) for name in names}
    if any(name.endswith(("saved_model.pbtxt", "saved_model.cpb")) for name in names):
        raise NotASavedModel("a SavedModel as text, or in pieces; save it in the usual form")
    raise NotASavedModel(describe_archive(plain))


def _find_shards(names: Iterator[str]) -> list[str]:
    """List the files with variables, the index first; empty where there are none.

    Raises:
        FormatError: Some are missing.
    """
    found = {name for name in names if name.startswith(_VARIABLES)}
    if not found:
        return []
    index = f"{_VARIABLES}.index"
    shards = sorted(found - {index})
    count = len(shards)
    expected = [f"{_VARIABLES}.data-{shard:05}-of-{count:05}" for shard in range(count)]
    if index not in found or shards != expected or not shards:
        raise UnsafeFile(
            min(found),
            f"variables are in {index} and {_VARIABLES}.data-00000-of-00001 (or more of these), "
            "and some are missing, or others are there",
        )
    return [index, *shards]


def _read_model(data: bytes, data_bytes: int) -> tuple[ModelFacts, bytes]:
    reader = Reader(data)
    model = reader.message(tables.SAVED_MODEL)
    meta_graph, meta_info = _find_graph(model)
    graph = meta_graph.message("graph_def", tables.GRAPH)
    object_graph = meta_graph.message("object_graph_def", tables.OBJECTS)
    if graph is None or object_graph is None:
        raise UnsupportedProgram(
            "it has no objects, as TensorFlow 1 wrote it; load it with TensorFlow 2, and save it "
            f"with {SIGNATURE!r} among its signatures"
        )
    library = read_library(graph)
    # What the graph itself calls is left out, so that only its operations matter.
    nodes = [(node, read_node(node, library, [])) for node in graph.messages("node", tables.NODE)]
    held = set().union((operator for _, operator in nodes), *library.operators.values())
    check_operators(held, is_kept=False)
    objects = read_objects(object_graph)
    kept = reachable(library, sorted(objects.functions))
    constants = [
        node
        for node, operator in nodes
        if operator == "Const" and node.text("name") in objects.constants
    ]
    signature = _find_signature(meta_graph)
    info = _describe(signature, objects, data_bytes)

    def copied(number: int, message: Message) -> bytes:
        return field_of(number, data[message.span.start : message.span.end])

    functions = b"".join(
        field_of(1, data[library.spans[name].start : library.spans[name].end]) for name in kept
    )
    versions = graph.span_of("versions")
    clean_graph = field_of(
        2,
        *(copied(1, node) for node in constants),
        field_of(2, functions),
        field_of(4, data[versions.start : versions.end]) if versions else b"",
    )
    clean_info = field_of(
        1,
        field_of(4, _TAG.encode()),
        field_of(5, meta_info.bytes_of("tensorflow_version")),
        integer_of(7, meta_info.integer("stripped_default_attrs")),
    )
    clean_signature = field_of(5, field_of(1, SIGNATURE.encode()), copied(2, signature))
    clean = field_of(2, clean_info, clean_graph, clean_signature, copied(7, object_graph))
    return info, integer_of(1, model.integer("schema_version")) + clean


def _find_graph(model: Message) -> tuple[Message, Message]:
    """Find the graph that is there to be served: others may be for training, or for a TPU."""
    seen = []
    for meta_graph in model.messages("meta_graphs", tables.META_GRAPH):
        meta_info = meta_graph.message("meta_info_def", tables.META_INFO)
        tags = list(meta_info.texts("tags")) if meta_info else []
        if meta_info is not None and tags == [_TAG]:
            return meta_graph, meta_info
        seen.append(tags)
    if not seen:
        raise NotASavedModel("a protobuf of something else, or a SavedModel that is cut short")
    listed = ", ".join(shown(tag) for tags in seen[:4] for tag in tags[:4])
    raise UnsupportedProgram(f"it has no graph tagged {_TAG!r} alone; its tags: {listed or 'none'}")


def _find_signature(meta_graph: Message) -> Message:
    found: dict[str, Message] = {}
    for name, signature in map_of(meta_graph, "signature_def", tables.SIGNATURE):
        if checked_name(name) in found:
            raise UnsafeFile(name, "two signatures have this name")
        found[name] = signature
    if SIGNATURE not in found:
        listed = ", ".join(shown(name) for name in sorted(found)[:8] if not name.startswith("__"))
        raise UnsupportedProgram(
            f"it has no signature {SIGNATURE!r}; its signatures: {listed or 'none'}. Save it with "
            f"tf.saved_model.save(model, folder, signatures={{{SIGNATURE!r}: ...}})"
        )
    return found[SIGNATURE]


def _describe(signature: Message, objects: Objects, data_bytes: int) -> ModelFacts:
    claimed = sum(variable.size_bytes for variable in objects.variables.values())
    largest = max((each.size_bytes for each in objects.variables.values()), default=0)
    if claimed > data_bytes * _MAX_TIMES + _SMALL_BYTES or largest > data_bytes + _SMALL_BYTES:
        raise UnsafeFile(
            MEMBER, f"its variables need {claimed} bytes, and {data_bytes} bytes of them are there"
        )
    names: Mapping[int, str] = {number: dtype for number, (dtype, _) in DTYPES.items()}
    fresh = iter(range(2**31))

    def values(kind: str) -> Iterator[TensorInfo | None]:
        for name, value in sorted(
            map_of(signature, kind, tables.TENSOR_INFO), key=lambda entry: entry[0]
        ):
            checked_name(name)
            dtype = names.get(value.integer("dtype"))
            if dtype is None or value.has("coo_sparse") or value.has("composite_tensor"):
                raise UnsupportedProgram(
                    f"{shown(name)} in its signature is no dense tensor of numbers"
                )
            shape = shape_of(value.message("tensor_shape", tables.SHAPE))
            if shape is None:
                yield None
                continue
            named: list[Dimension] = [size if size >= 0 else f"dim_{next(fresh)}" for size in shape]
            yield TensorInfo(name=name, dtype=dtype, shape=tuple(named))

    inputs = [*values("inputs")]
    outputs = [*values("outputs")]
    known_inputs = tuple(value for value in inputs if value is not None)
    known_outputs = tuple(value for value in outputs if value is not None)
    if len(known_inputs) != len(inputs) or not outputs:
        raise UnsupportedProgram(
            "an input in its signature has no shape, or there are no outputs; save it with an "
            "input_signature in which each input has a shape"
        )
    return ModelFacts(
        inputs=known_inputs,
        outputs=known_outputs if len(known_outputs) == len(outputs) else None,
        parameter_count=sum(
            variable.element_count
            for variable in objects.variables_of(SIGNATURE)
            if variable.shape and "float" in variable.dtype
        ),
    )
