"""Models of transformers, built from their configuration by transformers itself."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from formats.checkpoint import CheckedCheckpoint
from formats.errors import ArchitectureInvalid
from worker.engine.errors import (
    QuantizedModelError,
    UnreadableModelError,
    UnsupportedModelError,
)
from worker.engine.readers.architecture.built import Built, Input
from worker.engine.readers.architecture.weights import check_floats, listed, weights_of
from worker.engine.wording import first_line

_ROWS = 2
_TOKENS = 8
_MOST_LAYERS = 4096
_ELSEWHERE = frozenset(
    {"attn_implementation", "experts_implementation", "use_kernels", "use_pretrained_backbone"}
)
"""Keys by which code or weights are looked for on other machines."""
_CHARACTERS = 128
_SHAPES = {"input_values": '["batch", 16000]', "input_features": '["batch", 80, 3000]'}
_ANY_SHAPE = '["batch", 3, 224, 224]'
_FIRST_TOKEN = 3
"""Numbers below it are often special: padding, begin, end."""


@dataclass(frozen=True)
class PretrainedOrigin:
    """What is needed to write a folder that ``from_pretrained`` loads.

    Attributes:
        class_name: The class in transformers.
        config: Its configuration, as the upload has it.
        dtype: Of the uploaded weights, such as ``bfloat16``.
        inputs: The names of the inputs, in order.
    """

    class_name: str
    config: dict[str, Any]
    dtype: str
    inputs: tuple[str, ...]


def build_transformers(
    checked: CheckedCheckpoint, folder: Path, given: tuple[Input, ...] | None
) -> Built:
    """Build the class that the configuration names, and have transformers load its weights.

    Raises:
        ArchitectureInvalid: The configuration is none that transformers knows by itself.
        UnreadableModelError: The weights are not those of the configuration.
        UnsupportedModelError: What the model reads is not known here, and not said.
    """
    asked = checked.architecture
    assert asked.config is not None
    document = _cleaned(asked.config)
    class_name = _class_name(asked.name, document)
    model_class = _known_class(class_name)
    config = _config(model_class, document)
    clean = folder / "clean"
    clean.mkdir()
    (clean / "config.json").write_text(json.dumps(config.to_dict(), default=str))
    weights = weights_of(checked, folder)
    own = _meta_weights(model_class, config)
    _check_shapes(weights, own)
    floats = (name for name in weights if name not in own or own[name].is_floating_point())
    warnings = check_floats(weights, floats)
    dtypes = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    save_file(_unshared(weights), clean / "model.safetensors", metadata={"format": "pt"})
    model = _loaded(model_class, config, clean)
    inputs = given or _inputs(model, config)
    optional = frozenset() if given else frozenset({"attention_mask"})
    lower = dtypes - {torch.float32}
    kind = str(next(iter(lower or dtypes), torch.float32)).removeprefix("torch.")
    names = tuple(each.name for each in inputs)
    origin = PretrainedOrigin(class_name, document, kind, names)
    return Built(model, inputs, optional, warnings, origin)


def _unshared(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in weights.items()}


def _cleaned(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what names code or files elsewhere.

    Raises:
        QuantizedModelError: The weights are quantized.
    """
    if "quantization_config" in config:
        raise QuantizedModelError(
            "the model is already quantized (config.json has a quantization_config): upload the "
            "float model; pruning comes first, quantization after"
        )
    return {
        name: _cleaned(value) if isinstance(value, dict) else value
        for name, value in config.items()
        # Those with an underscore are transformers' own notes: where it came from, which kernels.
        if not name.startswith("_") and name not in _ELSEWHERE
    }


def _class_name(asked: str, config: dict[str, Any]) -> str:
    """The class: as asked, as the configuration says, or its model without a head."""
    if asked:
        return asked
    named = config.get("architectures")
    if isinstance(named, list) and len(named) == 1 and isinstance(named[0], str):
        return named[0]
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    found = MODEL_MAPPING_NAMES.get(str(config["model_type"]))
    if not isinstance(found, str):
        raise ArchitectureInvalid(
            f"config.json names no class in 'architectures', and model_type "
            f"{str(config['model_type'])[:80]!r} has none by itself"
        )
    return found


def _known_class(class_name: str) -> Any:
    """A class that transformers lists in the tables of its Auto classes."""
    import transformers
    from transformers.models.auto import modeling_auto

    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if class_name not in set(_in_tables(modeling_auto)):
        raise ArchitectureInvalid(
            f"transformers {transformers.__version__} lists no model class {class_name[:80]!r}; "
            "name one of its own in config.json's 'architectures', such as "
            "BertForSequenceClassification"
        )
    return getattr(transformers, class_name)


