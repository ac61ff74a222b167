"""Fold batch norms into the layers in front of them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from worker.engine.arguments import argument, set_argument
from worker.engine.draft import Draft, free_name
from worker.engine.graph.rules.convolution import FORWARD, TRANSPOSED
from worker.engine.program import Program, attribute, tensor_value

aten = torch.ops.aten


def folded(program: Program) -> Program:
    """Fold every batch norm in evaluation into the layer that it alone reads.

    ``norm(layer(x))`` becomes one layer: its weight times ``gamma / sqrt(variance + epsilon)`` of
    each output channel, and a bias that has what else the norm adds. The weight and the bias must
    have no other reader. Exact but for rounding; a norm that is not of this kind stays.

    Args:
        program: Not changed.

    Returns:
        A program without these norms and their tensors; the very same one if there are none. A
        layer without a bias gets one, beside its weight.

    Raises:
        ExportError: The exporter refuses the new graph.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", CVPR 2018, section 3.2.
    """
    draft = Draft(program)
    norms = draft.graph.find_nodes(op="call_function", target=aten.batch_norm.default)
    done = 0
    for norm in list(norms):
        layer = argument(norm, "input")
        affine = _affine(draft, norm)
        if affine is not None and _takes(draft, layer, norm):
            _fold(draft, layer, norm, affine)
            done += 1
    return draft.exported() if done else program


@dataclass(frozen=True)
class _Affine:
    """What a norm does to each channel: ``x * scale + shift``; both float64."""

    scale: Tensor
    shift: Tensor


def _affine(draft: Draft, norm: Node) -> _Affine | None:
    """None where that depends on what is read, or on what is computed."""
    if argument(norm, "training"):
        return None
    found = {}
    for name in ("running_mean", "running_var", "weight", "bias"):
        node = argument(norm, name)
        found[name] = draft.tensor(node)
        is_optional = name in ("weight", "bias")
        if found[name] is None and not (is_optional and node is None):
            return None
    mean, variance = found["running_mean"], found["running_var"]
    assert mean is not None
    assert variance is not None
    scale = (variance.double() + argument(norm, "eps")).rsqrt()
    if (weight := found["weight"]) is not None:
        scale = scale * weight.double()
    shift = -mean.double() * scale
    if (bias := found["bias"]) is not None:
        shift = shift + bias.double()
    return _Affine(scale, shift)


def _takes(draft: Draft, layer: object, norm: Node) -> bool:
    """Whether a norm can be a part of the layer in front of it."""
    if not isinstance(layer, Node) or list(layer.users) != [norm]:
        return False
    if layer.target not in (*FORWARD, *TRANSPOSED, aten.linear.default):
        return False
    weight, bias = argument(layer, "weight"), argument(layer, "bias")
    made, given = tensor_value(layer), tensor_value(norm)
    if not draft.is_own(weight) or not (bias is None or draft.is_own(bias)):
        return False
    if made is None or given is None or made.dtype != given.dtype:
        return False
    # A norm is of dimension 1, and that has to be the one of the layer's outputs.
    return made.dim() == (
        2 if layer.target == aten.linear.default else len(weight.meta["val"].shape)
    )


def _fold(draft: Draft, layer: Node, norm: Node, affine: _Affine) -> None:
    weight, bias = argument(layer, "weight"), argument(layer, "bias")
    before = draft.tensor(weight)
    assert before is not None
    draft.put(weight, _scaled(layer, before.double(), affine.scale))
    if bias is not None:
        own = draft.tensor(bias)
        assert own is not None
        draft.put(bias, own.double() * affine.scale + affine.shift)
    else:
        name = free_name(draft.module, _bias_name(str(weight.target)))
        held = attribute(draft.module, str(weight.target))
        assert isinstance(held, Tensor)
        own = torch.nn.Parameter(affine.shift.to(before.dtype), held.requires_grad)
        with draft.graph.inserting_before(layer):
            set_argument(layer, "bias", draft.add(name, own))
    norm.replace_all_uses_with(layer)
    _drop(draft, norm)


def _scaled(layer: Node, weight: Tensor, scale: Tensor) -> Tensor:
    """A weight with each output channel times a number."""
    ones = [1] * (weight.dim() - 2)
    if layer.target not in TRANSPOSED:
        return weight * scale.view(-1, 1, *ones)
    # The weight of a transposed convolution has its inputs first; each group its own outputs.
    groups = int(argument(layer, "groups"))
    inputs, outputs, *kernel = weight.shape
    parts = weight.view(groups, inputs // groups, outputs, *kernel)
    return (parts * scale.view(groups, 1, outputs, *ones)).view_as(weight)


def _bias_name(weight: str) -> str:
    owner, _, leaf = weight.rpartition(".")
    bias = leaf[: -len("weight")] + "bias" if leaf.endswith("weight") else f"{leaf}_bias"
    return f"{owner}.{bias}" if owner else bias


def _drop(draft: Draft, norm: Node) -> None:
    """Forget a norm, and its tensors where nobody else reads them."""
    read = [str(node.target) for node in norm.all_input_nodes if node.op == "get_attr"]
    mean = str(argument(norm, "running_mean").target)
    draft.graph.erase_node(norm)
    for name in read:
        draft.drop(name)
    if not draft.has(mean):
        # How many batches a norm has seen is of interest to nobody else.
        draft.drop(mean.removesuffix("running_mean") + "num_batches_tracked")
