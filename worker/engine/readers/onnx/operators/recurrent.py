"""Recurrent layers.

ONNX keeps the weights of all directions in one tensor, and the gates in another order than PyTorch:
``i o f c`` for an LSTM, ``z r h`` for a GRU. They are reordered in the graph, so that parameters
keep the shapes and the names of the file.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from worker.engine.readers.onnx.host import Host, is_symbol
from worker.engine.readers.onnx.registry import Call, Unmet, operator

_LSTM_ORDER = (0, 2, 3, 1)
_GRU_ORDER = (1, 0, 2)
_LONGEST_UNROLLED = 256


class _Layer:
    """What the three operators share."""

    def __init__(self, call: Call, x: Tensor, hidden: int, lengths: Any) -> None:
        self.direction = call.get("direction", "forward")
        if self.direction not in ("forward", "reverse", "bidirectional"):
            raise Unmet(f"its direction is {self.direction!r}")
        self.directions = 2 if self.direction == "bidirectional" else 1
        self.is_batch_first = bool(call.get("layout", 0))
        self.x = x.transpose(0, 1) if self.is_batch_first else x
        self.hidden = hidden
        if "clip" in call.attributes:
            raise Unmet("it clips its gates")
        _check_lengths(lengths, self.x.shape[0])
        if self.direction == "reverse":
            self.x = self.x.flip(0)

    def state(self, given: Tensor | None) -> Tensor:
        """The state before the first step: ``(directions, n, h)``."""
        if given is not None:
            return given.transpose(0, 1) if self.is_batch_first else given
        return torch.zeros(self.directions, self.x.shape[1], self.hidden, dtype=self.x.dtype)

    def cells(
        self, w: Tensor, r: Tensor, b: Tensor | None, order: Sequence[int]
    ) -> tuple[list[Tensor], bool]:
        """Weights as PyTorch takes them, one direction after another, and whether with biases."""
        params: list[Tensor] = []
        for at in range(self.directions):
            params += [_ordered(w[at], order), _ordered(r[at], order)]
            if b is not None:
                both = b[at].chunk(2)
                params += [_ordered(both[0], order), _ordered(both[1], order)]
        return params, b is not None

    def given(self, outputs: Tensor, *states: Tensor) -> list[Tensor]:
        """What the node gives: ``(time, directions, n, h)``, and the last states."""
        if self.direction == "reverse":
            outputs = outputs.flip(0)
        if self.directions == 1:
            outputs = outputs.unsqueeze(1)
        else:
            outputs = outputs.unflatten(-1, (2, self.hidden)).transpose(1, 2)
        if not self.is_batch_first:
            return [outputs, *states]
        return [outputs.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in states)]


def _ordered(stacked: Tensor, order: Sequence[int]) -> Tensor:
    """Gates in another order."""
    if len(order) == 1:
        return stacked
    gates = stacked.chunk(len(order), 0)
    return torch.cat([gates[at] for at in order], 0)


def _check_lengths(lengths: Any, steps: Any) -> None:
    """Check that all rows are as long as the input; the others would need a mask."""
    if lengths is None:
        return
    if not isinstance(lengths, Host):
        raise Unmet("it reads sequence_lens that are not known while the model is read")
    if any(is_symbol(n) or is_symbol(steps) or n != steps for n in lengths.list()):
        raise Unmet("its sequence_lens are shorter than its input")


def _check_activations(call: Call, layer: _Layer, *allowed: str) -> None:
    found = call.texts("activations", list(allowed) * layer.directions)
    wanted = [name.lower() for name in allowed] * layer.directions
    if [name.lower() for name in found] != wanted:
        raise Unmet(f"its activations are {', '.join(found)}, not {', '.join(allowed)}")


@operator("LSTM", either=(4,))
def lstm(
    call: Call,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Any = None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
    peepholes: Tensor | None = None,
) -> list[Tensor]:
    """Compute ``lstm``."""
    layer = _Layer(call, x, r.shape[-1], lengths)
    _check_activations(call, layer, "Sigmoid", "Tanh", "Tanh")
    if peepholes is not None:
        raise Unmet("it has peepholes")
    if call.get("input_forget", 0):
        raise Unmet("it couples its input and forget gates")
    params, has_biases = layer.cells(w, r, b, _LSTM_ORDER)
    states = [layer.state(hidden), layer.state(cell)]
    outputs, last, last_cell = torch.lstm(
        layer.x, states, params, has_biases, 1, 0.0, False, layer.directions == 2, False
    )
    return layer.given(outputs, last, last_cell)


@operator("GRU", either=(4,))
def gru(
    call: Call,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Any = None,
    hidden: Tensor | None = None,
) -> list[Tensor]:
    """Compute ``gru``; step by step where it resets before the product, as PyTorch's does not."""
    layer = _Layer(call, x, r.shape[-1], lengths)
    _check_activations(call, layer, "Sigmoid", "Tanh")
    state = layer.state(hidden)
    if not call.get("linear_before_reset", 0):
        return layer.given(*_reset_before(layer, w, r, b, state))
    params, has_biases = layer.cells(w, r, b, _GRU_ORDER)
    outputs, last = torch.gru(
        layer.x, state, params, has_biases, 1, 0.0, False, layer.directions == 2, False
    )
    return layer.given(outputs, last)