def _in_tables(tables: Any) -> Iterator[str]:
    for name in dir(tables):
        if name.startswith("MODEL_") and name.endswith("MAPPING_NAMES"):
            for listed in getattr(tables, name).values():
                yield from [listed] if isinstance(listed, str) else listed


def _config(model_class: Any, document: dict[str, Any]) -> Any:
    model_type = model_class.config_class.model_type
    if document.get("model_type") != model_type:
        raise ArchitectureInvalid(
            f"config.json has model_type {str(document.get('model_type'))[:80]!r}, and "
            f"{model_class.__name__} is of {model_type!r}"
        )
    try:
        config = model_class.config_class.from_dict(document)
    except Exception as error:
        # Each configuration checks itself, and raises what it likes.
        raise ArchitectureInvalid(
            f"{model_class.config_class.__name__} does not take this config.json "
            f"({first_line(error)})"
        ) from error
    layers = getattr(_text_config(config), "num_hidden_layers", 0) or 0
    if not isinstance(layers, int) or layers > _MOST_LAYERS:
        raise ArchitectureInvalid(f"config.json has {layers} layers; at most {_MOST_LAYERS}")
    if hasattr(config, "use_cache"):
        config.use_cache = False  # A cache is an input and an output of each call.
    return config


def _meta_weights(model_class: Any, config: Any) -> dict[str, Tensor]:
    """The weights of the class, without memory.

    Raises:
        ArchitectureInvalid: The configuration builds none.
    """
    try:
        with torch.device("meta"):
            found: dict[str, Tensor] = model_class(config).state_dict()
    except Exception as error:
        # Each class raises what it likes.
        raise ArchitectureInvalid(
            f"{model_class.__name__} cannot be built from this config.json ({first_line(error)})"
        ) from error
    return found


def _check_shapes(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    misfits = [
        f"{name} ({list(tensor.shape)} in the file, {list(own[name].shape)} by config.json)"
        for name, tensor in weights.items()
        if name in own and own[name].shape != tensor.shape
    ]
    if misfits:
        raise UnreadableModelError(
            f"the weights are not those of config.json: {listed(misfits)}; send the one that they "
            "were saved with"
        )


def _loaded(model_class: Any, config: Any, folder: Path) -> Any:
    try:
        model, found = model_class.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:
        # Whatever transformers raises on weights of other shapes, or on a configuration that
        # cannot be built.
        raise UnreadableModelError(
            f"transformers does not load the weights as {model_class.__name__} "
            f"({first_line(error)})"
        ) from error
    problems = [
        f"{what} {listed(names)}"
        for what, key in (
            ("the file lacks", "missing_keys"),
            ("the class has no", "unexpected_keys"),
        )
        if (names := sorted(found[key]))
    ]
    if problems:
        raise UnreadableModelError(
            f"the weights are not those of {model_class.__name__}: {'; '.join(problems)}. Name the "
            "class that they were saved from in config.json's 'architectures'"
        )
    return model.eval()


def _inputs(model: Any, config: Any) -> tuple[Input, ...]:
    """What a model reads, by its own word for its main input."""
    match model.main_input_name:
        case "input_ids":
            return _texts(config)
        case "pixel_values":
            return (Input("pixel_values", torch.randn(_ROWS, *_image(config))),)
        case other:
            raise UnsupportedModelError(
                f"{type(model).__name__} reads {other!r}, in shapes that its configuration does "
                'not tell: add architecture.json with "builder": "transformers" and "inputs", such '
                f'as [{{"name": "{other}", "shape": {_SHAPES.get(other, _ANY_SHAPE)}}}]'
            )


def _text_config(config: Any) -> Any:
    """The part that speaks of text; the whole where there are several, or none."""
    try:
        return config.get_text_config()
    except ValueError:
        return config


def _texts(config: Any) -> tuple[Input, ...]:
    vocabulary = getattr(_text_config(config), "vocab_size", None) or _CHARACTERS
    generator = torch.Generator().manual_seed(0)
    first = min(_FIRST_TOKEN, vocabulary - 1)

    def tokens() -> Tensor:
        return torch.randint(first, vocabulary, (_ROWS, _TOKENS), generator=generator)

    both = (0, 1)
    inputs = [
        Input("input_ids", tokens(), both),
        Input("attention_mask", torch.ones(_ROWS, _TOKENS, dtype=torch.int64), both),
    ]
    if config.is_encoder_decoder:
        inputs.append(Input("decoder_input_ids", tokens(), both))
    return tuple(inputs)


def _image(config: Any) -> tuple[int, int, int]:
    config = getattr(config, "vision_config", config)
    side = getattr(config, "image_size", 224)
    height, width = (side, side) if isinstance(side, int) else side
    return getattr(config, "num_channels", 3), height, width
