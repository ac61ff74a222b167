"""ONNX files as ONNX's own message, with all tensors in it.

``onnx.load`` opens what a model names as external data. So it never reads an uploaded file: what
``formats`` checked is parsed from memory, and external data are filled in from the archive that
they came in.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import onnx
from google.protobuf.message import DecodeError

from formats.onnx import CheckedOnnx, byte_count, external_of, open_onnx
from worker.engine.errors import UnreadableModelError

Fetch = Callable[[onnx.TensorProto], bytes]


def read_checked_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX model, alone or in a zip with its external data.

    It may have more than 2 GiB, which is the most that can be written as one message: never
    serialize it as a whole. External data that are not a few bytes need as much room in the folder
    for temporary files.

    Returns:
        The model without texts, training and metadata; no tensor has external data.

    Raises:
        FormatError: The file is not one that a library should see.
        UnreadableModelError: The file is harmless, and is no model for this version of ONNX.
    """
    with open_onnx(path) as checked:
        try:
            model: onnx.ModelProto = onnx.ModelProto.FromString(checked.model_bytes())
        except DecodeError as error:
            raise UnreadableModelError(
                f"onnx {onnx.__version__} cannot read this model; save it again with a current "
                "version of ONNX, and upload it again"
            ) from error
        for name in ("training_info", "metadata_props", "doc_string", "configuration"):
            model.ClearField(name)
        with ExitStack() as stack:
            fetch = _opened(checked, stack)
            for tensor in _tensors(model):
                if tensor.data_location == onnx.TensorProto.EXTERNAL:
                    tensor.raw_data = fetch(tensor)
                    tensor.ClearField("external_data")
                    tensor.ClearField("data_location")
    return model


def _opened(checked: CheckedOnnx, stack: ExitStack) -> Fetch:
    """Unpack external data into temporary files without names, and read tensors from them."""
    files = {
        location: stack.enter_context(_unpacked(checked.external_chunks(location)))
        for location in checked.external_locations
    }

    def fetch(tensor: onnx.TensorProto) -> bytes:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        external = external_of(entries, tensor=tensor.name)
        file = files[external.location]
        file.seek(external.offset)
        return file.read(byte_count(tensor.data_type, tuple(tensor.dims)))

    return fetch


@contextmanager
def _unpacked(pieces: Iterable[bytes]) -> Iterator[IO[bytes]]:
    """Write what comes piece by piece into a file without a name, and give that."""
    with tempfile.TemporaryFile(prefix="secateur-onnx-") as file:
        try:
            for piece in pieces:
                file.write(piece)
            file.flush()
        except OSError as error:
            raise UnreadableModelError(
                f"there is no room to unpack the model's external data ({error.strerror}); save "
                "the model in one file, or upload a smaller one"
            ) from error
        yield file


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from _tensors_of_graph(model.graph)
    for function in model.functions:
        yield from _tensors_of_attributes(function.attribute_proto)
        for node in function.node:
            yield from _tensors_of_attributes(node.attribute)


def _tensors_of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        yield from _tensors_of_attributes(node.attribute)


def _tensors_of_attributes(
    attributes: Iterable[onnx.AttributeProto],
) -> Iterator[onnx.TensorProto]:
    for attribute in attributes:
        # What a message does not have is not asked for: that would put an empty one there.
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("g"):
            yield from _tensors_of_graph(attribute.g)
        for graph in attribute.graphs:
            yield from _tensors_of_graph(graph)
