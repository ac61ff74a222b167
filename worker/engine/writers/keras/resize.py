"""How the sizes in a configuration of Keras follow from the shapes of the variables.

One function for each class of layers whose arguments say a size; all others have none.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from worker.engine.arguments import argument, has_argument
from worker.engine.program import Program
from worker.engine.readers.keras import KerasOrigin
from worker.engine.readers.keras.build import built
from worker.engine.writers.inexpressible import InexpressibleError


@dataclass
class Layer:
    """A layer, as the rules see it.

    Attributes:
        config: Its arguments, to be changed.
        layer: As Keras builds it from what it was.
        numbers: Of its own variables, by their names, such as ``kernel``.
        change: The whole change that it is part of.
    """

    config: dict[str, Any]
    layer: Any
    numbers: Mapping[str, int]
    change: "_Change"

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that a variable has now, in Keras's order of dimensions."""
        return tuple(self.change.values[self.numbers[name]].shape)

    def conv_groups(self, name: str) -> int:
        """The groups of the convolution that reads a variable; one where none does."""
        return self.told_by_user(name, "groups") or 1

    def told_by_user(self, name: str, key: str) -> int | None:
        """A number that the operator which reads a variable is told; None where it is told none."""
        variable = self.change.origin.variables[self.numbers[name]]
        node = self.change.users.get(variable.names[0]) if variable.names else None
        if node is None or not has_argument(node, key):
            return None
        return int(argument(node, key))


aten = torch.ops.aten
Rule = Callable[[Layer], None]


def resized(
    program: Program, origin: KerasOrigin, values: list[Tensor], *, open_place: int | None
) -> tuple[dict[str, Any], list[Tensor]]:
    """The configuration of the smaller model, and its values.

    Args:
        program: As it is now.
        origin: As it was.
        values: What each variable holds now.
        open_place: Which size of every reshape is left to follow from the others; None for none.

    Raises:
        InexpressibleError: A layer has no argument for what it is now.
    """
    config = copy.deepcopy(dict(origin.config))
    model = built(config)
    change = _Change(program, origin, list(values), model, open_place)
    change.entry(config, model)
    return config, change.values


class _Change:
    def __init__(
        self,
        program: Program,
        origin: KerasOrigin,
        values: list[Tensor],
        model: Any,
        open_place: int | None,
    ) -> None:
        self.origin = origin
        self.values = values
        self.open_place = open_place
        self.users = _users(program)
        self.shapes = [
            program.shape(node)
            for node in program.graph.nodes
            if node.target in (aten.reshape.default, aten.view.default)
        ]
        self.numbers = {id(variable): at for at, variable in enumerate(model.variables)}

    def entry(self, entry: dict[str, Any], layer: Any) -> None:
        """Change the arguments of a layer, and of those inside it."""
        config = entry["config"]
        for inner, built_layer in _inside(entry, layer):
            self.entry(inner, built_layer)
        rule = RULES.get(entry["class_name"])
        if rule is None:
            return
        numbers = {
            variable.name: self.numbers[id(variable)]
            for variable in getattr(layer, "variables", ())
            if id(variable) in self.numbers
        }
        try:
            rule(Layer(config, layer, numbers, self))
        except KeyError as error:
            raise InexpressibleError(f"layer {layer.name!r} has no variable {error}") from error


