"""Changes to a graph that Keras's backend wrote: the same numbers, in the operators' own layout.

Keras keeps channels last and its kernels the other way round, so it turns around what goes into a
convolution, what comes out, and the kernel, at every call. Here kernels are turned once, as they
are stored, and turns of activations that undo each other are left out.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from worker.engine.arguments import argument, operator_of, set_argument
from worker.engine.program import attribute, set_attribute, tensor_value

aten = torch.ops.aten

_ASSERTS = (aten._assert_tensor_metadata.default,)  # noqa: SLF001 - an operator's public name
_CASTS = (aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten.type_as.default)
_NOTHING = (
    aten.contiguous.default,
    aten.alias.default,
    aten.detach.default,
    aten.detach_.default,
    aten.lift_fresh_copy.default,
    aten.clone.default,
)
_CONVOLUTIONS = (
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv1d.padding,
    aten.conv2d.padding,
    aten.conv3d.padding,
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
)
_UNARY = frozenset(
    {
        aten.relu.default,
        aten.gelu.default,
        aten.silu.default,
        aten.sigmoid.default,
        aten.tanh.default,
        aten.elu.default,
        aten.selu.default,
        aten.celu.default,
        aten.leaky_relu.default,
        aten.hardtanh.default,
        aten.relu6.default,
        aten.hardsigmoid.default,
        aten.hardswish.default,
        aten.softplus.default,
        aten.mish.default,
        aten.clamp.default,
        aten.exp.default,
        aten.neg.default,
        aten.abs.default,
        aten.square.default,
        aten.sqrt.default,
        aten.rsqrt.default,
        aten.to.dtype,
    }
)
_BINARY = frozenset(
    {
        aten.add.Tensor,
        aten.sub.Tensor,
        aten.mul.Tensor,
        aten.div.Tensor,
        aten.maximum.default,
        aten.minimum.default,
    }
)
_OTHER_NAMES = {
    "absolute": "abs",
    "clip": "clamp",
    "divide": "div",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "multiply": "mul",
    "negative": "neg",
    "not_equal": "ne",
    "subtract": "sub",
    "true_divide": "div",
}
_TURNS = (aten.permute.default, aten.transpose.int, aten.t.default, aten.swapaxes.default)


def simplified(module: GraphModule) -> dict[str, tuple[int, ...]]:
    """Simplify the graph of a flat module in place.

    Returns:
        For each parameter that was turned, how: as ``torch.permute`` takes it.
    """
    graph = module.graph
    _leave_out_checks(graph)
    _leave_out_copies(graph)
    _make_pure(graph)
    _call_by_one_name(graph)
    _leave_out_copies(graph)
    _join_biases(module)
    _make_linear(module)
    while _move_turns_down(graph) or _join_turns(graph):
        pass
    permutations = _turn_parameters(module)
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()
    return permutations


def _leave_out_checks(graph: Graph) -> None:
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in _ASSERTS:
            graph.erase_node(node)


def _leave_out_copies(graph: Graph) -> None:
    """Leave out what gives its input back, and casts to what a tensor already is."""
    for node in list(graph.nodes):
        if node.op != "call_function" or not node.args or not isinstance(node.args[0], Node):
            continue
        source = node.args[0]
        is_cast = node.target in _CASTS and _dtype(node) == _dtype(source)
        if is_cast or node.target in _NOTHING:
            node.replace_all_uses_with(source)
            graph.erase_node(node)
        elif node.target is aten.view.default:
            # What was contiguous need not be any more.
            node.target = aten.reshape.default


def _dtype(node: Node) -> torch.dtype | None:
    value = node.meta.get("val")
    return value.dtype if isinstance(value, Tensor) else None


def _make_pure(graph: Graph) -> None:
    """Have operators give a new tensor where they wrote into their first argument."""
    order = {node: at for at, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001
            continue
        name = node.target._schema.name.removeprefix("aten::")  # noqa: SLF001
        if not node.target._schema.is_mutable or not name.endswith("_"):  # noqa: SLF001
            continue
        pure = getattr(getattr(aten, name[:-1], None), node.target._overloadname, None)  # noqa: SLF001
        target = node.args[0]
        if pure is None or not isinstance(target, Node):
            continue
        node.target = pure
        later = {user for user in target.users if order[user] > order[node]}
        target.replace_all_uses_with(node, delete_user_cb=later.__contains__)


def _call_by_one_name(graph: Graph) -> None:
    """Call operators that have two names by the one that the engine has rules for."""
    for node in graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001
            continue
        name = node.target._schema.name.removeprefix("aten::")  # noqa: SLF001
        if name in _OTHER_NAMES:
            packet = getattr(aten, _OTHER_NAMES[name])
            node.target = getattr(packet, node.target._overloadname)  # noqa: SLF001


def _join_biases(module: GraphModule) -> None:
    """Give a convolution its bias, which Keras adds afterwards."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target not in _CONVOLUTIONS or argument(node, "bias") is not None:
            continue
        last = node
        while len(last.users) == 1 and next(iter(last.users)).target is aten.permute.default:
            last = next(iter(last.users))
        added = next(iter(last.users)) if len(last.users) == 1 else None
        if added is None or added.target is not aten.add.Tensor or added.kwargs:
            continue
        other = next((each for each in added.args if each is not last), None)
        bias = _plain_bias(other, channel_dim=_channel_dim(node, last), rank=_rank(last))
        if bias is None:
            continue
        set_argument(node, "bias", _moved_before(graph, bias, node))
        added.replace_all_uses_with(last)
        graph.erase_node(added)


