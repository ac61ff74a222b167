"""LSTM, GRU and plain recurrent layers, fused over layers, directions and time."""

from collections.abc import Iterator, Sequence

import torch
from torch.fx import Node

from worker.engine.arguments import argument, operator_of
from worker.engine.graph.labels import Value
from worker.engine.graph.registry import Call, rule

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
    per_cell = len(weights) // (directions * call.argument("num_layers"))
    is_projected = per_cell > (4 if call.argument("has_biases") else 2)
    layer = _projected_layer if is_projected else _layer
    hidden = _initial_states(call)
    value = call.value("input")
    cells = _chunks(weights, per_cell)
    for _ in range(call.argument("num_layers")):
        outputs = [layer(call, value, next(cells), hidden, gates) for _ in range(directions)]
        value = outputs[0] if directions == 1 else call.coupler.concatenate(*outputs, dim=-1)
    return [value, *(_final_state(state) for state in hidden)]


CELLS = {
    aten.lstm_cell.default: 4,
    aten.gru_cell.default: 3,
    aten.rnn_tanh_cell.default: 1,
    aten.rnn_relu_cell.default: 1,
}


@rule(*CELLS)
def cell(call: Call) -> Value | list[Value]:
    """Couple one step of one layer, as a loop over time has it."""
    states = _initial_states(call)
    width = states[0].shape[-1]
    lead = "n " * (len(states[0].shape) - 1)
    biases = [value for name in ("b_ih", "b_hh") for value in call.optional(name)]
    value = call.coupler.equate(
        f"{lead}i{f', {lead}h' * len(states)}, (q h) i, (q h) h{', (q h)' * len(biases)}"
        f" -> {lead}h",
        call.value("input"),
        *states,
        call.value("w_ih"),
        call.value("w_hh"),
        *biases,
        output=states[0].shape,
        sizes={"q": CELLS[operator_of(call.node)], "h": width},
        whole=("q",),
    )
    return [value, value] if len(states) > 1 else value


def _layer(
    call: Call, source: Value, cell: Sequence[Value], hidden: Sequence[Value], gates: int
) -> Value:
    """One layer in one direction."""
    lead, state = _lead(call, source)
    biases = ", (q h)" * (len(cell) - 2)
    states = f", {state} h" * len(hidden)
    width = cell[1].shape[1]
    return call.coupler.equate(
        f"{lead} i, (q h) i, (q h) h{biases}{states} -> {lead} h",
        source,
        *cell,
        *hidden,
        output=(*source.shape[:-1], width),
        sizes={"q": gates, "h": width},
        whole=("q",),
    )


def _projected_layer(
    call: Call, source: Value, cell: Sequence[Value], hidden: Sequence[Value], gates: int
) -> Value:
    """One layer whose ``h`` hidden units leave it, and come back, as ``p`` projected ones.

    The hidden units stay: torch takes a state as wide as the projection for one without any.
    """
    lead, state = _lead(call, source)
    biases = ", (q h)" * (len(cell) - 3)
    projected, width = cell[-1].shape
    return call.coupler.equate(
        f"{lead} i, (q h) i, (q h) p{biases}, p h, {state} p, {state} h -> {lead} p",
        source,
        *cell,
        *hidden,
        output=(*source.shape[:-1], projected),
        sizes={"q": gates, "h": width},
        fixed=("q", "h"),
    )


def _lead(call: Call, source: Value) -> tuple[str, str]:
    """The dimensions before the features, of inputs and of states."""
    if len(source.shape) == 2:
        return "*", "*"
    # Time stays: a step that is left out changes every state after it.
    return ("n *" if call.argument("batch_first") else "* n"), "* n"


def _initial_states(call: Call) -> list[Value]:
    given = argument(call.node, "hx")
    nodes = [given] if isinstance(given, Node) else list(given)
    return [call.of(node) for node in nodes]


def _final_state(initial: Value) -> Value:
    """A state ends with the shape and the channels that it started with; all layers stay."""
    return Value(initial.shape, tuple(p for p in initial.planes if p.shape[0] == 1))


def _chunks(values: Sequence[Value], size: int) -> Iterator[Sequence[Value]]:
    return (values[at : at + size] for at in range(0, len(values), size))
