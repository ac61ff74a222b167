"""What a layer's arguments may be: plain values of known size, and Keras's own objects by name.

Each check gives the value back as it is written into the clean configuration.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from formats.errors import shown
from formats.keras.findings import Finding, Unsupported
from formats.keras.words import words

MAX_INTEGER = 2**31 - 1
_MAX_TEXT = 128
_MAX_ITEMS = 65536
_MAX_DEPTH = 8
# Characters of layer names, which become parts of parameters' names.
_NAME = re.compile(r"[A-Za-z0-9_.>: +@-]{1,256}")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_EQUATION = re.compile(r"[A-Za-z.]{1,26}(?:,[A-Za-z.]{1,26})*->[A-Za-z.]{0,26}")

INTEGER_DTYPES = words("bool int8 int16 int32 int64 uint8 uint16 uint32")
FLOAT_DTYPES = words("float16 bfloat16 float32 float64")
POLICIES = FLOAT_DTYPES | {"mixed_float16", "mixed_bfloat16"}

ACTIVATIONS = words(
    "celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh "
    "leaky_relu linear log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink "
    "softmax softplus softsign sparse_plus sparse_sigmoid sparsemax squareplus swish tanh "
    "tanh_shrink threshold"
)
_SEEDED = frozenset({"seed"})
_VARIANCE = _SEEDED | {"input_axes", "output_axes"}
INITIALIZERS: dict[str, frozenset[str]] = {
    "Constant": frozenset({"value"}),
    "GlorotNormal": _VARIANCE,
    "GlorotUniform": _VARIANCE,
    "HeNormal": _VARIANCE,
    "HeUniform": _VARIANCE,
    "Identity": frozenset({"gain"}),
    "LecunNormal": _VARIANCE,
    "LecunUniform": _VARIANCE,
    "Ones": frozenset(),
    "Orthogonal": _SEEDED | {"gain"},
    "RandomNormal": _SEEDED | {"mean", "stddev"},
    "RandomUniform": _SEEDED | {"minval", "maxval"},
    "TruncatedNormal": _SEEDED | {"mean", "stddev"},
    "VarianceScaling": _VARIANCE | {"scale", "mode", "distribution"},
    "Zeros": frozenset(),
}
REGULARIZERS: dict[str, frozenset[str]] = {
    "L1": frozenset({"l1"}),
    "L1L2": frozenset({"l1", "l2"}),
    "L2": frozenset({"l2"}),
    "OrthogonalRegularizer": frozenset({"factor", "mode"}),
}
CONSTRAINTS: dict[str, frozenset[str]] = {
    "MaxNorm": frozenset({"max_value", "axis"}),
    "MinMaxNorm": frozenset({"min_value", "max_value", "rate", "axis"}),
    "NonNeg": frozenset(),
    "UnitNorm": frozenset({"axis"}),
}
_KINDS = {
    "initializer": ("keras.initializers", INITIALIZERS),
    "regularizer": ("keras.regularizers", REGULARIZERS),
    "constraint": ("keras.constraints", CONSTRAINTS),
}
# Keras 2 writes the dtype of what an initializer makes; Keras 3 takes the variable's.
_OF_KERAS_2 = frozenset({"dtype", "partition"})


def name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise Finding(f"the name {shown(value)} has characters that no name of a layer has")
    return value


def flag(value: Any) -> bool | None:
    if not isinstance(value, bool | None):
        raise Finding(f"{shown(value)} is neither true nor false")
    return value


def plain(value: Any, depth: int = 0) -> Any:
    """Numbers, short words, nothing, and lists of them."""
    if isinstance(value, bool | None):
        return value
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise Finding(f"the number {shown(value)} is too large")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Finding(f"{shown(value)} is no finite number")
        return value
    if isinstance(value, str):
        if len(value) > _MAX_TEXT or not _WORD.fullmatch(value):
            raise Finding(f"the text {shown(value)} is no plain word")
        return value
    if isinstance(value, list):
        if depth >= _MAX_DEPTH or len(value) > _MAX_ITEMS:
            raise Finding("a list is too long, or too deep")
        return [plain(item, depth + 1) for item in value]
    raise Finding(f"{shown(value)} is no plain value")


def numbers(value: Any) -> Any:
    """A number or nested lists of them; nothing else."""
    checked = plain(value)
    for item in _items(checked):
        if isinstance(item, str):
            raise Finding(f"{shown(item)} is no number")
    return checked


def sizes(value: Any) -> Any:
    """Whole numbers and lists of them, or a word such as ``same``."""
    checked = plain(value)
    for item in _items(checked):
        if isinstance(item, float):
            raise Finding(f"the size {item} is no whole number")
    return checked


def _items(value: Any) -> Iterator[Any]:
    """What lists hold, however deep they are; of anything else that alone."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(item)
        else:
            yield item


