"""SmoothQuant: let weights take over what makes activations hard to round."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from worker.engine.arguments import argument
from worker.engine.config import QuantizeConfig
from worker.engine.criteria.columns import is_convolution
from worker.engine.data import Rows
from worker.engine.draft import Draft
from worker.engine.errors import NotFiniteError
from worker.engine.graph.weights import WeightCall, weight_calls
from worker.engine.program import Program, tensor_value
from worker.engine.quantize.sample import look, sampled
from worker.engine.recovery.setting import Setting

aten = torch.ops.aten

_MOVES = (
    aten.transpose.int,
    aten.permute.default,
    aten.view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.contiguous.default,
    aten.alias.default,
)
"""What moves numbers and changes none."""

_LEAST = 1e-5
"""What a channel is divided by at least, and weights multiplied by."""


@torch.no_grad()
def smoothed(
    program: Program, alpha: float, config: QuantizeConfig, rows: Rows, setting: Setting
) -> tuple[Program, int]:
    """Divide what norms give to linear layers by a scale of each channel, which weights take over.

    Channel ``j`` is divided by ``s_j = max|x_j| ** alpha / max|w_j| ** (1 - alpha)``, with the
    largest magnitudes of the channel on calibration rows and of all weights that read it. Weight
    and bias of the norm are divided, and the weights multiplied: exact but for rounding. A norm is
    a layer norm or RMS norm with a weight, or a product with a weight at the end of one, whose
    result nothing but linear layers reads.

    Args:
        program: Not changed.
        alpha: In [0, 1]. With 0 all scales follow from weights, with 1 from activations.
        config: How many rows, and how many at once.
        rows: Inputs; targets are not read.
        setting: Its seed chooses rows.

    Returns:
        The program with other weights, and the same graph; and how many norms there are.

    Raises:
        DataMismatchError: There are fewer than 16 rows, or the program does not run on them.
        NotFiniteError: A norm gives NaN or infinity.

    Source: Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large
    Language Models", ICML 2023, section 4.
    """
    draft = Draft(program)
    norms = list(_norms(program, draft))
    order = sampled(config, rows, setting)
    if not norms:
        return program, 0
    largest: dict[Node, Tensor] = {}

    def show(node: Node, value: Tensor) -> None:
        found = value.abs().flatten(0, -2).amax(0).double()
        largest[node] = torch.maximum(largest[node], found) if node in largest else found

    nodes = [norm.node for norm in norms]
    look(program, nodes, rows.batches(program, config.batch_size, order=order), show)
    for norm in norms:
        _smooth(draft, norm, largest[norm.node], alpha)
    return draft.program_as_is(), len(norms)


@dataclass(frozen=True)
class _Norm:
    """A norm with a weight, and the calls that read it: nodes of the program."""

    node: Node
    weight: Node
    bias: Node | None
    readers: tuple[WeightCall, ...]


def _norms(program: Program, draft: Draft) -> Iterator[_Norm]:
    calls = {call.node: call for call in weight_calls(program)}
    held = {str(node.target): node for node in program.graph.find_nodes(op="get_attr")}
    for node in program.graph.nodes:
        found = _affine(program, node)
        readers = None if found is None else _readers(program, node, calls)
        if found is None or not readers:
            continue
        weight, bias = found
        own = [weight, *([] if bias is None else [bias]), *(held[r.parameter] for r in readers)]
        if all(draft.is_own(draft.copies[each]) for each in own):
            yield _Norm(node, weight, bias, tuple(readers))


def _readers(
    program: Program, node: Node, calls: Mapping[Node, WeightCall]
) -> list[WeightCall] | None:
    """The calls that read a value along its last dimension; None where others do as well."""
    found: list[WeightCall] = []
    for user in node.users:
        if user.target in _MOVES and _keeps_last(program, node, user):
            behind = _readers(program, user, calls)
            if behind is None:
                return None
            found += behind
        elif user in calls and calls[user].source is node and not is_convolution(user):
            if calls[user].source_dim != len(program.shape(node)) - 1:
                return None
            found.append(calls[user])
        else:
            return None
    return found


def _keeps_last(program: Program, source: Node, node: Node) -> bool:
    """Whether a reshape leaves the last dimension as it is."""
    rank = len(program.shape(source))
    if node.target == aten.transpose.int:
        return all(argument(node, name) % rank != rank - 1 for name in ("dim0", "dim1"))
    if node.target == aten.permute.default:
        return bool(argument(node, "dims")[-1] % rank == rank - 1)
    return program.shape(node)[-1:] == program.shape(source)[-1:]


def _affine(program: Program, node: Node) -> tuple[Node, Node | None] | None:
    """Weight and bias of a norm of the last dimension; None where a node is none."""
    bias = None
    if node.target in (aten.layer_norm.default, aten.rms_norm.default):
        weight = argument(node, "weight")
        bias = argument(node, "bias") if node.target == aten.layer_norm.default else None
    elif node.target == aten.mul.Tensor:
        parameters = [each for each in node.args if _is_held(each)]
        weight = parameters[0] if len(parameters) == 1 else None
    else:
        return None
    value = tensor_value(node)
    if not _is_held(weight) or value is None or value.dim() < 2:
        return None
    if program.shape(weight) != program.shape(node)[-1:]:
        return None
    return (weight, bias) if bias is None or _is_held(bias) else None


def _is_held(node: object) -> bool:
    return isinstance(node, Node) and node.op == "get_attr"


def _smooth(draft: Draft, norm: _Norm, largest: Tensor, alpha: float) -> None:
    if not bool(largest.isfinite().all()):
        raise NotFiniteError(
            f"on the training data the norm of {norm.weight.target} gives NaN or infinity: check "
            "the range of the data, and the weights for NaN"
        )
    held = {str(node.target): node for node in draft.graph.find_nodes(op="get_attr")}
    weights = [(held[reader.parameter], reader.weight_dim) for reader in norm.readers]
    read = torch.stack([_largest(draft, node, dim) for node, dim in weights]).amax(0)
    scale = (largest**alpha / read ** (1 - alpha)).clamp(min=_LEAST)
    # A channel that is always zero, or that nobody reads, is as easy to round as any.
    scale = torch.where((largest > 0) & (read > 0) & read.isfinite(), scale, 1.0)
    for node in (norm.weight, norm.bias):
        if node is not None:
            copy = draft.copies[node]
            draft.put(copy, _tensor(draft, copy) / scale)
    for node, dim in weights:
        draft.put(node, _tensor(draft, node) * (scale if dim == 1 else scale[:, None]))


def _largest(draft: Draft, node: Node, dim: int) -> Tensor:
    """The largest magnitude of the weights that read each index of a dimension."""
    return _tensor(draft, node).abs().amax(1 - dim)


def _tensor(draft: Draft, node: Node) -> Tensor:
    found = draft.tensor(node)
    assert found is not None
    return found.double()
