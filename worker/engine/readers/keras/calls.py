"""What some layers do while they are exported: the one operator of PyTorch that they are.

Keras computes batch normalization by arithmetic, and a recurrent layer by a loop over time. The
engine prunes, recalibrates and trains the operators, which PyTorch computes faster too.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from worker.engine.readers.keras.layouts import gates_swapped
from worker.engine.readers.keras.runtime import keras


@dataclass(frozen=True)
class Recurrent:
    """The weights of one recurrent layer as PyTorch has them: name, tensor, layout, variables."""

    layer: Any
    tensors: Mapping[str, Tensor]
    variables: Mapping[str, tuple[str, tuple[str, ...]]]
    """Layout and names of tensors, by the name of the cell's variable."""


@dataclass
class Calls:
    """What the replaced calls need, and what they have to say."""

    weights: dict[int, list[Tensor]] = field(default_factory=dict)
    """By the identity of a recurrent layer: as torch's operators take them."""
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    @contextmanager
    def replaced(self) -> Iterator[None]:
        """Have the layers call operators inside."""
        layers = keras().layers
        rnn = layers.RNN
        with ExitStack() as stack:

            def replace(owner: Any, name: str, function: Any) -> None:
                stack.enter_context(patch.object(owner, name, function))

            replace(layers.BatchNormalization, "call", _batch_norm(layers.BatchNormalization.call))
            replace(layers.LayerNormalization, "call", _layer_norm(layers.LayerNormalization.call))
            group = layers.GroupNormalization
            replace(group, "call", _group_norm(group.call))
            replace(layers.Embedding, "call", _embedding)
            replace(layers.Bidirectional, "call", self.bidirectional(layers.Bidirectional.call))
            for name in ("_can_attempt_fused_lstm", "_can_attempt_fused_gru"):
                if hasattr(layers.Bidirectional, name):
                    replace(layers.Bidirectional, name, _never)
            for owner in (layers.LSTM, layers.GRU, rnn):
                replace(owner, "inner_loop", self.inner_loop())
            yield

    def bidirectional(self, original: Any) -> Any:
        """Both directions in one operator: torch has as many units in each, as Keras has."""
        calls = self

        def call(
            layer: Any,
            sequences: Tensor,
            initial_state: Any = None,
            mask: Any = None,
            training: Any = None,
        ) -> Any:
            both = (layer.forward_layer, layer.backward_layer)
            weights = [calls.weights.get(id(each)) for each in both]
            is_one = (
                mask is None
                and initial_state is None
                and layer.merge_mode == "concat"
                and all(weights)
                and _are_alike(*both)
            )
            if not is_one:
                return original(
                    layer, sequences, initial_state=initial_state, mask=mask, training=training
                )
            flat = [weight for each in weights for weight in each or []]
            outputs, last = _operator(layer.forward_layer, sequences, None, flat, directions=2)
            result = outputs if layer.return_sequences else torch.cat([*last[0]], dim=-1)
            if not layer.return_state:
                return result
            return result, *(state[at] for at in (0, 1) for state in last)

        return call

    def inner_loop(self) -> Any:
        calls = self

        def inner_loop(
            layer: Any, sequences: Tensor, initial_state: Any, mask: Any, **_: Any
        ) -> Any:
            weights = calls.weights.get(id(layer))
            why = _why_not(layer) if weights is None else "it is given a mask"
            if weights is None or mask is not None:
                calls.warn(
                    f"layer {layer.name!r} was unrolled over its time steps, which makes it slow: "
                    f"{why}"
                )
                return _unrolled(layer, sequences, initial_state, mask)
            return _run_recurrent(layer, sequences, initial_state, weights)

        return inner_loop


