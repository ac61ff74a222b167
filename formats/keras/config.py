"""The configuration of a model, walked whole and written anew.

Keras turns what it reads here into imports, classes, calls and, in places, code. What comes out of
this walk names nothing but the classes of the tables, with plain arguments, in one spelling,
whichever version of Keras wrote it; what the reader does without (how it was trained, how it was
built) is left out.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from formats.errors import shown
from formats.keras import values
from formats.keras.findings import Finding, Unsupported
from formats.keras.layers import LAYERS, LEFT_OUT, OPERATIONS, RENAMED
from formats.keras.words import words
from formats.tensors import Dimension, TensorInfo

MAX_LAYERS = 20_000
_MAX_NODES = 100_000
_MAX_DEPTH = 24
# What Keras 3 lacks may be left out where it says what is usual.
_ONLY_AS_USUAL = frozenset({"groups", "time_major", "sparse", "ragged"})
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_MODELS = frozenset({"Functional", "Model", "Sequential"})
_TAKES_ALL = frozenset({"name", "trainable", "dtype"})
_ENTRY = words(
    "module class_name config registered_name build_config compile_config name inbound_nodes "
    "shared_object_id"
)
# What a node may tell a layer besides the tensors; everything else is for training.
_PLAIN_KEYS = frozenset({"name", "trainable"})

Check = Callable[[Any], Any]
_CHECKS: dict[str, Check] = {
    "name": values.name,
    "trainable": values.flag,
    "dtype": values.dtype,
    "seed": values.seed,
    "equation": values.equation,
    "batch_shape": values.shape,
    "target_shape": values.shape,
    "noise_shape": values.shape_or_none,
    "output_shape": values.shape_or_none,
    "data_format": values.word_of(frozenset({"channels_first", "channels_last"})),
    "merge_mode": values.word_of(frozenset({"sum", "mul", "concat", "ave"})),
    "bias_axes": values.plain,
    **dict.fromkeys(
        words(
            "filters units input_dim output_dim depth_multiplier num_heads key_dim head_dim "
            "num_query_heads num_key_value_heads n groups height width"
        ),
        values.count,
    ),
    "value_dim": values.count_or_none,
    "sliding_window": values.count_or_none,
    **dict.fromkeys(
        words(
            "kernel_size strides padding pool_size dilation_rate output_padding cropping size "
            "output_size dims axes axis shared_axes attention_axes"
        ),
        values.sizes,
    ),
    **dict.fromkeys(
        words(
            "center scale use_bias use_scale use_gate mask_zero return_sequences return_state "
            "go_backwards stateful unroll zero_output_for_mask reset_after unit_forget_bias "
            "keepdims invert normalize synchronized renorm rms_scaling optional antialias "
            "crop_to_aspect_ratio pad_to_aspect_ratio"
        ),
        values.flag,
    ),
    **dict.fromkeys(
        words(
            "rate stddev dropout recurrent_dropout momentum epsilon alpha negative_slope max_value "
            "threshold mask_value l1 l2 offset mean variance renorm_momentum fill_value factor "
            "height_factor width_factor value_range"
        ),
        values.numbers,
    ),
}
_OF_OPERATIONS: dict[str, Check] = {
    "name": values.name,
    "subscripts": values.equation,
    "dtype": values.dtype,
}
# A flag of most classes that is a number in these.
_NUMBERS_OF = {("Rescaling", "scale"): values.numbers}
_LISTS_OF_LAYERS = frozenset({"cells"})
_LAYER_ARGUMENTS = frozenset({"layer", "backward_layer", "cell"})
_ACTIVATION_ARGUMENTS = frozenset({"activation", "recurrent_activation"})


@dataclass(frozen=True)
class CheckedConfig:
    """A configuration that holds nothing but what is known.

    Attributes:
        config: What ``keras.saving.deserialize_keras_object`` may be given.
        inputs: Of the model, in its order; None where the file does not tell.
    """

    config: dict[str, Any]
    inputs: tuple[TensorInfo, ...] | None


def check_config(document: Any) -> CheckedConfig:
    """Check the configuration of a whole model, and write it anew.

    Raises:
        Finding: It holds something that is not Keras's own, or that no honest file has.
        Unsupported: It may be honest, and has a part that is not taken.
    """
    walk = _Walk()
    config = walk.model(document, depth=0)
    return CheckedConfig(config=config, inputs=_inputs(config))


@dataclass
class _Walk:
    layer_count: int = 0
    node_count: int = 0
    shared: set[int] = field(default_factory=set)

    def model(self, entry: Any, depth: int) -> dict[str, Any]:
        class_name, config = self.opened(entry, depth)
        if class_name not in _MODELS:
            raise _unknown(class_name)
        with _inside(config):
            if class_name == "Sequential":
                return self.sequential(config, depth)
            return self.functional(config, depth)

    def opened(self, entry: Any, depth: int) -> tuple[str, dict[str, Any]]:
        """The class and configuration that an entry names, both of the right kind."""
        if depth > _MAX_DEPTH:
            raise Finding(f"layers within layers more than {_MAX_DEPTH} deep")
        if not isinstance(entry, dict):
            raise Finding(f"{shown(entry)} is no layer")
        unknown = entry.keys() - _ENTRY
        if unknown:
            raise Finding(f"a layer's entry has the key {shown(min(unknown, key=str))}")
        class_name, config = entry.get("class_name"), entry.get("config")
        if not isinstance(class_name, str):
            raise Finding(f"the class of a layer is {shown(class_name)}")
        if not isinstance(config, dict):
            raise Finding(f"the configuration of {shown(class_name)} is {shown(config)}")
        values.check_origin(entry, class_name)
        self.layer_count += 1
        if self.layer_count > MAX_LAYERS:
            raise Finding(f"more than {MAX_LAYERS} layers")
        return class_name, config

    def sequential(self, config: dict[str, Any], depth: int) -> dict[str, Any]:
        unknown = config.keys() - {"name", "trainable", "dtype", "layers", "build_input_shape"}
        if unknown:
            raise Finding(f"a Sequential model has the argument {shown(min(unknown, key=str))}")
        entries = config.get("layers")
        if not isinstance(entries, list) or not entries:
            raise Finding("a Sequential model has no layers")
        layers: list[dict[str, Any]] = []
        for entry in entries:
            first_shape = _older_input(entry) if not layers else None
            if first_shape is not None:
                layers.append(first_shape)
            layers.append(self.layer(entry, depth + 1))
        clean = {"name": values.name(config.get("name")), "trainable": True, "layers": layers}
        if layers[0]["class_name"] not in ("InputLayer", *_MODELS):
            shape = config.get("build_input_shape")
            if shape is None:
                raise Unsupported(
                    "a Sequential model without an Input does not say what it takes; add "
                    "keras.Input(shape) as its first layer and save it again"
                )
            layers.insert(0, _input_layer("input", values.shape(shape), "float32"))
        return _entry("Sequential", clean, "keras")

    def functional(self, config: dict[str, Any], depth: int) -> dict[str, Any]:
        unknown = config.keys() - {
            "name", "trainable", "dtype", "layers", "input_layers", "output_layers",
        }  # fmt: skip
        if unknown:
            raise Finding(f"a model has the argument {shown(min(unknown, key=str))}")
        entries = config.get("layers")
        if not isinstance(entries, list) or not entries:
            raise Finding("a model has no layers (a class of its own, without a graph?)")
        layers = [self.placed(entry, depth + 1) for entry in entries]
        names = {layer["name"] for layer in layers}
        if len(names) != len(layers):
            raise Finding("two layers of a model have the same name")
        clean = {
            "name": values.name(config.get("name", "model")),
            "trainable": True,
            "layers": layers,
            "input_layers": _ends(config.get("input_layers"), names),
            "output_layers": _ends(config.get("output_layers"), names),
        }
        return _entry("Functional", clean, "keras.src.models.functional")

    def placed(self, entry: Any, depth: int) -> dict[str, Any]:
        """A layer with its name and its calls in a graph."""
        if not isinstance(entry, dict):
            raise Finding(f"{shown(entry)} is no layer")
        clean = self.layer(entry, depth)
        nodes = entry.get("inbound_nodes", [])
        if not isinstance(nodes, list):
            raise Finding(f"the calls of a layer are {shown(nodes)}")
        config = entry["config"]
        clean["name"] = values.name(entry.get("name", config.get("name")))
        clean["config"]["name"] = values.name(config.get("name", clean["name"]))
        clean["inbound_nodes"] = [self.node(node) for node in nodes]
        return clean

    def layer(self, entry: Any, depth: int) -> dict[str, Any]:
        class_name, config = self.opened(entry, depth)
        module = entry.get("module")
        if isinstance(module, str) and module.startswith("keras.src.ops"):
            return self.operation(class_name, module, config)
        if class_name in _MODELS:
            self.layer_count -= 1
            return self.model(entry, depth)
        if class_name not in LAYERS:
            raise _unknown(class_name)
        shared = entry.get("shared_object_id")
        if shared is not None:
            if not isinstance(shared, int) or shared in self.shared:
                raise Unsupported(f"one {class_name} stands in two places inside other layers")
            self.shared.add(shared)
        with _inside(config):
            return _entry(class_name, self.arguments(class_name, config, depth), "keras.layers")

    def operation(self, class_name: str, module: str, config: dict[str, Any]) -> dict[str, Any]:
        if OPERATIONS.get(class_name) != module:
            raise Unsupported(
                f"the operation {shown(class_name)} of {shown(module)} is not among those taken; "
                "use a layer of Keras in its place"
            )
        clean = {}
        for key, value in config.items():
            if not _KEY.fullmatch(key):
                raise Finding(f"an operation has the argument {shown(key)}")
            clean[key] = _OF_OPERATIONS.get(key, values.plain)(value)
        return {**_entry(class_name, clean, module), "registered_name": class_name}

    def arguments(self, class_name: str, config: dict[str, Any], depth: int) -> dict[str, Any]:
        takes = LAYERS[class_name]
        clean: dict[str, Any] = {}
        for given, value in config.items():
            key = given
            if given not in takes and given in RENAMED and RENAMED[given] in takes:
                key = RENAMED[given]
            if key not in takes | _TAKES_ALL:
                if key in LEFT_OUT:
                    _check_left_out(class_name, key, value)
                    continue
                raise Finding(f"{class_name} has the argument {shown(key)}, which it does not take")
            try:
                clean[key] = self.argument(class_name, key, value, depth)
            except Finding as finding:
                raise Finding(f"its {key}: {finding}") from None
        _check_whole(class_name, clean)
        return clean

    def argument(self, class_name: str, key: str, value: Any, depth: int) -> Any:
        if key in _LAYER_ARGUMENTS:
            return None if value is None else self.layer(value, depth + 1)
        if key in _LISTS_OF_LAYERS:
            if not isinstance(value, list):
                raise Finding(f"{shown(value)} is no list of layers")
            return [self.layer(each, depth + 1) for each in value]
        if key in _ACTIVATION_ARGUMENTS:
            return self.activation(value, depth)
        for kind in ("initializer", "regularizer", "constraint"):
            if key.endswith(kind):
                return values.known_object(value, kind)
        if key in ("quantization_config", "renorm_clipping"):
            if value is not None:
                raise Unsupported(f"{key} of {class_name} is not taken")
            return None
        if class_name == "Concatenate" and value is None:
            return -1
        if key == "axis" and class_name == "BatchNormalization" and isinstance(value, list):
            # Keras 2 writes a list of the one axis.
            value = value[0] if len(value) == 1 else value
        if value is None and key not in _PLAIN_KEYS:
            return None
        if class_name == "InputLayer" and key == "dtype":
            return _input_dtype(value)
        check = _NUMBERS_OF.get((class_name, key)) or _CHECKS.get(key, values.plain)
        return check(value)

    def activation(self, value: Any, depth: int) -> Any:
        """One of Keras's functions by name, or a layer that has no weights."""
        if value is None:
            return None
        if isinstance(value, str):
            if value not in values.ACTIVATIONS:
                raise Finding(f"the activation {shown(value)} is none of Keras's own")
            return value
        if not isinstance(value, dict):
            raise Finding(f"the activation is {shown(value)}")
        if value.get("class_name") == "function":
            values.check_origin({**value, "module": None}, value.get("config"))
            if value.get("module") not in ("builtins", "keras.activations"):
                raise Finding(
                    f"the activation {shown(value.get('config'))} comes from "
                    f"{shown(value.get('module'))}"
                )
            return self.activation(str(value.get("config")), depth)
        return self.layer(value, depth + 1)

    def node(self, node: Any) -> Any:
        """One call of a layer: tensors by the layers that give them, and plain values."""
        self.node_count += 1
        if self.node_count > _MAX_NODES:
            raise Finding(f"more than {_MAX_NODES} calls of layers")
        if isinstance(node, list):
            return _older_node(node)
        if not isinstance(node, dict) or node.keys() != {"args", "kwargs"}:
            raise Finding("a call of a layer is not written as Keras does")
        kwargs = node["kwargs"]
        if not isinstance(node["args"], list) or not isinstance(kwargs, dict):
            raise Finding("a call of a layer is not written as Keras does")
        for key in kwargs:
            if not _KEY.fullmatch(key):
                raise Finding(f"a call of a layer names the argument {shown(key)}")
        return {
            "args": [_called_with(value) for value in node["args"]],
            "kwargs": {key: _called_with(value) for key, value in kwargs.items()},
        }


