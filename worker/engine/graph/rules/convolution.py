"""Convolutions of one to three dimensions, grouped, depthwise and transposed."""

import torch

from worker.engine.graph.arguments import argument, set_argument
from worker.engine.graph.labels import Value
from worker.engine.graph.registry import Call, Resizing, resize, rule

aten = torch.ops.aten

FORWARD = (
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv1d.padding,
    aten.conv2d.padding,
    aten.conv3d.padding,
)
TRANSPOSED = (
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
)


@rule(*FORWARD)
def convolution(call: Call) -> Value:
    """Couple ``conv(input, weight, bias?, ...)``.

    ``g`` conv groups, each reading ``c`` channels and writing ``k``:

    * dense (``g = 1``): ``c`` couples the input to its producer, ``k`` is free;
    * grouped: a conv group goes whole, its ``c`` inputs with its ``k`` outputs;
    * depthwise (``c = k = 1``): only ``g`` is left, input and output lose the same channels.
    """
    source, weight, bias = call.value("input"), call.value("weight"), call.optional("bias")
    stars = " *" * (len(weight.shape) - 2)
    equation = f"... (g c){stars}, (g k) c{stars}{', (g k)' * len(bias)} -> ... (g k){stars}"
    groups = call.argument("groups")
    return call.coupler.equate(
        equation,
        source,
        weight,
        *bias,
        output=call.output,
        sizes={"g": groups, "k": weight.shape[0] // groups, "c": weight.shape[1]},
    )


@rule(*TRANSPOSED)
def transposed(call: Call) -> Value:
    """Couple ``conv_transpose(input, weight, bias?, ...)``: the weight has its inputs first."""
    source, weight, bias = call.value("input"), call.value("weight"), call.optional("bias")
    stars = " *" * (len(weight.shape) - 2)
    equation = f"... (g c){stars}, (g c) k{stars}{', (g k)' * len(bias)} -> ... (g k){stars}"
    groups = call.argument("groups")
    return call.coupler.equate(
        equation,
        source,
        weight,
        *bias,
        output=call.output,
        sizes={"g": groups, "k": weight.shape[1], "c": weight.shape[0] // groups},
    )


@resize(*FORWARD, *TRANSPOSED)
def fewer_groups(resizing: Resizing) -> None:
    """Conv groups go whole, so their number shrinks as the input channels do."""
    node = resizing.node
    groups = argument(node, "groups")
    if groups == 1:
        return
    source, weight = argument(node, "input"), argument(node, "weight")
    channels = -1 - (len(resizing.before[weight]) - 2)
    old, new = resizing.before[source][channels], resizing.after[source][channels]
    if old != new:
        set_argument(node, "groups", groups * new // old)
