"""A built model as an exported program."""

import inspect
import warnings
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from formats.errors import ArchitectureInvalid
from worker.engine.errors import UnsupportedModelError
from worker.engine.readers.architecture.built import Built, Input
from worker.engine.readers.source import Source
from worker.engine.wording import first_line


def exported(built: Built) -> Source:
    """Export a model, with as many dynamic dimensions as it allows.

    Raises:
        UnsupportedModelError: It does not export.
    """
    _check_inputs(built)
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


@torch.no_grad()
def _check_inputs(built: Built) -> None:
    """Run the model once on its inputs.

    Raises:
        ArchitectureInvalid: It takes nothing of one of the names, or not in that shape.
    """
    taken = inspect.signature(built.module.forward).parameters
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values())
    for each in built.inputs:
        if each.name and each.name not in taken and not takes_any:
            raise ArchitectureInvalid(
                f"the model has no input {each.name!r}; it takes {', '.join(taken)}"
            )
    positional = [each.example for each in built.inputs if not each.name]
    named = {each.name: each.example for each in built.inputs if each.name}
    try:
        built.module(*positional, **named)
    except Exception as error:
        # Whatever a library's model raises on what it does not take.
        shapes = ", ".join(
            f"{each.name or 'an image'} of {list(each.example.shape)}" for each in built.inputs
        )
        raise ArchitectureInvalid(
            f"the model does not run on {shapes} ({first_line(error)}): say in architecture.json "
            "what it reads, under inputs"
        ) from error


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
        f"torch.export does not take this model ({first_line(error)}); say in architecture.json "
        "what else it reads (inputs), or export it yourself and upload the .pt2"
    )
