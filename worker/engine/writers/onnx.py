"""ONNX, by torch's own exporter."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx_ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from onnxscript.optimizer import optimize_ir
from torch import Tensor

from worker.engine.difference import dtypes_of
from worker.engine.program import Program
from worker.engine.readers.onnx import Origin
from worker.engine.wording import first_line
from worker.engine.writers.inexpressible import InexpressibleError
from worker.engine.writers.onnx_codes import OPSET, Lowered, lowered, pack_codes
from worker.engine.writers.onnx_operators import WRITTEN

for name in ("onnxscript", "onnx_ir"):  # They tell of each constant that they leave as it is.
    logging.getLogger(name).setLevel(logging.ERROR)

_MOST_BYTES = 2**31 - 2**24
"""What one protobuf holds, less what is no weight."""


def write(program: Program, origin: object, path: Path) -> None:
    """Write a model that takes the same inputs by the same names, dynamic dimensions included.

    Raises:
        InexpressibleError: The exporter does not know an operator, one file cannot hold it, or
            onnxruntime does not compute in its types.
    """
    if unknown := dtypes_of(program) & {torch.bfloat16, torch.float8_e4m3fn}:
        names = " and ".join(sorted(str(each).removeprefix("torch.") for each in unknown))
        raise InexpressibleError(
            f"onnxruntime has no convolutions, products and the like of {names} on a processor, so "
            "that the file could not be run: ask for float16, which it has"
        )
    coded = lowered(program) if program.packed else Lowered(program)
    exported = coded.program.export()
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
            made = torch.onnx.export(
                exported,
                dynamo=True,
                verbose=False,
                external_data=False,
                opset_version=OPSET if program.packed else None,
                optimize=not program.packed,
                custom_translation_table=dict(WRITTEN),
            )
            assert made is not None
            if program.packed:
                optimize_ir(made.model, should_fold=coded.is_foldable)
                pack_codes(made.model, coded.bits)
            # Where each node came from, in Python's words: most of a small file.
            ClearMetadataAndDocStringPass()(made.model)
            if program.packed:
                _say_nothing_of_inner_values(made.model)
            if isinstance(origin, Origin):
                _name_as_before(made.model, origin)
            else:
                _name_plainly(made.model)
            made.save(path, external_data=False)
    except Exception as error:
        # It has no base class for what it raises on an operator that it does not know.
        raise InexpressibleError(
            f"torch.onnx.export does not write this program ({first_line(_innermost(error))})"
        ) from error


def _say_nothing_of_inner_values(model: onnx_ir.Model) -> None:
    """Forget what is said of inner values, which who reads the file finds by itself.

    Of a small model of codes it is as much as a tenth.
    """
    inner = [each for node in model.graph for each in node.outputs]
    for value in (*inner, *model.graph.initializers.values()):
        if not value.is_graph_output():
            value.type = value.shape = None
            value.metadata_props.clear()


def _name_as_before(model: onnx_ir.Model, origin: Origin) -> None:
    """Give inputs, outputs and dynamic dimensions the names that they had in the upload."""
    inputs, outputs = model.graph.inputs, model.graph.outputs
    inner = [each for node in model.graph for each in node.outputs]
    names = [given.name for given in origin.inputs]
    for at, name in enumerate(origin.outputs):
        # Nor can two values have one, though some files say so.
        names.append(f"{name}_{at}" if name in names else name)
    for value in (*inner, *model.graph.initializers.values()):
        if value.name in names:
            value.name = f"{value.name}_inner"
    named: dict[onnx_ir.Value, str] = {}
    for at, (value, name) in enumerate(zip((*inputs, *outputs), names, strict=True)):
        if named.setdefault(value, name) != name:
            # One value cannot have two names.
            copied = onnx_ir.node("Identity", [value])
            model.graph.append(copied)
            copied.outputs[0].shape, copied.outputs[0].type = value.shape, value.type
            outputs[at - len(inputs)] = copied.outputs[0]
            named[copied.outputs[0]] = name
    for value, name in named.items():
        value.name = name
    symbols: dict[str, str] = {}
    for value, given in zip(inputs, origin.inputs, strict=True):
        for dim, before in zip(value.shape or (), given.shape, strict=True):
            if isinstance(dim, onnx_ir.SymbolicDim) and dim.value and isinstance(before, str):
                symbols.setdefault(dim.value, before)
    _rename_dims(model, symbols)


def _name_plainly(model: onnx_ir.Model) -> None:
    """Call rows `batch` in all inputs, and outputs by their number: an exporter's names say little.

    Rows of different inputs are equal in number, whether or not a trace could see that.
    """
    outputs = model.graph.outputs
    taken = {value.name for value in model.graph.inputs}
    for at, value in enumerate(outputs):
        name = "output" if len(outputs) == 1 else f"output_{at}"
        if value not in model.graph.inputs and value not in outputs[:at] and name not in taken:
            value.name = name
    rows = {
        dim.value
        for value in model.graph.inputs
        for dim in (value.shape or ())[:1]
        if isinstance(dim, onnx_ir.SymbolicDim) and dim.value
    }
    _rename_dims(model, dict.fromkeys(rows, "batch"))


def _rename_dims(model: onnx_ir.Model, names: Mapping[str, str]) -> None:
    """Rename symbols of dimensions wherever they stand by themselves."""
    inner = [each for node in model.graph for each in node.outputs]
    for value in (*model.graph.inputs, *inner):
        if value.shape is not None:
            # A copy: some shapes are frozen, and some are of several values.
            shape = value.shape.copy()
            for at, dim in enumerate(shape):
                known = names.get(dim.value or "") if isinstance(dim, onnx_ir.SymbolicDim) else None
                if known is not None:
                    shape[at] = onnx_ir.SymbolicDim(known)
            value.shape = shape


def serve(path: Path) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """A session of onnxruntime on a CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # Errors: it tells of every node it could not make faster.
    options.intra_op_num_threads = torch.get_num_threads()
    # Its threads wait for the next call in a busy loop, which would slow down whatever is timed
    # beside it.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def call(leaves: Sequence[Tensor]) -> list[Tensor]:
        feed = {name: leaf.numpy() for name, leaf in zip(names, leaves, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, feed)]

    return call


def run(path: Path, calls: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The outputs that onnxruntime computes on a CPU."""
    call = serve(path)
    return [output for leaves in calls for output in call(leaves)]


def _innermost(error: Exception) -> BaseException:
    """What an exception came from: the outer ones are reports of many pages."""
    found: BaseException = error
    while found.__cause__ is not None:
        found = found.__cause__
    return found