def _called_with(value: Any, depth: int = 0) -> Any:
    if depth > _MAX_DEPTH:
        raise Finding(f"the arguments of a call are more than {_MAX_DEPTH} deep")
    if isinstance(value, list):
        return [_called_with(each, depth + 1) for each in value]
    if not isinstance(value, dict):
        return values.plain(value)
    class_name, config = value.get("class_name"), value.get("config")
    if not {"class_name", "config"} <= value.keys():
        if all(isinstance(key, str) and _KEY.fullmatch(key) for key in value):
            return {key: _called_with(each, depth + 1) for key, each in value.items()}
        raise Finding("the arguments of a call hold a dictionary with unusual keys")
    if class_name == "__keras_tensor__" and isinstance(config, dict):
        return {
            "class_name": class_name,
            "config": {
                "shape": values.shape(config.get("shape")),
                "dtype": _any_dtype(config.get("dtype")),
                "keras_history": _history(config.get("keras_history")),
            },
        }
    if class_name == "__slice__" and isinstance(config, dict):
        ends = {key: values.numbers(config.get(key)) for key in ("start", "stop", "step")}
        return {"class_name": class_name, "config": ends}
    if class_name == "__ellipsis__":
        return {"class_name": class_name, "config": {}}
    raise Finding(
        f"a call of a layer is given {shown(class_name)}, which is no tensor of the graph"
    )


