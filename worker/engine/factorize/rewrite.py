"""Put the parts of layers into a program, in the places of the layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.nn import Module, Parameter

from worker.engine.arguments import argument, set_argument
from worker.engine.errors import ExportError
from worker.engine.factorize.layers import Layer
from worker.engine.factorize.parts import Part
from worker.engine.graph.weights import bias_of
from worker.engine.program import Program, attribute, set_attribute

aten = torch.ops.aten

_PLAIN = {
    1: aten.conv1d.default,
    2: aten.conv2d.default,
    3: aten.conv3d.default,
}
_PADDED = {
    1: aten.conv1d.padding,
    2: aten.conv2d.padding,
    3: aten.conv3d.padding,
}


_PRODUCTS: dict[Any, tuple[str, str, str | None]] = {
    aten.linear.default: ("input", "weight", "bias"),
    aten.matmul.default: ("self", "other", None),
    aten.mm.default: ("self", "mat2", None),
    aten.addmm.default: ("mat1", "mat2", "self"),
}
"""For each matrix product: what is multiplied, with what, and what is added."""

_ORIGIN = ("nn_module_stack", "stack_trace")


@dataclass(frozen=True)
class Replacement:
    """A layer and what takes its place: at least one part.

    ``offset`` is added to what the layer gives: float64, ``(outputs,)``; None where nothing is.
    """

    layer: Layer
    parts: Sequence[Part]
    offset: Tensor | None = None


def rewritten(program: Program, replacements: Sequence[Replacement]) -> Program:
    """The program with parts in the places of layers.

    The parts of ``conv.weight`` are called ``conv.0.weight``, ``conv.1.weight`` and so on, as those
    of a ``Sequential`` in its place would be, and ``conv.bias`` becomes that of the last. The
    result is exported again, so that all shapes in it are true; it shares all other tensors.

    Args:
        program: Not changed.
        replacements: Layers of this program.

    Raises:
        ExportError: The result does not export, or not with the same dynamic dimensions.
    """
    graph = program.copied_graph()
    copies = dict(zip(program.graph.nodes, graph.nodes, strict=True))
    tensors: dict[str, Tensor] = {}
    gone: list[str] = []
    for each in replacements:
        names = _Names.of(each)
        _replace(graph, copies[each.layer.node], each, names)
        tensors |= _tensors(program, each, names)
        gone += names.gone
    module = program.module_with(graph)
    for name in gone:
        owner, _, leaf = name.rpartition(".")
        delattr(module.get_submodule(owner), leaf)
    for name, tensor in tensors.items():
        _put(module, name, tensor)
    changed = program.with_module(module)
    result = Program.from_exported(changed.export())
    if result.input_sizes != program.input_sizes:
        raise ExportError(
            f"the factorized program takes inputs of shapes {result.input_sizes} where the model "
            f"takes {program.input_sizes} (None is any size): export the model with other dynamic "
            "shapes"
        )
    return result


@dataclass(frozen=True)
class _Names:
    """What the tensors of a replacement are called.

    Attributes:
        weights: Of the parts.
        bias: Of the last part's bias, where it moves there.
        gone: Names that nobody reads afterwards.
    """

    weights: tuple[str, ...]
    bias: str | None
    gone: tuple[str, ...]

    @classmethod
    def of(cls, replacement: Replacement) -> "_Names":
        layer, count = replacement.layer, len(replacement.parts)
        module = layer.program.module
        owner, _, leaf = layer.name.rpartition(".")
        is_layer = bool(owner) and leaf == "weight"
        if is_layer:
            children = dict(module.get_submodule(owner).named_children())
            is_layer = not any(str(at) in children for at in range(count))
        # A parameter that is no layer's own weight leaves its name to the parts.
        base = owner if is_layer else layer.name
        moves = layer.offset is not None and layer.offset.name == f"{owner}.bias" and is_layer
        unread = [layer.stored, *([attribute(module, f"{owner}.bias")] if moves else [])]
        return cls(
            weights=tuple(f"{base}.{at}.weight" for at in range(count)),
            bias=f"{base}.{count - 1}.bias" if moves else None,
            gone=tuple(
                name
                for name, tensor in module.named_parameters(remove_duplicate=False)
                if any(tensor is each for each in unread)
            ),
        )


def _tensors(program: Program, replacement: Replacement, names: _Names) -> dict[str, Tensor]:
    """What the tensors that are new or changed hold."""
    layer, offset = replacement.layer, replacement.offset
    found: dict[str, Tensor] = {}
    for name, part in zip(names.weights, replacement.parts, strict=True):
        weight = part.weight
        is_last = name == names.weights[-1]
        if is_last and not layer.is_convolution and layer.node.target != aten.linear.default:
            weight = weight.T  # The last is the call that there was, which has outputs behind.
        found[name] = _like(layer.stored, weight)
    if layer.offset is not None:
        before = attribute(program.module, layer.offset.name)
        assert isinstance(before, Tensor)
        value = before.detach().double()
        if offset is not None:
            value = value + layer.offset.sign * offset.to(value.device)
        found[names.bias or layer.offset.name] = _like(before, value)
    return found


def _like(before: Tensor, value: Tensor) -> Tensor:
    """Numbers as another tensor holds them, in memory of their own."""
    after = (
        value.detach().to(before.device, before.dtype).clone(memory_format=torch.contiguous_format)
    )
    return Parameter(after, before.requires_grad) if isinstance(before, Parameter) else after


def _put(module: GraphModule, name: str, tensor: Tensor) -> None:
    """Put a tensor where none was yet, or in the place of another."""
    owner, _, leaf = name.rpartition(".")
    holder: Module = module
    for part in owner.split(".") if owner else ():
        if part not in dict(holder.named_children()):
            holder.add_module(part, Module())
        holder = holder.get_submodule(part)
    if leaf in dict(holder.named_buffers(recurse=False)):
        set_attribute(module, name, tensor)
    else:
        setattr(holder, leaf, tensor)


def _replace(graph: Graph, node: Node, replacement: Replacement, names: _Names) -> None:
    bias = bias_of(node)
    with graph.inserting_before(node):
        weights = [graph.get_attr(name) for name in names.weights]
        if names.bias is not None:
            bias = graph.get_attr(names.bias)
    if replacement.layer.is_convolution:
        _chain(graph, node, replacement.parts, weights, bias)
    else:
        _products(graph, node, weights, bias)


def _products(graph: Graph, node: Node, weights: Sequence[Node], bias: Node | None) -> None:
    """A matrix product as several: the last is the call that there was."""
    source_name, weight_name, bias_name = _PRODUCTS[node.target]
    source = argument(node, source_name)
    old = [argument(node, weight_name)]
    with graph.inserting_before(node):
        for weight in weights[:-1]:
            source = _called(graph, node, aten.linear.default, (source, weight))
    set_argument(node, source_name, source)
    set_argument(node, weight_name, weights[-1])
    if bias_name is not None and bias is not None:
        old.append(argument(node, bias_name))
        set_argument(node, bias_name, bias)
    _erase_unread(graph, old)


def _chain(
    graph: Graph, node: Node, parts: Sequence[Part], weights: Sequence[Node], bias: Node | None
) -> None:
    """A convolution as several."""
    end = argument(node, "input")
    with graph.inserting_before(node):
        for part, weight in zip(parts, weights, strict=True):
            own = bias if weight is weights[-1] else None
            end = _called(graph, node, *_convolution(node, part, end, weight, own))
    node.replace_all_uses_with(end)
    old = node.all_input_nodes
    graph.erase_node(node)
    _erase_unread(graph, old)


def _convolution(
    node: Node, part: Part, source: Node, weight: Node, bias: Node | None
) -> tuple[Any, tuple[Any, ...]]:
    """Operator and arguments of a part, which slides along its axes as the layer did."""
    dims = part.weight.dim() - 2

    def along(name: str, elsewhere: int) -> list[int]:
        given = argument(node, name)
        each = [*given] * dims if len(given) == 1 else given
        return [each[at] if at in part.axes else elsewhere for at in range(dims)]

    padding = argument(node, "padding")
    groups = len(part.weight) if part.is_depthwise else 1
    stride, dilation = along("stride", 1), along("dilation", 1)
    if isinstance(padding, str) and part.axes:
        return _PADDED[dims], (source, weight, bias, stride, padding, dilation, groups)
    pads = [0] * dims if isinstance(padding, str) else along("padding", 0)
    return _PLAIN[dims], (source, weight, bias, stride, pads, dilation, groups)


def _called(graph: Graph, node: Node, operator: Any, arguments: tuple[Any, ...]) -> Node:
    """A call in the place of another, as it were from the same module."""
    made = graph.call_function(operator, arguments)
    made.meta = {name: node.meta[name] for name in _ORIGIN if name in node.meta}
    return made


def _erase_unread(graph: Graph, nodes: Sequence[Node]) -> None:
    """Take out what was there for one reader alone."""
    for node in nodes:
        if not node.users and node.op != "placeholder":
            before = node.all_input_nodes
            graph.erase_node(node)
            _erase_unread(graph, before)
