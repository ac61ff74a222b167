"""LSTM, GRU and plain recurrent layers, fused over layers, directions and time."""

from collections.abc import Iterator, Sequence

import torch
from torch.fx import Node

from worker.engine.graph.arguments import argument, operator_of
from worker.engine.graph.labels import Value
from worker.engine.graph.registry import Call, Refusal, rule

aten = torch.ops.aten

GATES = {
    aten.lstm.input: 4,
    aten.gru.input: 3,
    aten.rnn_tanh.input: 1,
    aten.rnn_relu.input: 1,
}


@rule(*GATES)
def recurrent(call: Call) -> list[Value]:
    """Couple a stack of recurrent layers.

    A hidden unit owns its row in each of the ``q`` gates, its column in the recurrent weight, its
    place in the initial state, and its place in what the next layer reads. The states of all
    layers lie in one tensor ``(layers x directions, n, h)``, so they lose the same units wherever
    a state is read or given in full; states made of zeros are cut to what their users need.
    """
    gates = GATES[operator_of(call.node)]
    weights = [call.of(node) for node in argument(call.node, "params")]
    directions = 2 if call.argument("bidirectional") else 1
    per_cell = 4 if call.argument("has_biases") else 2
    if len(weights) != per_cell * directions * call.argument("num_layers"):
        raise Refusal("a projection of the hidden state")
    hidden = _initial_states(call)
    value = call.value("input")
    cells = _chunks(weights, per_cell)
    for _ in range(call.argument("num_layers")):
        outputs = [_cell(call, value, next(cells), hidden, gates) for _ in range(directions)]
        value = outputs[0] if directions == 1 else call.coupler.concatenate(*outputs, dim=-1)
    return [value, *(_final_state(state) for state in hidden)]


def _cell(
    call: Call, source: Value, cell: Sequence[Value], hidden: Sequence[Value], gates: int
) -> Value:
    """One layer in one direction."""
    biases = len(cell) - 2
    width = cell[1].shape[1]
    batched = len(source.shape) == 3
    # Time stays: a step that is left out changes every state after it.
    lead = ("n *" if call.argument("batch_first") else "* n") if batched else "*"
    state = "* n h" if batched else "* h"
    equation = (
        f"{lead} i, (q h) i, (q h) h"
        + ", (q h)" * biases
        + f", {state}" * len(hidden)
        + f" -> {lead} h"
    )
    return call.coupler.equate(
        equation,
        source,
        *cell,
        *hidden,
        output=(*source.shape[:-1], width),
        sizes={"q": gates, "h": width},
        whole=("q",),
    )


def _initial_states(call: Call) -> list[Value]:
    given = argument(call.node, "hx")
    nodes = [given] if isinstance(given, Node) else list(given)
    return [call.of(node) for node in nodes]


def _final_state(initial: Value) -> Value:
    """A state ends with the shape and the channels that it started with; all layers stay."""
    return Value(initial.shape, tuple(p for p in initial.planes if p.shape[0] == 1))


def _chunks(values: Sequence[Value], size: int) -> Iterator[Sequence[Value]]:
    return (values[at : at + size] for at in range(0, len(values), size))