def recurrent_weights(layer: Any) -> Recurrent | None:
    """The weights of a recurrent layer for torch's operator; None where it has none."""
    if _why_not(layer):
        return None
    cell = layer.cell
    kernel, recurrent = cell.kernel.value.detach(), cell.recurrent_kernel.value.detach()
    bias = cell.bias.value.detach() if cell.use_bias else None
    turned = gates_swapped if _is_gru(layer) else _as_it_is
    layout = "gru_kernel" if _is_gru(layer) else "kernel"
    tensors = {
        "weight_ih": turned(kernel.t()).contiguous(),
        "weight_hh": turned(recurrent.t()).contiguous(),
    }
    variables: dict[str, tuple[str, tuple[str, ...]]] = {
        "kernel": (layout, ("weight_ih",)),
        "recurrent_kernel": (layout, ("weight_hh",)),
    }
    if bias is not None:
        both = [bias, torch.zeros_like(bias)] if bias.dim() == 1 else list(bias)
        tensors["bias_ih"], tensors["bias_hh"] = (turned(each).clone() for each in both)
        names = ("bias_ih", "bias_hh")
        variables["bias"] = ("gru_biases" if _is_gru(layer) else "summed", names)
    return Recurrent(layer, tensors, variables)


def _as_it_is(rows: Tensor) -> Tensor:
    return rows


def _is_gru(layer: Any) -> bool:
    return isinstance(layer.cell, keras().layers.GRUCell)


def _why_not(layer: Any) -> str:
    """Why PyTorch has no operator for a recurrent layer; empty where it has one."""
    layers = keras().layers
    cell = layer.cell
    if type(cell) not in (layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell):
        return f"PyTorch has no operator for {type(cell).__name__}"
    activation = cell.activation.__name__
    if isinstance(cell, layers.SimpleRNNCell):
        is_known = activation in ("tanh", "relu")
    else:
        is_known = (activation, cell.recurrent_activation.__name__) == ("tanh", "sigmoid")
    if not is_known:
        return f"PyTorch has no operator for its activation ({activation})"
    if isinstance(cell, layers.GRUCell) and not cell.reset_after:
        return "PyTorch has no operator for a GRU with reset_after=False"
    if isinstance(cell, layers.GRUCell) and cell.use_bias and cell.bias.shape[0] != 2:
        return "its biases are of an older kind"
    return ""