def _reset_before(
    layer: _Layer, w: Tensor, r: Tensor, b: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """A GRU that resets the state before it is multiplied: a step after another."""
    steps = layer.x.shape[0]
    if is_symbol(steps) or steps > _LONGEST_UNROLLED:
        raise Unmet(
            "it resets the state before the product (linear_before_reset=0), for which the number "
            f"of steps has to be fixed, and at most {_LONGEST_UNROLLED}"
        )
    made, last = [], []
    for at in range(layer.directions):
        outputs, now = _one_direction(
            layer.x.flip(0) if at else layer.x,
            w[at],
            r[at],
            None if b is None else b[at],
            state[at],
        )
        made.append(outputs.flip(0) if at else outputs)
        last.append(now)
    return torch.cat(made, -1), torch.stack(last)


def _one_direction(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    from_input = torch.nn.functional.linear(x, w, None if b is None else b.chunk(2)[0])
    update_r, reset_r, new_r = r.chunk(3)
    update_b, reset_b, new_b = (None,) * 3 if b is None else b.chunk(2)[1].chunk(3)
    linear = torch.nn.functional.linear
    outputs = []
    for step in from_input.unbind(0):
        update_x, reset_x, new_x = step.chunk(3, -1)
        update = torch.sigmoid(update_x + linear(state, update_r, update_b))
        reset = torch.sigmoid(reset_x + linear(state, reset_r, reset_b))
        new = torch.tanh(new_x + linear(reset * state, new_r, new_b))
        state = (1 - update) * new + update * state
        outputs.append(state)
    return torch.stack(outputs), state


@operator("RNN", either=(4,))
def rnn(
    call: Call,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Any = None,
    hidden: Tensor | None = None,
) -> list[Tensor]:
    """Compute ``rnn_tanh`` or ``rnn_relu``."""
    layer = _Layer(call, x, r.shape[-1], lengths)
    names = {name.lower() for name in call.texts("activations", ["Tanh"])}
    if names not in ({"tanh"}, {"relu"}):
        raise Unmet(f"its activations are {', '.join(sorted(names))}, not Tanh or Relu")
    compute = torch.rnn_tanh if names == {"tanh"} else torch.rnn_relu
    params, has_biases = layer.cells(w, r, b, (0,))
    outputs, last = compute(
        layer.x,
        layer.state(hidden),
        params,
        has_biases,
        1,
        0.0,
        False,
        layer.directions == 2,
        False,
    )
    return layer.given(outputs, last)