def _inside(entry: Mapping[str, Any], layer: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """The layers that a layer is made of, with their parts of the configuration."""
    config = entry["config"]
    match entry["class_name"]:
        case "Functional":
            by_name = {each.name: each for each in layer.operations}
            for inner in config["layers"]:
                yield inner, by_name[inner["name"]]
        case "Sequential":
            inner = [each for each in config["layers"] if each["class_name"] != "InputLayer"]
            yield from zip(inner, layer.layers, strict=True)
        case "Bidirectional":
            yield config["layer"], layer.forward_layer
            if config.get("backward_layer") is not None:
                yield config["backward_layer"], layer.backward_layer
            else:
                # Each direction loses units of its own.
                config["backward_layer"] = _turned(config["layer"])
                yield config["backward_layer"], layer.backward_layer
        case "TimeDistributed":
            yield config["layer"], layer.layer
        case "RNN":
            yield config["cell"], layer.cell
        case "StackedRNNCells":
            yield from zip(config["cells"], layer.cells, strict=True)
        case _:
            pass


def _turned(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The layer that Keras makes of another for the other direction."""
    turned = copy.deepcopy(dict(entry))
    config = turned["config"]
    config["go_backwards"] = not config.get("go_backwards", False)
    config["name"] = f"backward_{config['name']}"
    return turned


def _users(program: Program) -> dict[str, Node]:
    """A node that reads each parameter."""
    users: dict[str, Node] = {}
    for node in program.graph.nodes:
        if node.op == "get_attr":
            for user in node.users:
                users.setdefault(str(node.target), user)
    return users


def _dense(layer: Layer) -> None:
    layer.config["units"] = layer.shape("kernel")[-1]


def _conv(layer: Layer) -> None:
    layer.config["filters"] = layer.shape("kernel")[-1]
    layer.config["groups"] = layer.conv_groups("kernel")


def _conv_transpose(layer: Layer) -> None:
    layer.config["filters"] = layer.shape("kernel")[-2]


def _depthwise(layer: Layer) -> None:
    layer.config["depth_multiplier"] = _multiplier(layer, "kernel")


def _separable(layer: Layer) -> None:
    layer.config["depth_multiplier"] = _multiplier(layer, "depthwise_kernel")
    layer.config["filters"] = layer.shape("pointwise_kernel")[-1]


def _multiplier(layer: Layer, name: str) -> int:
    """Channels out of each channel in. A kernel with one channel in has two sizes kept apart."""
    shape = layer.shape(name)
    channels, groups = math.prod(shape[-2:]), layer.conv_groups(name)
    if channels % groups:
        raise InexpressibleError(
            f"layer {layer.layer.name!r} gives {channels} channels for {groups}: Keras has as many "
            "for each"
        )
    return channels // groups


def _embedding(layer: Layer) -> None:
    layer.config["input_dim"], layer.config["output_dim"] = layer.shape("embeddings")


def _recurrent(layer: Layer) -> None:
    layer.config["units"] = layer.shape("recurrent_kernel")[0]


def _conv_lstm(layer: Layer) -> None:
    layer.config["filters"] = layer.shape("kernel")[-1] // 4


def _einsum_dense(layer: Layer) -> None:
    _, _, rest = layer.config["equation"].partition(",")
    weight, _, output = rest.partition("->")
    sizes = dict(zip(weight, layer.shape("kernel"), strict=True))
    labels = [label for label in output if label != "."]
    shape = layer.config["output_shape"]
    shape = [shape] if isinstance(shape, int) else list(shape)
    named = labels[-len(shape) :] if not output.endswith("...") else labels[1 : 1 + len(shape)]
    layer.config["output_shape"] = [
        sizes.get(label, size) for label, size in zip(named, shape, strict=True)
    ]


def _group_norm(layer: Layer) -> None:
    named = next((name for name in ("gamma", "beta") if name in layer.numbers), None)
    # -1 is one group for each channel, however many there are.
    if named is not None and layer.config.get("groups") != -1:
        told = layer.told_by_user(named, "num_groups")
        layer.config["groups"] = told or layer.config["groups"]


def _reshape(layer: Layer) -> None:
    key = "target_shape" if "target_shape" in layer.config else "newshape"
    shape = list(layer.config[key])
    place = layer.change.open_place
    if place is not None and -len(shape) <= place < len(shape):
        shape[place] = _size_in_graph(layer, shape, place) if -1 in shape else -1
    layer.config[key] = shape


def _size_in_graph(layer: Layer, shape: list[int], place: int) -> int:
    """The size in a place, from where the program makes the same shape but for that place."""
    place %= len(shape)
    for found in layer.change.shapes:
        # The operation names the rows too, the layer does not.
        sizes = found[len(found) - len(shape) :]
        is_same = len(sizes) == len(shape) and all(
            at == place or size == -1 or size == made
            for at, (size, made) in enumerate(zip(shape, sizes, strict=True))
        )
        if is_same:
            return sizes[place]
    return shape[place]


def _multi_head(layer: Layer) -> None:
    """Heads, and the sizes of each, from the four projections."""
    parts = layer.layer
    query, key, value, output = (
        _projection(layer, parts, name) for name in ("query", "key", "value", "output")
    )
    shapes = {
        name: tuple(layer.change.values[numbers["kernel"]].shape)
        for name, numbers in (
            ("query", query), ("key", key), ("value", value), ("output", output)
        )
    }  # fmt: skip
    heads, key_dim = shapes["query"][-2:]
    value_dim = shapes["value"][-1]
    if shapes["key"][-2:] != (heads, key_dim) or shapes["value"][-2] != heads:
        raise InexpressibleError(
            f"layer {parts.name!r}: its heads are not all of one size any more, and Keras has one "
            "size for all"
        )
    before = layer.config["key_dim"]
    layer.config.update(num_heads=heads, key_dim=key_dim, value_dim=value_dim)
    old_output = parts._output_dense.kernel.shape[-1]  # noqa: SLF001 - nothing public has it
    if layer.config.get("output_shape") is not None or shapes["output"][-1] != old_output:
        layer.config["output_shape"] = [shapes["output"][-1]]
    # Keras divides by the root of the size that a head has now; the program by what it was.
    factor = math.sqrt(key_dim / before)
    for number in query.values():
        layer.change.values[number] = layer.change.values[number] * factor


def _grouped_query(layer: Layer) -> None:
    parts = layer.layer
    query, key, value = (_projection(layer, parts, name) for name in ("query", "key", "value"))
    shapes = [
        tuple(layer.change.values[numbers["kernel"]].shape) for numbers in (query, key, value)
    ]
    if len({shape[-1] for shape in shapes}) != 1:
        raise InexpressibleError(
            f"layer {parts.name!r}: its heads are not all of one size any more"
        )
    before = layer.config["head_dim"]
    layer.config["num_query_heads"], layer.config["head_dim"] = shapes[0][-2:]
    layer.config["num_key_value_heads"] = shapes[1][-2]
    factor = math.sqrt(layer.config["head_dim"] / before)
    for number in query.values():
        layer.change.values[number] = layer.change.values[number] * factor


def _projection(layer: Layer, parts: Any, name: str) -> dict[str, int]:
    dense = getattr(parts, f"_{name}_dense")
    return {variable.name: layer.change.numbers[id(variable)] for variable in dense.variables}


RULES: dict[str, Rule] = {
    "Conv1D": _conv,
    "Conv1DTranspose": _conv_transpose,
    "Conv2D": _conv,
    "Conv2DTranspose": _conv_transpose,
    "Conv3D": _conv,
    "Conv3DTranspose": _conv_transpose,
    "ConvLSTM1D": _conv_lstm,
    "ConvLSTM2D": _conv_lstm,
    "ConvLSTM3D": _conv_lstm,
    "Dense": _dense,
    "DepthwiseConv1D": _depthwise,
    "DepthwiseConv2D": _depthwise,
    "EinsumDense": _einsum_dense,
    "Embedding": _embedding,
    "GRU": _recurrent,
    "GRUCell": _recurrent,
    "GroupNormalization": _group_norm,
    "GroupQueryAttention": _grouped_query,
    "LSTM": _recurrent,
    "LSTMCell": _recurrent,
    "MultiHeadAttention": _multi_head,
    "Reshape": _reshape,
    "SeparableConv1D": _separable,
    "SeparableConv2D": _separable,
    "SimpleRNN": _recurrent,
    "SimpleRNNCell": _recurrent,
}
"""By class. Reshape is the layer and the operation."""
