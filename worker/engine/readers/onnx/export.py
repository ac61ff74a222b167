"""From a module to an exported program whose dynamic dimensions are those of the file."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram

from worker.engine.errors import EngineError, UnsupportedModelError
from worker.engine.readers.onnx.graph import Graph
from worker.engine.readers.onnx.inputs import (
    Input,
    Sizes,
    examples,
    inputs_of,
    shape_of,
    sizes_to_try,
)
from worker.engine.readers.onnx.module import OnnxModule
from worker.engine.readers.source import Source


@dataclass(frozen=True)
class Origin:
    """What a file says that its program does not.

    Attributes:
        inputs: With the names that they and their dynamic dimensions have in the file.
        outputs: Names.
        names: Of parameters and buffers: those in the program, by those in the file.
        opset: The version of ONNX's own operators.
    """

    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    names: Mapping[str, str]
    opset: int


def exported(graph: Graph) -> Source:
    """Trace a graph.

    Raises:
        UnsupportedModelError: A node asks for what its operator has no function for, or the
            exporter refuses what comes out.
    """
    module = OnnxModule(graph)
    inputs = inputs_of(graph)
    sizes = _fitting(module, inputs)
    given = examples(graph, inputs, sizes)
    dynamic = {name for name in sizes if _may_change(module, inputs, sizes, name)}
    program = _traced(module, inputs, given, dynamic)
    origin = Origin(tuple(inputs), tuple(graph.outputs), module.names, graph.opset[""])
    return Source(program, tuple(_fixed(program, inputs)), origin)


def _fitting(module: OnnxModule, inputs: Sequence[Input]) -> Sizes:
    """Sizes of the dynamic dimensions with which the module runs, found without computing."""
    refusal: EngineError | None = None
    for sizes in sizes_to_try(inputs):
        try:
            _run_without_data(module, inputs, sizes)
        except EngineError as error:
            refusal = refusal or error
        else:
            return sizes
    assert refusal is not None
    raise refusal


def _may_change(module: OnnxModule, inputs: Sequence[Input], sizes: Sizes, name: str) -> bool:
    """Whether the module runs with another size of a dimension, all others staying as they are.

    The exporter keeps a dimension of which a reshape takes one size, for a relation between sizes
    may allow another; nobody could use it.
    """
    size = sizes[name]
    for other in (2 * size, size + 1, 3 * size // 2) if size > 1 else ():
        try:
            _run_without_data(module, inputs, {**sizes, name: other})
        except EngineError:
            continue
        return True
    return False


def _run_without_data(module: OnnxModule, inputs: Sequence[Input], sizes: Sizes) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        state: dict[str, Tensor] = {
            name: mode.from_tensor(tensor)
            for name, tensor in (*module.named_parameters(), *module.named_buffers())
        }
        given = [torch.empty(shape_of(one, sizes), dtype=one.dtype) for one in inputs]
        torch.func.functional_call(module, state, tuple(given))


def _traced(
    module: OnnxModule, inputs: Sequence[Input], given: Sequence[Tensor], dynamic: Set[str]
) -> ExportedProgram:
    """The program, with as many dynamic dimensions as the exporter keeps."""
    attempts = [_by_name(inputs, dynamic)]
    attempts += [shapes for shapes in (_by_place(inputs, dynamic), None) if shapes not in attempts]
    refusal: Exception | None = None
    for shapes in attempts:
        try:
            program = _export(module, given, shapes)
            if any(map(_is_constant_symbol, _input_sizes(program))):
                # A symbol that stands for one number: to others it would look dynamic.
                program = _export(module, given, _without(shapes, program))
        except Exception as error:  # noqa: BLE001 (torch has no base class for what it raises)
            refusal = error
        else:
            return program
    assert refusal is not None
    if isinstance(refusal, EngineError):
        raise refusal
    said = " ".join(str(refusal).split())[:300]
    raise UnsupportedModelError(
        f"no program can be traced from the model ({type(refusal).__name__}: {said})"
    ) from refusal


def _export(module: OnnxModule, given: Sequence[Tensor], shapes: Any) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(module, tuple(given), dynamic_shapes=shapes, strict=False)


def _by_name(inputs: Sequence[Input], dynamic: Set[str]) -> Any:
    """One dimension for each name that several have; what has a name alone is left to torch."""
    counts = Counter(size for given in inputs for size in given.shape if isinstance(size, str))
    shared = [name for name, count in counts.items() if count > 1 and name in dynamic]
    # No name of the file: these become symbols of formulas.
    dims = {name: Dim(f"dim_{at}") for at, name in enumerate(shared)}
    return _shapes(inputs, dynamic, dims)


def _by_place(inputs: Sequence[Input], dynamic: Set[str]) -> Any:
    """Each dimension for itself: the exporter finds which are the same, and which are fixed."""
    return _shapes(inputs, dynamic, {})


def _shapes(inputs: Sequence[Input], dynamic: Set[str], dims: dict[str, Any]) -> Any:
    def dim_of(size: int | str) -> Any:
        return dims.get(str(size), Dim.AUTO) if size in dynamic else Dim.STATIC

    return tuple([dim_of(size) for size in given.shape] for given in inputs)


def _without(shapes: Any, program: ExportedProgram) -> Any:
    """The same dynamic dimensions without those that have one size."""
    found = iter(_input_sizes(program))
    return tuple(
        [Dim.STATIC if _is_one_size(next(found)) else dim for dim in dims] for dims in shapes
    )


def _input_sizes(program: ExportedProgram) -> list[int | torch.SymInt]:
    """All sizes of all inputs, in order."""
    nodes = {node.name: node for node in program.graph.nodes}
    values = [nodes[str(name)].meta["val"] for name in program.graph_signature.user_inputs]
    return [size for value in values for size in value.shape]


def _is_constant_symbol(size: int | torch.SymInt) -> bool:
    return isinstance(size, torch.SymInt) and bool(size.node.expr.is_number)


def _is_one_size(size: int | torch.SymInt) -> bool:
    return isinstance(size, int) or _is_constant_symbol(size)


def _fixed(program: ExportedProgram, inputs: Sequence[Input]) -> list[str]:
    """Which dynamic dimensions have one size in the program."""
    found = []
    made = iter(_input_sizes(program))
    for given in inputs:
        for at, size in enumerate(given.shape):
            number = next(made)
            if isinstance(size, str) and _is_one_size(number):
                shown = f" ({size})" if "\n" not in size else ""
                found.append(
                    f"dimension {at}{shown} of input {given.name!r} is dynamic in the file and "
                    f"became fixed at {int(number)}: what the model computes holds for that size "
                    "alone"
                )
    return found
