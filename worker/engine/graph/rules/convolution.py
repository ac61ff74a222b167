"""Convolutions of one to three dimensions, grouped, depthwise and transposed."""

import torch

from worker.engine.arguments import argument, set_argument
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
    rows, columns = call.value("weight").shape[:2]
    return _coupled(call, "(g k) c", k=rows // call.argument("groups"), c=columns)


@rule(*TRANSPOSED)
def transposed(call: Call) -> Value:
    """Couple ``conv_transpose(input, weight, bias?, ...)``: the weight has its inputs first."""
    rows, columns = call.value("weight").shape[:2]
    return _coupled(call, "(g c) k", c=rows // call.argument("groups"), k=columns)


def _coupled(call: Call, weight_dims: str, **sizes: int) -> Value:
    weight, bias = call.value("weight"), call.optional("bias")
    stars = " *" * (len(weight.shape) - 2)
    biases = ", (g k)" * len(bias)
    return call.coupler.equate(
        f"... (g c){stars}, {weight_dims}{stars}{biases} -> ... (g k){stars}",
        call.value("input"),
        weight,
        *bias,
        output=call.output,
        sizes={"g": call.argument("groups"), **sizes},
    )


@resize(*FORWARD, *TRANSPOSED)
def fewer_groups(resizing: Resizing) -> None:
    """Count the conv groups again: the weight says how many channels each of them has left.

    Groups go whole, or each loses the same channels where all read the same ones.
    """
    node = resizing.node
    # The weight's second dimension is one group's inputs; its outputs in a transposed convolution.
    shared = node if node.target in TRANSPOSED else argument(node, "input")
    weight = resizing.after[argument(node, "weight")]
    groups = resizing.after[shared][1 - len(weight)] // weight[1]
    if groups != argument(node, "groups"):
        set_argument(node, "groups", groups)
