"""ONNX: a graph of its operators becomes one of ATen's, which the engine prunes through."""

from pathlib import Path

import onnx

from worker.engine.errors import UnreadableModelError
from worker.engine.readers.onnx.export import Origin, exported
from worker.engine.readers.onnx.graph import graph_of
from worker.engine.readers.onnx_file import read_checked_onnx
from worker.engine.readers.source import Source
from worker.engine.wording import first_line


def read_onnx(path: Path) -> Source:
    """Read a model, alone or in a zip with its external data.

    Raises:
        FormatError: The file is not one that a library should see.
        UnreadableModelError: It is no model of ONNX, one that is not well formed, or without
            inputs.
        UnsupportedModelError: It has operators, versions or types that are not known.
        QuantizedModelError: It is quantized already.
    """
    source = program_of(read_checked_onnx(path))
    if not source.exported.graph_signature.user_inputs:
        raise UnreadableModelError("the model has no inputs: it gives the same at every call")
    return source


def program_of(model: onnx.ModelProto) -> Source:
    """Make a program of a model whose tensors are all inside it.

    Parameters and buffers have the names of the initializers (see
    :func:`worker.engine.readers.onnx.names.parameter_names`), inputs those of the graph's inputs as
    far as a variable can have them. Nodes are traced one by one, each by the function of its
    operator; sizes are numbers or symbols all along, so that dynamic dimensions stay dynamic.

    Raises:
        UnreadableModelError: It is not well formed.
        UnsupportedModelError: It has operators, versions or types that are not known, or a shape
            that depends on the values of inputs.
        QuantizedModelError: It is quantized already.
    """
    try:
        graph = graph_of(model)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        # What is left of what no schema of ONNX allows, as an attribute of another kind.
        raise UnreadableModelError(
            f"the model's graph is not well formed ({first_line(error)}); see what "
            "onnx.checker.check_model says of it"
        ) from error
    return exported(graph)


__all__ = ["Origin", "program_of", "read_onnx"]