def count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_INTEGER:
        raise Finding(f"{shown(value)} is no count")
    return value


def count_or_none(value: Any) -> int | None:
    return value if value is None else count(value)


def seed(value: Any) -> int | None:
    """Seeds of what is drawn in training; a generator with a state of its own becomes none."""
    return value if isinstance(value, int) and 0 <= value <= MAX_INTEGER else None


def equation(value: Any) -> str:
    if not isinstance(value, str) or not _EQUATION.fullmatch(value):
        raise Finding(f"{shown(value)} is no equation of einsum")
    return value


def shape(value: Any) -> list[int | None]:
    """Sizes, of which those that are not fixed are nothing."""
    if not isinstance(value, list) or len(value) > _MAX_TEXT:
        raise Finding(f"{shown(value)} is no shape")
    for size in value:
        is_size = isinstance(size, int) and not isinstance(size, bool) and -1 <= size <= MAX_INTEGER
        if size is not None and not is_size:
            raise Finding(f"the size {shown(size)} is no whole number")
    return list(value)


def shape_or_none(value: Any) -> Any:
    if value is None or isinstance(value, int):
        return plain(value)
    if isinstance(value, list) and value and isinstance(value[0], list):
        return [shape(each) for each in value]
    return shape(value)


def dtype(value: Any) -> str | None:
    """A dtype or policy by name; those with scales for quantization have no name here."""
    if value is None:
        return None
    if isinstance(value, dict):
        config = value.get("config")
        if value.get("class_name") not in ("DTypePolicy", "Policy") or not isinstance(config, dict):
            raise Unsupported(
                f"the dtype policy {shown(value.get('class_name'))} is not taken; save the model "
                "before it is quantized"
            )
        value = config.get("name")
    if not isinstance(value, str) or value not in POLICIES | INTEGER_DTYPES:
        raise Unsupported(f"the dtype {shown(value)} is not taken")
    return value


def word_of(allowed: frozenset[str]) -> Callable[[Any], str | None]:
    """A check for one of some words."""

    def check(value: Any) -> str | None:
        if value is not None and (not isinstance(value, str) or value not in allowed):
            raise Finding(f"{shown(value)} is none of {', '.join(sorted(allowed))}")
        return value

    return check


def known_object(value: Any, kind: str) -> Any:
    """An initializer, regularizer or constraint: by name, or with plain arguments."""
    module, table = _KINDS[kind]
    if value is None:
        return None
    if isinstance(value, str):
        pascal = "".join(part[:1].upper() + part[1:] for part in value.split("_"))
        class_name: Any = value if value in table else pascal
        config: Any = {}
    elif isinstance(value, dict):
        class_name, config = value.get("class_name"), value.get("config")
        check_origin(value, class_name)
    else:
        raise Finding(f"the {kind} is {shown(value)}")
    if not isinstance(class_name, str) or class_name not in table:
        raise Finding(f"the {kind} {shown(class_name)} is none of Keras's own that are known here")
    return {
        "module": module,
        "class_name": class_name,
        "config": _arguments(config, table[class_name], f"{kind} {class_name}"),
        "registered_name": None,
    }


def _arguments(config: Any, allowed: frozenset[str], what: str) -> dict[str, Any]:
    if not isinstance(config, dict | None):
        raise Finding(f"the configuration of the {what} is {shown(config)}")
    found = {}
    for key, value in (config or {}).items():
        if key in allowed:
            found[key] = seed(value) if key == "seed" else plain(value)
        elif key not in _OF_KERAS_2:
            raise Finding(f"the {what} has an argument {shown(key)}, which it does not take")
    return found


def check_origin(entry: Mapping[str, Any], class_name: Any) -> None:
    """Check that an object says it is Keras's own."""
    module = entry.get("module")
    is_of_keras = module is None or (
        isinstance(module, str) and re.fullmatch(r"(?:tf_)?keras(?:\.[a-z0-9_]+)*", module)
    )
    if not is_of_keras:
        raise Finding(f"{shown(class_name)} comes from the module {shown(module)}, not from Keras")
    registered = entry.get("registered_name")
    if registered is not None and registered != class_name:
        raise Finding(
            f"{shown(class_name)} is a class of its own, registered as {shown(registered)}; only "
            "classes of Keras itself are taken"
        )
