"""ONNX, by torch's own exporter."""

import contextlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx_ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor

from worker.engine.program import Program
from worker.engine.readers.onnx import Origin
from worker.engine.writers.inexpressible import InexpressibleError

_MOST_BYTES = 2**31 - 2**24
"""What one protobuf holds, less what is no weight."""


def write(program: Program, origin: object, path: Path) -> None:
    """Write a model that takes the same inputs by the same names, dynamic dimensions included.

    Raises:
        InexpressibleError: The exporter does not know an operator, or one file cannot hold it.
    """
    exported = program.export()
    weight_bytes = sum(tensor.nbytes for tensor in exported.state_dict.values())
    if weight_bytes > _MOST_BYTES:
        raise InexpressibleError(
            f"the weights have {weight_bytes} bytes, and one ONNX file holds {_MOST_BYTES}: "
            "convert model.pt2 with torch.onnx.export(..., external_data=True)"
        )
    try:
        # It prints its progress, and warns of what is its own business.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            made = torch.onnx.export(exported, dynamo=True, verbose=False, external_data=False)
            assert made is not None
            # Where each node came from, in Python's words: most of a small file.
            ClearMetadataAndDocStringPass()(made.model)
            if isinstance(origin, Origin):
                _name_as_before(made.model, origin)
            made.save(path, external_data=False)
    except Exception as error:
        # It has no base class for what it raises on an operator that it does not know.
        raise InexpressibleError(
            f"torch.onnx.export does not write this program ({_told(error)})"
        ) from error


def _name_as_before(model: onnx_ir.Model, origin: Origin) -> None:
    """Give inputs, outputs and dynamic dimensions the names that they had in the upload."""
    inputs, outputs = model.graph.inputs, model.graph.outputs
    inner = [each for node in model.graph for each in node.outputs]
    names = (*(given.name for given in origin.inputs), *origin.outputs)
    for value in (*inner, *model.graph.initializers.values()):
        if value.name in names:
            value.name = f"{value.name}_inner"
    for value, name in zip((*inputs, *outputs), names, strict=True):
        value.name = name
    symbols: dict[str, str] = {}
    for value, given in zip(inputs, origin.inputs, strict=True):
        for dim, before in zip(value.shape or (), given.shape, strict=True):
            if isinstance(dim, onnx_ir.SymbolicDim) and dim.value and isinstance(before, str):
                symbols.setdefault(dim.value, before)
    for value in (*inputs, *inner):
        if value.shape is not None:
            for at, dim in enumerate(value.shape):
                if isinstance(dim, onnx_ir.SymbolicDim) and dim.value in symbols:
                    value.shape[at] = onnx_ir.SymbolicDim(symbols[dim.value])


def run(path: Path, calls: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The outputs that onnxruntime computes on a CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # Errors: it tells of every node it could not make faster.
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    found = []
    for call in calls:
        feed = {name: leaf.numpy() for name, leaf in zip(names, call, strict=True)}
        found += [torch.from_numpy(output) for output in session.run(None, feed)]
    return found


def _told(error: Exception) -> str:
    """The innermost cause, in a line: the outer ones are reports of many pages."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