def _older_node(node: list[Any]) -> list[Any]:
    """A call as Keras 2 wrote it: ``[layer, call, tensor, arguments]`` for each tensor."""
    clean = []
    for tensor in node:
        if not isinstance(tensor, list) or len(tensor) not in (3, 4):
            raise Finding("a call of a layer is not written as Keras does")
        kwargs = tensor[3] if len(tensor) > 3 else {}
        if kwargs is None:
            kwargs = {}
        if not isinstance(kwargs, dict):
            raise Finding("a call of a layer is not written as Keras does")
        if kwargs.keys() - {"training", "mask"} or any(kwargs.values()):
            raise Unsupported(
                f"a call of a layer is given {shown(min(kwargs, key=str))}: load the file in "
                "Keras 3, and save it as .keras"
            )
        clean.append([*_history(tensor[:3]), {}])
    return clean


def _history(value: Any) -> list[Any]:
    is_history = (
        isinstance(value, list)
        and len(value) == 3
        and all(
            isinstance(at, int) and not isinstance(at, bool) and 0 <= at <= values.MAX_INTEGER
            for at in value[1:]
        )
    )
    if not is_history:
        raise Finding(f"{shown(value)} is no tensor of a graph")
    return [values.name(value[0]), value[1], value[2]]


def _ends(value: Any, names: set[str], depth: int = 0) -> Any:
    """Inputs or outputs: one, or lists or dictionaries of them."""
    if depth > _MAX_DEPTH:
        raise Finding(f"inputs or outputs are more than {_MAX_DEPTH} deep")
    if isinstance(value, dict):
        return {values.name(key): _ends(each, names, depth + 1) for key, each in value.items()}
    if not isinstance(value, list) or not value:
        raise Finding(f"the inputs or outputs of a model are {shown(value)}")
    if isinstance(value[0], str):
        history = _history(value)
        if history[0] not in names:
            raise Finding(f"a model starts or ends at {shown(history[0])}, which it does not have")
        return history
    return [_ends(each, names, depth + 1) for each in value]