def _channel_dim(convolution: Node, last: Node) -> int:
    """Where the channels of a convolution are after it was turned."""
    dim = 1
    chain: list[Node] = []
    while last is not convolution:
        chain.append(last)
        last = last.all_input_nodes[0]
    for turn in reversed(chain):
        dim = [each % _rank(turn) for each in argument(turn, "dims")].index(dim)
    return dim


def _rank(node: Node) -> int:
    value = tensor_value(node)
    return -1 if value is None else value.dim()


def _plain_bias(node: Any, *, channel_dim: int, rank: int) -> Node | None:
    """A parameter that is added to one dimension, without the shape it was given for that."""
    if not isinstance(node, Node):
        return None
    value = tensor_value(node)
    if value is None:
        return None
    shape = [1] * (rank - value.dim()) + list(value.shape)
    if any(size != 1 for at, size in enumerate(shape) if at != channel_dim):
        return None
    while node.target in (aten.reshape.default, aten.unsqueeze.default):
        node = node.all_input_nodes[0]
    is_bias = node.op == "get_attr" and _rank(node) == 1
    return node if is_bias else None


def _moved_before(graph: Graph, node: Node, user: Node) -> Node:
    """The same attribute, read before a node."""
    with graph.inserting_before(user):
        read = graph.get_attr(str(node.target))
    read.meta.update(node.meta)
    return read


