"""Scale channels between two layers so that both have weights of one size."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from worker.engine.arguments import argument
from worker.engine.criteria.columns import groups_of, is_convolution
from worker.engine.draft import Draft
from worker.engine.graph.weights import WeightCall, weight_calls
from worker.engine.program import Program

aten = torch.ops.aten

_ELEMENTWISE = (
    aten.relu.default,
    aten.relu_.default,
    aten.leaky_relu.default,
    aten.leaky_relu_.default,
    aten.dropout.default,
    aten.dropout_.default,
    aten.alias.default,
    aten.contiguous.default,
)
_POOLS = (
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.max_pool3d.default,
    aten.avg_pool1d.default,
    aten.avg_pool2d.default,
    aten.avg_pool3d.default,
    aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default,
    aten.adaptive_avg_pool3d.default,
)
_RESHAPES = (aten.flatten.using_ints, aten.view.default, aten.reshape.default)

_MOST_ROUNDS = 50
_SETTLED = 1e-3
"""Where no channel is scaled by more than this share, nothing is left to do."""


@torch.no_grad()
def equalized(program: Program) -> tuple[Program, int]:
    """Scale the channels between layers so that what makes them and what reads them is as large.

    Channel ``i`` between two layers is divided by ``s_i = sqrt(r_i * q_i) / q_i`` in the first one,
    weight and bias, and multiplied by it in the second one, where ``r_i`` and ``q_i`` are the
    largest magnitudes of the weights that make and that read it. Between them may be whatever gives
    a scaled value for a scaled one: nothing, a relu, pooling, a reshape. Exact but for rounding.
    Pairs overlap, so all are gone through again until nothing moves.

    Args:
        program: Not changed. Its batch norms should be folded before.

    Returns:
        The program with other weights, and the same graph; and how many pairs there are.

    Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
    ICCV 2019, section 4.1.
    """
    draft = Draft(program)
    pairs = list(_pairs(program, draft))
    if not pairs:
        return program, 0
    ends = [end for pair in pairs for end in (pair.first, pair.second)]
    weights = {end.node: end.weight(draft) for end in ends}
    biases = {pair.first.node: pair.first.bias(draft) for pair in pairs}
    for _ in range(_MOST_ROUNDS):
        if max(_equalize(pair, weights, biases) for pair in pairs) < _SETTLED:
            break
    for end in ends:
        draft.put(end.weight_node(draft), weights[end.node])
        bias = end.bias_node(draft)
        if bias is not None and (value := biases.get(end.node)) is not None:
            draft.put(bias, value)
    return draft.program_as_is(), len(pairs)


@dataclass(frozen=True)
class _End:
    """One layer of a pair, and how its weight sees channels."""

    call: WeightCall

    @property
    def node(self) -> Node:
        return self.call.node

    def weight_node(self, draft: Draft) -> Node:
        found = draft.copies[argument(self.node, "weight")]
        assert isinstance(found, Node)
        return found

    def bias_node(self, draft: Draft) -> Node | None:
        bias = argument(self.node, "bias")
        return None if bias is None else draft.copies[bias]

    def weight(self, draft: Draft) -> Tensor:
        found = draft.tensor(self.weight_node(draft))
        assert found is not None
        return found.double()

    def bias(self, draft: Draft) -> Tensor | None:
        found = draft.tensor(self.bias_node(draft))
        return None if found is None else found.double()


@dataclass(frozen=True)
class _Pair:
    """Two layers, and how many inputs of the second one are one channel of the first one."""

    first: _End
    second: _End
    repeats: int

    def by_input(self, weight: Tensor) -> Tensor:
        """A view of the second weight: ``(channels, repeats, all that they are read by)``.

        The inputs of a convolution are those of its groups, one group after the other.
        """
        groups = groups_of(self.second.node)
        parts = weight.view(groups, len(weight) // groups, weight.shape[1], -1)
        inputs = parts.transpose(1, 2).flatten(0, 1)
        return inputs.reshape(-1, self.repeats, *inputs.shape[1:])

    def scaled_inputs(self, weight: Tensor, scale: Tensor) -> Tensor:
        groups = groups_of(self.second.node)
        inputs = scale.repeat_interleave(self.repeats).view(groups, 1, weight.shape[1], 1)
        parts = weight.view(groups, len(weight) // groups, weight.shape[1], -1)
        return (parts * inputs).view_as(weight)


def _equalize(pair: _Pair, weights: dict[Node, Tensor], biases: dict[Node, Tensor | None]) -> float:
    """Equalize a pair in place; the largest change, as the logarithm of its factor."""
    made = weights[pair.first.node].flatten(1).abs().amax(1)
    read = pair.by_input(weights[pair.second.node]).flatten(1).abs().amax(1)
    # A channel that nothing makes or reads, or no number, has no size to be fitted to.
    is_used = (made > 0) & (read > 0) & (made + read).isfinite()
    scale = torch.where(is_used, (made / read).sqrt(), 1.0)
    first, second = pair.first.node, pair.second.node
    before = weights[first]
    weights[first] = before / scale.view(-1, *[1] * (before.dim() - 1))
    weights[second] = pair.scaled_inputs(weights[second], scale)
    if (bias := biases[first]) is not None:
        biases[first] = bias / scale
    return float(scale.log().abs().max())


def _pairs(program: Program, draft: Draft) -> Iterator[_Pair]:
    calls = {call.node: call for call in weight_calls(program) if _is_plain(program, draft, call)}
    for call in calls.values():
        found = _reader(program, call)
        if found is not None and found[0] in calls:
            reader, dim, repeats = found
            second = calls[reader]
            if second.source_dim == dim:
                yield _Pair(_End(call), _End(second), repeats)


def _is_plain(program: Program, draft: Draft, call: WeightCall) -> bool:
    """Whether a call's weight and bias are its own, and where its schema has them."""
    node = call.node
    if node.target != aten.linear.default and not is_convolution(node):
        return False
    if is_convolution(node) and len(program.shape(node)) != len(
        program.shape(argument(node, "weight"))
    ):
        return False  # Without a dimension of rows its channels come first.
    weight, bias = argument(node, "weight"), argument(node, "bias")
    is_own = weight.op == "get_attr" and draft.is_own(draft.copies[weight])
    return is_own and (bias is None or draft.is_own(draft.copies[bias]))