def _any_dtype(value: Any) -> str:
    if not isinstance(value, str) or value not in values.FLOAT_DTYPES | values.INTEGER_DTYPES:
        raise Unsupported(f"tensors of the dtype {shown(value)} are not taken")
    return value


def _input_dtype(value: Any) -> str:
    if isinstance(value, dict):
        value = values.dtype(value)
    return _any_dtype(value)


def _check_whole(class_name: str, clean: Mapping[str, Any]) -> None:
    if clean.get("sparse") or clean.get("ragged"):
        raise Unsupported("inputs that are sparse or ragged are not taken")
    if clean.get("stateful"):
        raise Unsupported(
            f"{class_name} is stateful: what it gives depends on the calls before; set "
            "stateful=False"
        )
    if clean.get("renorm"):
        raise Unsupported("BatchNormalization with renorm is not taken")
    if class_name == "InputLayer" and clean.get("batch_shape") is None:
        raise Unsupported("an input without a shape is not taken")


def _check_left_out(class_name: str, key: str, value: Any) -> None:
    """Check that a layer gives the same without what Keras 3 does not know."""
    is_usual = value in (None, 1) if key == "groups" else not value
    if key in _ONLY_AS_USUAL and not is_usual:
        raise Unsupported(f"{class_name} with {key}={shown(value)} is not taken")


