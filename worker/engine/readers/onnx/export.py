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
    shared = _shared(inputs, dynamic)
    by_name = _shapes(inputs, dynamic, {name: Dim(own) for name, own in shared.items()})
    by_place = _shapes(inputs, dynamic, {})
    program = _export(module, given, by_name)
    if isinstance(program, Exception) and shared:
        program = _export(module, given, by_place)
        if isinstance(program, ExportedProgram):
            # Now it is known how far each goes; with that, those of one name may be one after all.
            bounds = _bounded(program, inputs, shared)
            again = _export(module, given, _shapes(inputs, dynamic, bounds)) if bounds else program
            program = again if isinstance(again, ExportedProgram) else program
    if isinstance(program, Exception):
        program = _export(module, given, None)
    if isinstance(program, ExportedProgram):
        return program
    if isinstance(program, EngineError):
        raise program
    refusal = program
    said = " ".join(str(refusal).split())[:300]
    raise UnsupportedModelError(
        f"no program can be traced from the model ({type(refusal).__name__}: {said})"
    ) from refusal


def _export(
    module: OnnxModule, given: Sequence[Tensor], shapes: Any
) -> ExportedProgram | Exception:
    """The program, or what the exporter raises, for which it has no base class."""

    def trace(shapes: Any) -> ExportedProgram:
        return torch.export.export(module, tuple(given), dynamic_shapes=shapes, strict=False)

    try:
        with torch.no_grad():
            program = trace(shapes)
            if any(map(_is_constant_symbol, _input_sizes(program))):
                # A symbol that stands for one number: to others it would look dynamic.
                program = trace(_without(shapes, program))
    except Exception as error:  # noqa: BLE001
        return error
    return program


def _shared(inputs: Sequence[Input], dynamic: Set[str]) -> dict[str, str]:
    """Names that several dimensions have, and ones for them that are of no file.

    These become symbols of formulas. A dimension that has its name alone is left to the exporter.
    """
    counts = Counter(size for given in inputs for size in given.shape if isinstance(size, str))
    shared = [name for name, count in counts.items() if count > 1 and name in dynamic]
    return {name: f"dim_{at}" for at, name in enumerate(shared)}


def _bounded(
    program: ExportedProgram, inputs: Sequence[Input], shared: Mapping[str, str]
) -> dict[str, Any]:
    """Shared dimensions with the bounds that all who have the name keep."""
    ranges: dict[str, list[Any]] = {name: [] for name in shared}
    names = [size for given in inputs for size in given.shape]
    for name, size in zip(names, _input_sizes(program), strict=True):
        if name in shared:
            symbol = None if isinstance(size, int) else size.node.expr
            ranges[str(name)].append(program.range_constraints.get(symbol))
    dims = {}
    for name, found in ranges.items():
        if all(found):
            low = max(int(bounds.lower) for bounds in found)
            high = min(bounds.upper for bounds in found)
            dims[name] = Dim(shared[name], min=low, max=int(high) if high.is_Integer else None)
    return dims


def _shapes(inputs: Sequence[Input], dynamic: Set[str], dims: Mapping[str, Any]) -> Any:
    def dim_of(size: int | str) -> Any:
        return dims.get(str(size), Dim.AUTO) if size in dynamic else Dim.STATIC

    return tuple([dim_of(size) for size in given.shape] for given in inputs)


def _without(shapes: Any, program: ExportedProgram) -> Any:
    """The same dynamic dimensions without those that have one size."""
    assert shapes is not None
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
