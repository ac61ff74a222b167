"""From a module to an exported program whose dynamic dimensions are those of the file."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram

from worker.engine.errors import EngineError, UnsupportedModelError
from worker.engine.readers.onnx.graph import Graph
from worker.engine.readers.onnx.inputs import Input, Sizes, examples, inputs_of, sizes_to_try
from worker.engine.readers.onnx.module import OnnxModule
from worker.engine.readers.onnx.names import identifiers
from worker.engine.readers.source import Source


def exported(graph: Graph) -> Source:
    """Trace a graph.

    Raises:
        UnsupportedModelError: A node asks for what its operator has no function for, or the
            exporter refuses what comes out.
    """
    module = OnnxModule(graph)
    inputs = inputs_of(graph)
    sizes = _fitting(module, graph, inputs)
    given = examples(graph, inputs, sizes)
    program = _traced(module, inputs, given, sizes)
    return Source(program, tuple(_fixed(program, inputs)))


def _fitting(module: OnnxModule, graph: Graph, inputs: Sequence[Input]) -> Sizes:
    """Sizes of the dynamic dimensions with which the module runs, found without computing."""
    refusal: EngineError | None = None
    for sizes in sizes_to_try(inputs):
        try:
            _run_without_data(module, examples(graph, inputs, sizes))
        except EngineError as error:
            refusal = refusal or error
        else:
            return sizes
    assert refusal is not None
    raise refusal


def _run_without_data(module: OnnxModule, given: Sequence[Tensor]) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        state: dict[str, Tensor] = {
            name: mode.from_tensor(tensor)
            for name, tensor in (*module.named_parameters(), *module.named_buffers())
        }
        inputs = tuple(mode.from_tensor(tensor) for tensor in given)
        torch.func.functional_call(module, state, inputs)


def _traced(
    module: OnnxModule, inputs: Sequence[Input], given: Sequence[Tensor], sizes: Sizes
) -> ExportedProgram:
    attempts = [_by_name(inputs, sizes), _found_by_exporter(inputs, sizes), None]
    refusal: Exception | None = None
    for at, shapes in enumerate(attempts):
        if shapes is not None and at and shapes == attempts[at - 1]:
            continue
        try:
            with torch.no_grad():
                return torch.export.export(
                    module, tuple(given), dynamic_shapes=shapes, strict=False
                )
        except Exception as error:  # noqa: BLE001
            # torch has no base class for what its exporter raises.
            refusal = error
    assert refusal is not None
    if isinstance(refusal, EngineError):
        raise refusal
    said = " ".join(str(refusal).split())[:300]
    raise UnsupportedModelError(
        f"no program can be traced from the model ({type(refusal).__name__}: {said})"
    ) from refusal


def _by_name(inputs: Sequence[Input], sizes: Sizes) -> Any:
    """One dimension for each name that several have; what has a name alone is left to torch."""
    counts = Counter(size for given in inputs for size in given.shape if isinstance(size, str))
    shared = [name for name, count in counts.items() if count > 1 and sizes[name] > 1]
    dims = {name: Dim(own) for name, own in identifiers(shared, default="dim").items()}
    return _shapes(inputs, sizes, dims)


def _found_by_exporter(inputs: Sequence[Input], sizes: Sizes) -> Any:
    return _shapes(inputs, sizes, {})


def _shapes(inputs: Sequence[Input], sizes: Sizes, dims: dict[str, Any]) -> Any:
    def dim_of(size: int | str) -> Any:
        if isinstance(size, int) or sizes[size] == 1:
            return Dim.STATIC
        return dims.get(size, Dim.AUTO)

    return tuple([dim_of(size) for size in given.shape] for given in inputs)


def _fixed(program: ExportedProgram, inputs: Sequence[Input]) -> list[str]:
    """Which dynamic dimensions have one size in the program."""
    nodes = {node.name: node for node in program.graph.nodes}
    found = []
    for given, name in zip(inputs, program.graph_signature.user_inputs, strict=True):
        value = nodes[str(name)].meta["val"]
        for at, (size, made) in enumerate(zip(given.shape, value.shape, strict=True)):
            if isinstance(size, str) and isinstance(made, int):
                shown = f" ({size})" if "\n" not in size else ""
                found.append(
                    f"dimension {at}{shown} of input {given.name!r} is dynamic in the file and "
                    f"became fixed at {made}: what the model computes holds for that size alone"
                )
    return found