def _older_input(entry: Any) -> dict[str, Any] | None:
    """The input that Keras 2 wrote into the first layer of a Sequential model."""
    config = entry.get("config") if isinstance(entry, dict) else None
    if not isinstance(config, dict) or entry.get("class_name") in ("InputLayer", *_MODELS):
        return None
    shape = config.get("batch_input_shape") or config.get("batch_shape")
    if shape is None:
        return None
    dtype = "int32" if entry.get("class_name") == "Embedding" else "float32"
    name = f"{values.name(config.get('name', 'layer'))}_input"
    return _input_layer(name, values.shape(shape), dtype)


def _input_layer(name: str, shape: list[int | None], dtype: str) -> dict[str, Any]:
    config = {"batch_shape": shape, "dtype": dtype, "name": name}
    return _entry("InputLayer", config, "keras.layers")


def _entry(class_name: str, config: dict[str, Any], module: str) -> dict[str, Any]:
    return {
        "module": module,
        "class_name": class_name,
        "config": config,
        "registered_name": None,
    }


def _unknown(class_name: str) -> Finding | Unsupported:
    if class_name in ("Lambda", "function", "__lambda__", "TorchModuleWrapper", "TFSMLayer"):
        return Finding(
            f"{class_name} carries code, which would run here; write that part with layers of Keras"
        )
    return Unsupported(
        f"{shown(class_name)} is no layer that is taken; build the model from Keras's own layers"
    )


@contextmanager
def _inside(config: Mapping[str, Any]) -> Iterator[None]:
    """Say in which layer something was found."""
    try:
        yield
    except (Finding, Unsupported) as found:
        where = config.get("name")
        message = str(found)
        if isinstance(where, str) and not message.startswith("layer "):
            message = f"layer {shown(where)}: {message}"
        raise type(found)(message) from None


def _inputs(config: Mapping[str, Any]) -> tuple[TensorInfo, ...] | None:
    """The inputs of a clean model."""
    layers = config["config"]["layers"]
    if config["class_name"] == "Sequential":
        first = layers[0]
        if first["class_name"] in _MODELS:
            return _inputs(first)
        return (_described(first),)
    by_name = {layer["name"]: layer for layer in layers}
    flat: list[str] = []
    _flatten(config["config"]["input_layers"], flat)
    found = [by_name[name] for name in flat]
    if any(layer["class_name"] != "InputLayer" for layer in found):
        return None
    return tuple(_described(layer) for layer in found)


def _flatten(ends: Any, names: list[str]) -> None:
    """Names of the layers of inputs, in the order in which Keras flattens them."""
    if isinstance(ends, dict):
        for key in sorted(ends):
            _flatten(ends[key], names)
    elif isinstance(ends[0], str):
        names.append(ends[0])
    else:
        for each in ends:
            _flatten(each, names)


def _described(layer: Mapping[str, Any]) -> TensorInfo:
    config = layer["config"]
    name = config.get("name") or layer.get("name") or "input"
    shape: list[Dimension] = [
        size if size is not None and size >= 0 else "batch" if at == 0 else f"{name}_{at}"
        for at, size in enumerate(config["batch_shape"])
    ]
    return TensorInfo(name=name, dtype=config.get("dtype") or "float32", shape=tuple(shape))