def _run_recurrent(
    layer: Any, sequences: Tensor, initial_state: Sequence[Tensor], weights: list[Tensor]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """One layer, one direction: the last output, all outputs, the last states."""
    inputs = sequences.flip(1) if layer.go_backwards else sequences
    states = [state.unsqueeze(0) for state in initial_state]
    outputs, last = _operator(layer, inputs, states, weights, directions=1)
    final = [state.squeeze(0) for state in last]
    return final[0], outputs, final


def _unrolled(
    layer: Any, sequences: Tensor, initial_state: Any, mask: Tensor | None
) -> tuple[Tensor, Tensor, Any]:
    """One step after another, as Keras does it but for its loop, which fixes the number of rows."""
    tree = keras().tree
    # Where a step is masked, its output is the one before, and the states stay.
    output: Tensor | None = None
    states = list(initial_state)
    outputs = []
    times = list(range(sequences.shape[1]))
    for time in reversed(times) if layer.go_backwards else times:
        given, after = layer.cell(sequences[:, time], states)
        after = list(after) if tree.is_nested(after) else [after]
        if mask is not None:
            is_step = mask[:, time]
            before = torch.zeros_like(given) if output is None else output
            hidden = torch.zeros_like(given) if layer.zero_output_for_mask else before
            given = _where(is_step, given, hidden)
            after = tree.map_structure(
                lambda new, old, is_step=is_step: _where(is_step, new, old), after, states
            )
        output, states = given, after
        outputs.append(given)
    assert output is not None
    return output, torch.stack(outputs, dim=1), states


def _where(rows: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(rows.reshape(-1, *[1] * (one.dim() - 1)), one, other)


def _operator(
    layer: Any,
    inputs: Tensor,
    states: list[Tensor] | None,
    weights: list[Tensor],
    *,
    directions: int,
) -> tuple[Tensor, list[Tensor]]:
    """All outputs, and the last states; states before the first step are zero where not given."""
    cell = layer.cell
    layers = keras().layers
    if states is None:
        zeros = inputs.new_zeros(directions, inputs.shape[0], cell.units)
        states = [zeros, zeros]
    has_biases = len(weights) > 2 * directions
    how = (weights, has_biases, 1, 0.0, False, directions == 2, True)
    if isinstance(cell, layers.LSTMCell):
        outputs, *last = torch.lstm(inputs, states, *how)
    elif isinstance(cell, layers.GRUCell):
        outputs, *last = torch.gru(inputs, states[0], *how)
    elif cell.activation.__name__ == "relu":
        outputs, *last = torch.rnn_relu(inputs, states[0], *how)
    else:
        outputs, *last = torch.rnn_tanh(inputs, states[0], *how)
    return outputs, last


def _are_alike(forward: Any, backward: Any) -> bool:
    """Whether two layers are the directions of one operator."""
    one, other = forward.cell, backward.cell
    return (
        type(one) is type(other)
        and one.units == other.units
        and one.use_bias == other.use_bias
        and one.activation.__name__ == other.activation.__name__
        and not forward.go_backwards
        and bool(backward.go_backwards)
    )


def _never(*_: Any) -> bool:
    return False


def _batch_norm(original: Any) -> Any:
    def call(layer: Any, inputs: Tensor, training: Any = None, mask: Any = None) -> Any:
        mean, variance = layer.moving_mean.value, layer.moving_variance.value
        axis = layer.axis if isinstance(layer.axis, int) else None
        if axis is None or inputs.dim() < 2 or inputs.dtype != mean.dtype:
            return original(layer, inputs, training=training, mask=mask)
        axis %= inputs.dim()
        channels_second = _moved(inputs, axis, 1)
        normal = functional.batch_norm(
            channels_second,
            mean,
            variance,
            layer.gamma.value if layer.gamma is not None else None,
            layer.beta.value if layer.beta is not None else None,
            training=False,
            momentum=1.0 - layer.momentum,
            eps=layer.epsilon,
        )
        return _moved(normal, 1, axis)

    return call


def _moved(tensor: Tensor, source: int, target: int) -> Tensor:
    """The tensor with one dimension in another place."""
    if source == target:
        return tensor
    order = [at for at in range(tensor.dim()) if at != source]
    order.insert(target, source)
    return tensor.permute(order)


def _layer_norm(original: Any) -> Any:
    def call(layer: Any, inputs: Tensor) -> Any:
        axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
        dims = sorted(axis % inputs.dim() for axis in axes)
        weights = [value for value in (layer.gamma, layer.beta) if value is not None]
        is_last = dims == list(range(inputs.dim() - len(dims), inputs.dim()))
        is_plain = is_last and all(each.value.dtype == inputs.dtype for each in weights)
        if not is_plain or getattr(layer, "rms_scaling", False):
            return original(layer, inputs)
        return functional.layer_norm(
            inputs,
            [inputs.shape[dim] for dim in dims],
            layer.gamma.value if layer.gamma is not None else None,
            layer.beta.value if layer.beta is not None else None,
            layer.epsilon,
        )

    return call


def _group_norm(original: Any) -> Any:
    def call(layer: Any, inputs: Tensor) -> Any:
        weights = [value for value in (layer.gamma, layer.beta) if value is not None]
        is_plain = isinstance(layer.axis, int) and all(
            each.value.dtype == inputs.dtype for each in weights
        )
        if not is_plain:
            return original(layer, inputs)
        axis = layer.axis % inputs.dim()
        normal = functional.group_norm(
            _moved(inputs, axis, 1),
            layer.groups,
            layer.gamma.value if layer.gamma is not None else None,
            layer.beta.value if layer.beta is not None else None,
            layer.epsilon,
        )
        return _moved(normal, 1, axis)

    return call


def _embedding(layer: Any, inputs: Tensor) -> Tensor:
    if inputs.dtype not in (torch.int32, torch.int64):
        inputs = inputs.to(torch.int32)
    rows = functional.embedding(inputs, layer.embeddings.value)
    core_dtype: Any = keras().backend.standardize_dtype(layer.compute_dtype)
    return rows.to(getattr(torch, core_dtype))
