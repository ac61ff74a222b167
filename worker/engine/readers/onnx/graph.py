"""What of a model is read: its nodes in order, its constants, its inputs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import onnx
import onnx.inliner
import torch
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from torch import Tensor

from worker.engine.errors import UnreadableModelError, UnsupportedModelError
from worker.engine.readers.onnx.refusals import check_operators, check_opsets
from worker.engine.readers.onnx.registry import Call, label_of, torch_dtype
from worker.engine.wording import first_line

_MOST_NODES = 200_000


@dataclass(frozen=True)
class Graph:
    """A model, as far as its outputs need it.

    Attributes:
        nodes: In an order in which they can run.
        inputs: Those that a call gives, in order.
        outputs: Names.
        constants: By name: the initializers, and what nodes of type ``Constant`` hold, those of
            inner graphs too.
        opset: The version of each domain.
    """

    nodes: Sequence[NodeProto]
    inputs: Sequence[onnx.ValueInfoProto]
    outputs: Sequence[str]
    constants: Mapping[str, Tensor]
    opset: Mapping[str, int]

    def call(self, node: NodeProto) -> Call:
        """A node as its operator's function sees it."""
        domain = "" if node.domain == "ai.onnx" else node.domain
        attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        return Call(node, label_of(node), self.opset.get(domain, 1), attributes)


def graph_of(model: ModelProto) -> Graph:
    """Read a model's graph.

    Raises:
        UnreadableModelError: It is not well formed.
        UnsupportedModelError: It has operators, versions or types that are not known.
        QuantizedModelError: It is quantized.
    """
    opset = check_opsets(model)
    model = _inlined(model)
    nodes = _needed(model.graph)
    check_operators(nodes)
    constants: dict[str, Tensor] = {}
    _collect(model.graph, nodes, constants)
    computed = [node for node in nodes if not _is_constant(node)]
    # Files of older versions list initializers among the inputs, whether or not they are read.
    stored = {initializer.name for initializer in model.graph.initializer}
    inputs = [given for given in model.graph.input if given.name not in {*constants, *stored}]
    outputs = [output.name for output in model.graph.output]
    if not outputs:
        raise UnreadableModelError("the model has no outputs")
    _check_order(computed, {*constants, *(given.name for given in inputs)}, outputs)
    return Graph(computed, inputs, outputs, constants, opset)


def inner_graphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs that are attributes of a node."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def reads(node: NodeProto) -> Iterator[str]:
    """All names that a node reads, those that its inner graphs read from outside included."""
    yield from (name for name in node.input if name)
    for graph in inner_graphs(node):
        yield from _read_inside(graph)


def _read_inside(graph: GraphProto) -> Iterator[str]:
    own = {given.name for given in (*graph.input, *graph.initializer)}
    own.update(name for node in graph.node for name in node.output)
    for node in graph.node:
        yield from (name for name in reads(node) if name not in own)
    yield from (output.name for output in graph.output if output.name not in own)


def _inlined(model: ModelProto) -> ModelProto:
    if not model.functions:
        return model
    try:
        size = _size_inlined(model)
    except RecursionError:
        size = _MOST_NODES + 1
    if size > _MOST_NODES:
        raise UnsupportedModelError(
            f"the model's functions come to more than {_MOST_NODES} nodes when they are put in "
            "their places, or call each other without end"
        )
    try:
        made: ModelProto = onnx.inliner.inline_local_functions(model)
    except Exception as error:
        # onnx has no base class for what it raises.
        raise UnreadableModelError(
            f"the model's functions cannot be put in their places ({first_line(error)})"
        ) from error
    return made


def _size_inlined(model: ModelProto) -> int:
    functions = {(f.domain, f.name): f for f in model.functions}
    pending: set[tuple[str, str]] = set()

    @cache
    def size_of(key: tuple[str, str]) -> int:
        if key in pending:
            raise UnreadableModelError(f"the model's function {key[1]} calls itself")
        pending.add(key)
        total = sum(map(size, functions[key].node))
        pending.discard(key)
        return total

    def size(node: NodeProto) -> int:
        key = (node.domain, node.op_type)
        inner = sum(size(each) for graph in inner_graphs(node) for each in graph.node)
        return inner + (size_of(key) if key in functions else 1)

    return sum(map(size, model.graph.node))


def _needed(graph: GraphProto) -> list[NodeProto]:
    """The nodes that the outputs are computed from."""
    wanted = {output.name for output in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if any(name in wanted for name in node.output if name):
            kept.append(node)
            wanted.update(reads(node))
    return kept[::-1]


def _is_constant(node: NodeProto) -> bool:
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")


def _collect(graph: GraphProto, nodes: Sequence[NodeProto], constants: dict[str, Tensor]) -> None:
    """Read the constants of a graph and of those inside it."""
    if graph.sparse_initializer:
        raise UnsupportedModelError("the model has sparse initializers; store them as dense ones")
    wanted = {name for node in nodes for name in reads(node)}
    wanted.update(output.name for output in graph.output)
    for stored in graph.initializer:
        if stored.name in wanted:
            _add(constants, stored.name, _tensor(stored, stored.name))
    for node in nodes:
        if _is_constant(node):
            _add(constants, node.output[0], _constant(node))
        for inner in inner_graphs(node):
            _collect(inner, inner.node, constants)


def _add(constants: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    if name in constants and not _is_same(constants[name], tensor):
        raise UnsupportedModelError(f"the model gives two constants the name {name!r}")
    constants[name] = tensor


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _tensor(stored: TensorProto, name: str) -> Tensor:
    dtype = torch_dtype(stored.data_type)
    if stored.data_location == TensorProto.EXTERNAL:
        raise UnsupportedModelError(
            f"the tensor {name!r} is stored outside of the file; save the model with all of its "
            "data in one file"
        )
    try:
        array = numpy_helper.to_array(stored).copy()
    except Exception as error:
        # onnx has no base class for what it raises on a tensor that is damaged.
        raise UnreadableModelError(
            f"the tensor {name!r} is damaged ({first_line(error)})"
        ) from error
    if dtype == torch.bfloat16:
        return torch.from_numpy(array.view("uint16")).view(torch.bfloat16)
    return torch.from_numpy(array)


def _constant(node: NodeProto) -> Tensor:
    name = node.output[0]
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if attribute.name == "value":
            return _tensor(value, name)
        if attribute.name in ("value_float", "value_floats"):
            return torch.tensor(value, dtype=torch.float32)
        if attribute.name in ("value_int", "value_ints"):
            return torch.tensor(value, dtype=torch.int64)
    raise UnsupportedModelError(
        f"the constant {name!r} is a text or sparse; only dense numbers are taken"
    )


def _check_order(nodes: Sequence[NodeProto], known: set[str], outputs: Sequence[str]) -> None:
    """Check that each node reads what was made before it, and that no name is made twice."""
    for node in nodes:
        for name in reads(node):
            if name not in known:
                raise UnreadableModelError(
                    f"node {label_of(node)!r} ({node.op_type}) reads {name!r}, which nothing "
                    "before it makes"
                )
        for name in node.output:
            if name and name in known:
                raise UnreadableModelError(f"the name {name!r} is made twice")
            known.add(name)
    for name in outputs:
        if name not in known:
            raise UnreadableModelError(f"the output {name!r} is made by nothing")
