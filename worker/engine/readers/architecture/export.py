"""A built model as an exported program."""

import warnings
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from worker.engine.errors import UnsupportedModelError
from worker.engine.readers.architecture.built import Built, Input
from worker.engine.readers.source import Source


def exported(built: Built) -> Source:
    """Export a model, with as many dynamic dimensions as it allows.

    Raises:
        UnsupportedModelError: It does not export.
    """
    told = list(built.warnings)
    inputs = built.inputs
    try:
        program = _export(built, inputs)
    except Exception as first:
        # The exporter has no base class for what it raises.
        fewer = tuple(each for each in inputs if each.name not in built.optional)
        if len(fewer) == len(inputs):
            raise _refused(first) from first
        try:
            program = _export(built, fewer)
        except Exception as error:
            raise _refused(error) from error
        left_out = ", ".join(each.name for each in inputs if each not in fewer)
        told.append(f"the model does not export with the input {left_out}: it is left out")
        inputs = fewer
    told += _fixed(program, inputs)
    return Source(program, tuple(told), built.origin)


def _export(built: Built, inputs: tuple[Input, ...]) -> ExportedProgram:
    positional = [each for each in inputs if not each.name]
    named = [each for each in inputs if each.name]
    shapes: Any = (
        tuple(_dims(each) for each in positional)
        if positional
        else {each.name: _dims(each) for each in named}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of the exporter, about the library's code.
        return torch.export.export(
            built.module,
            tuple(each.example for each in positional),
            {each.name: each.example for each in named},
            dynamic_shapes=shapes,
            strict=False,
        )


def _dims(each: Input) -> dict[int, Any]:
    return dict.fromkeys(each.dynamic, Dim.AUTO)


def _fixed(program: ExportedProgram, inputs: tuple[Input, ...]) -> list[str]:
    """The dimensions that the exporter could not leave open."""
    names = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
    return [
        f"dimension {at} of the input {name} is fixed at {size}: the model does not export with "
        "any other size"
        for each, name in zip(inputs, names, strict=True)
        for at in each.dynamic
        if isinstance(size := nodes[str(name)].meta["val"].shape[at], int)
    ]


def _refused(error: Exception) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"torch.export does not take this model ({type(error).__name__}); export it yourself, "
        "with what it needs, and upload the .pt2"
    )