def _make_linear(module: GraphModule) -> None:
    """Call a matrix multiplication with a parameter what it is: a linear layer."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is not aten.matmul.default:
            continue
        source, weight = node.args
        if weight.op != "get_attr" or _rank(weight) != 2 or len(_reads(graph, weight)) > 1:
            continue
        added = next(iter(node.users)) if len(node.users) == 1 else None
        bias = None
        if added is not None and added.target is aten.add.Tensor and not added.kwargs:
            other = next((each for each in added.args if each is not node), None)
            bias = _plain_bias(other, channel_dim=_rank(node) - 1, rank=_rank(node))
        with graph.inserting_before(node):
            turned = graph.call_function(aten.permute.default, (weight, [1, 0]))
            turned.meta["val"] = weight.meta["val"].permute(1, 0)
            given = () if bias is None else (_moved_before(graph, bias, node),)
            linear = graph.call_function(aten.linear.default, (source, turned, *given))
        linear.meta["val"] = node.meta["val"]
        last = node if bias is None else added
        assert last is not None
        last.replace_all_uses_with(linear)
        graph.erase_node(last)
        if last is not node:
            graph.erase_node(node)


def _reads(graph: Graph, read: Node) -> list[Node]:
    """Every node that reads the same attribute, if anything reads it in turn."""
    return [
        node
        for node in graph.nodes
        if node.op == "get_attr" and node.target == read.target and node.users
    ]


def _order(node: Node) -> list[int] | None:
    """How a node turns its input, as permute says it; None where it does not."""
    if node.op != "call_function" or node.target not in _TURNS:
        return None
    rank = _rank(node)
    order = list(range(rank))
    if node.target is aten.permute.default:
        return [dim % rank for dim in argument(node, "dims")]
    if node.target is aten.t.default:
        return order[::-1]
    names = ("dim0", "dim1") if node.target is aten.transpose.int else ("axis0", "axis1")
    first, second = (argument(node, name) % rank for name in names)
    order[first], order[second] = order[second], order[first]
    return order


def _move_turns_down(graph: Graph) -> bool:
    """Turn what comes out of a pointwise operator in place of what goes in."""
    is_changed = False
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in (aten.mean.dim, aten.sum.dim_IntList, aten.amax.default):
            is_changed |= _reduce_before_turn(graph, node)
            continue
        turned = _turned_inputs(node)
        if not turned:
            continue
        order = _order(turned[0])
        assert order is not None
        for each in turned:
            node.replace_input_with(each, each.all_input_nodes[0])
        value = node.meta["val"]
        back = [order.index(dim) for dim in range(len(order))]
        node.meta["val"] = value.permute(back)
        if node.target is aten.cat.default:
            set_argument(node, "dim", order[argument(node, "dim") % len(order)])
        elif node.target is aten.pad.default:
            set_argument(node, "pad", _pads_before(argument(node, "pad"), order))
        _turn_after(graph, node, order, value)
        _erase_unused(graph, turned)
        is_changed = True
    return is_changed


def _reduce_before_turn(graph: Graph, node: Node) -> bool:
    """Reduce what is not turned; what is left is turned only if it would be in another order."""
    turned = node.all_input_nodes[0]
    order = _order(turned)
    dims = argument(node, "dim")
    if order is None or not dims:
        return False
    rank = len(order)
    gone = {dim % rank for dim in dims}
    is_kept = bool(argument(node, "keepdim"))
    left = [source for dim, source in enumerate(order) if dim not in gone]
    if not is_kept and left != sorted(left):
        return False
    value = node.meta["val"]
    node.replace_input_with(turned, turned.all_input_nodes[0])
    set_argument(node, "dim", sorted(order[dim] for dim in gone))
    if is_kept:
        node.meta["val"] = value.permute([order.index(dim) for dim in range(rank)])
        _turn_after(graph, node, order, value)
    _erase_unused(graph, [turned])
    return True


def _turn_after(graph: Graph, node: Node, order: list[int], value: Tensor) -> None:
    """Turn what a node gives, for all that read it."""
    readers = set(node.users)
    with graph.inserting_after(node):
        after = graph.call_function(aten.permute.default, (node, order))
    after.meta["val"] = value
    node.replace_all_uses_with(after, delete_user_cb=readers.__contains__)


def _pads_before(pads: list[Any], order: list[int]) -> list[Any]:
    """Pads of a tensor before it is turned; they are given from the last dimension on."""
    by_dim = [(0, 0)] * len(order)
    for at in range(0, len(pads), 2):
        by_dim[order[len(order) - 1 - at // 2]] = (pads[at], pads[at + 1])
    return [pad for pair in reversed(by_dim) for pad in pair]


def _turned_inputs(node: Node) -> list[Node]:
    """The inputs of a pointwise node if all are turned the same way."""
    # A single number, as a tensor, is the same whichever way.
    inputs = [each for each in node.all_input_nodes if _rank(each) != 0]
    if node.target is aten.pad.default:
        is_pointwise = argument(node, "mode") == "constant"
    elif node.target in _UNARY:
        is_pointwise = len(inputs) == 1
    else:
        is_pointwise = node.target in _BINARY or node.target is aten.cat.default
    orders = [_order(each) for each in inputs]
    is_turned = bool(inputs) and orders[0] is not None and all(each == orders[0] for each in orders)
    return inputs if is_pointwise and is_turned else []


def _join_turns(graph: Graph) -> bool:
    """Make one turn out of two in a row, and none out of two that undo each other."""
    is_changed = False
    for node in list(graph.nodes):
        order = _order(node)
        if order is None:
            continue
        source = node.all_input_nodes[0]
        before = _order(source)
        joined = order if before is None else [before[dim] for dim in order]
        origin = source if before is None else source.all_input_nodes[0]
        if joined == list(range(len(joined))):
            node.replace_all_uses_with(origin)
            graph.erase_node(node)
        elif before is not None:
            node.target, node.args, node.kwargs = aten.permute.default, (origin, joined), {}
        else:
            continue
        _erase_unused(graph, [source])
        is_changed = True
    return is_changed


def _erase_unused(graph: Graph, nodes: Iterable[Node]) -> None:
    for node in set(nodes):
        if not node.users and node.op == "call_function":
            graph.erase_node(node)


def _turn_parameters(module: GraphModule) -> dict[str, tuple[int, ...]]:
    """Store parameters as they are used, where every use turns them the same way."""
    graph = module.graph
    graph.eliminate_dead_code()
    permutations: dict[str, tuple[int, ...]] = {}
    reads: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.op == "get_attr" and node.users:
            reads.setdefault(str(node.target), []).append(node)
    for name, nodes in reads.items():
        tensor = attribute(module, name)
        if not isinstance(tensor, Tensor):
            continue
        users = [user for node in nodes for user in node.users]
        chains = [_chain(user) for user in users]
        if not chains or any(not chain for chain in chains):
            continue
        found = {_spelt(chain) for chain in chains}
        if len(found) > 1:
            continue
        order = _order(chains[0][-1])
        assert order is not None
        stored = _applied(tensor, chains[0]).contiguous()
        permutations[name] = tuple(order)
        _set(module, name, tensor, stored)
        for node, chain in zip([n for n in nodes for _ in n.users], chains, strict=True):
            node.meta["val"] = chain[-1].meta["val"]
            chain[-1].replace_all_uses_with(node)
            for each in reversed(chain):
                graph.erase_node(each)
    return permutations


def _chain(first: Node) -> list[Node]:
    """A turn of a parameter; before it, for a depthwise convolution, two dimensions made one."""
    chain = [first]
    if first.target is aten.reshape.default and len(first.users) == 1:
        second = next(iter(first.users))
        is_kernel = any(user.target in _CONVOLUTIONS for user in second.users)
        if not is_kernel or any(not isinstance(size, int) for size in argument(first, "shape")):
            return []
        chain.append(second)
    return chain if _order(chain[-1]) is not None else []


def _spelt(chain: list[Node]) -> str:
    return "; ".join(f"{node.target}{node.args[1:]}{node.kwargs}" for node in chain)


def _applied(tensor: Tensor, chain: list[Node]) -> Tensor:
    with torch.no_grad():
        for node in chain:
            call: Callable[..., Tensor] = operator_of(node)
            tensor = call(tensor, *node.args[1:], **node.kwargs)
    return tensor


def _set(module: GraphModule, name: str, before: Tensor, stored: Tensor) -> None:
    is_parameter = isinstance(before, torch.nn.Parameter)
    set_attribute(module, name, torch.nn.Parameter(stored) if is_parameter else stored)