def _reader(program: Program, call: WeightCall) -> tuple[Node, int, int] | None:
    """The one call that reads a call's outputs, along which dimension, and how often each."""
    node = call.node
    dim = 1 if is_convolution(node) else len(program.shape(node)) - 1
    repeats = 1
    while len(node.users) == 1:
        [reader] = node.users
        if reader.target in _ELEMENTWISE or _is_one_slope(program, reader):
            if "dropout" in str(reader.target) and argument(reader, "train"):
                return None
        elif reader.target in _POOLS or reader.target == aten.mean.dim:
            if not _keeps_channels(program, call, node, reader):
                return None
        elif reader.target in _RESHAPES:
            flat = _flattened(program, node, reader)
            if flat is None or dim != 1:
                return None
            repeats *= flat
        else:
            is_source = reader.op == "call_function" and reader.all_input_nodes[0] is node
            return (reader, dim, repeats) if is_source else None
        node = reader
    return None


def _is_one_slope(program: Program, node: Node) -> bool:
    if node.target != aten.prelu.default:
        return False
    size = 1
    for length in program.shape(argument(node, "weight")):
        size *= length
    return size == 1


def _keeps_channels(program: Program, call: WeightCall, source: Node, pool: Node) -> bool:
    """Whether pooling is within channels, which are in dimension 1 before and behind it."""
    rank = len(program.shape(source))
    if not is_convolution(call.node) or rank != len(program.shape(call.node)):
        return False
    if pool.target != aten.mean.dim:
        return True
    dims = argument(pool, "dim")
    return bool(dims) and all(dim % rank > 1 for dim in dims)


def _flattened(program: Program, source: Node, node: Node) -> int | None:
    """How many numbers of a channel lie in a row where all but rows is made one dimension."""
    before, after = program.shape(source), program.shape(node)
    if len(after) != 2 or len(before) < 2 or before[0] != after[0]:
        return None
    return after[1] // before[1]
