"""What each constant of a graph becomes: a parameter, a buffer, or plain numbers."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnx import GraphProto, NodeProto
from torch import Tensor

from worker.engine.readers.onnx.graph import Graph, inner_graphs
from worker.engine.readers.onnx.host import LARGEST
from worker.engine.readers.onnx.operators import ON_HOST, OPERATORS
from worker.engine.readers.onnx.registry import key_of

_SMALL = 32
_STATISTICS = 3
"""From this input on a batch norm reads what it has seen, which nobody trains."""


@dataclass(frozen=True)
class Kinds:
    """Names of constants, by what they become; those in neither set are buffers.

    Attributes:
        parameters: Floats with at least one dimension that operators compute with.
        numbers: Single numbers, and what only shapes are computed from.
    """

    parameters: frozenset[str]
    numbers: frozenset[str]

    @classmethod
    def of(cls, graph: Graph) -> "Kinds":
        """Tell the constants of a graph apart."""
        readers = _readers(graph)
        known = _numbers_alone(graph, readers)
        numbers, parameters = set(), set()
        for name, tensor in graph.constants.items():
            if _is_number(tensor) or (name in known and tensor.numel() <= LARGEST):
                numbers.add(name)
            elif tensor.is_floating_point() and not _are_statistics(readers[name]):
                parameters.add(name)
        return cls(frozenset(parameters), frozenset(numbers))


_Readers = dict[str, list[tuple[NodeProto | None, int]]]


def _readers(graph: Graph) -> _Readers:
    """Who reads each name, and as which input; None for an output of a graph."""
    found: _Readers = defaultdict(list)
    _note(graph.nodes, found)
    for name in graph.outputs:
        found[name].append((None, 0))
    return found


def _note(nodes: Sequence[NodeProto], found: _Readers) -> None:
    for node in nodes:
        for at, name in enumerate(node.input):
            if name:
                found[name].append((node, at))
        for graph in inner_graphs(node):
            _note(graph.node, found)
            for output in graph.output:
                found[output.name].append((None, 0))


def _numbers_alone(graph: Graph, readers: _Readers) -> set[str]:
    """Names that are read as numbers and as nothing else, however many nodes are in between."""
    alone: set[str] = set()
    for node in reversed([*_every(graph.nodes)]):
        alone.update(name for name in node.output if name and _is_alone(readers[name], alone))
    return {*alone, *(name for name in graph.constants if _is_alone(readers[name], alone))}


def _is_alone(readers: list[tuple[NodeProto | None, int]], alone: set[str]) -> bool:
    return bool(readers) and all(_reads_numbers(node, at, alone) for node, at in readers)


def _reads_numbers(node: NodeProto | None, at: int, alone: set[str]) -> bool:
    if node is None:
        return False
    operator = OPERATORS[key_of(node)]
    if at in operator.host:
        return True
    passes = key_of(node) in ON_HOST or key_of(node) == "Identity"
    return passes and all(name in alone for name in node.output if name)


def _every(nodes: Sequence[NodeProto]) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for graph in inner_graphs(node):
            yield from _inside(graph)


def _inside(graph: GraphProto) -> Iterator[NodeProto]:
    yield from _every(graph.node)


def _is_number(tensor: Tensor) -> bool:
    if tensor.is_floating_point():
        return tensor.dim() == 0
    return tensor.dim() <= 1 and tensor.numel() <= _SMALL


def _are_statistics(readers: list[tuple[NodeProto | None, int]]) -> bool:
    return any(
        node is not None and node.op_type == "BatchNormalization" and at >= _STATISTICS
        for node, at in readers
    )
