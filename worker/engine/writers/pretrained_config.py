"""The configuration of transformers that builds a model with given shapes of weights.

Nothing is known here of any architecture. Each number of a configuration is changed alone, the
model is built without memory, and the dimensions of weights that change with it are those that it
decides. What a pruned weight has in such a dimension says what the number is to be.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from time import monotonic
from typing import Any

import torch

from worker.engine.writers.inexpressible import InexpressibleError

Shapes = Mapping[str, tuple[int, ...]]
Config = dict[str, Any]
_Place = tuple[str, int]
"""A weight, and one of its dimensions."""

_LAYER = re.compile(r"(?<=\.)(\d+)(?=\.)")
_MOST_VALUES, _MOST_CANDIDATES, _MOST_SECONDS = 64, 512, 300.0
# Numbers that are no sizes: probing them changes nothing, or takes long.
_NOT_SIZES = re.compile(r".*(_id|_token_id|_index|_version|_range|_std|_eps|_prob|dropout).*")


@dataclass(frozen=True)
class _Size:
    """A number of the configuration, and how the dimensions that it decides follow from it."""

    path: tuple[str, ...]
    value: int
    slopes: Mapping[_Place, float]


def shapes_of(model_class: Any, config: Config) -> Shapes | None:
    """The shapes of all weights of a model; None if the configuration builds none."""
    try:
        built = model_class.config_class.from_dict(config)
        with torch.device("meta"):
            module = model_class(built)
    except Exception:  # noqa: BLE001 - a probe: configurations raise what they like
        return None
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def candidates(
    model_class: Any, config: Config, pruned: Shapes
) -> Iterator[tuple[Config, dict[str, str]]]:
    """Configurations whose models have the pruned shapes, the likeliest first.

    Several may: how many heads share a width is in no shape. Whoever takes one has to compare what
    it computes.

    Args:
        model_class: The class in transformers.
        config: Of the original.
        pruned: The shapes of the weights that are there.

    Yields:
        A configuration, and the new name of every weight, as layers are numbered again.

    Raises:
        InexpressibleError: No configuration has these shapes.
    """
    base = shapes_of(model_class, config)
    assert base is not None, "the upload was built from it"
    config, names = _without_layers(config, base, pruned)
    base = shapes_of(model_class, config)
    wanted = {names[name]: shape for name, shape in pruned.items()}
    if base is None or base.keys() != wanted.keys():
        raise InexpressibleError(
            "parts of layers are gone, and a configuration can only leave out whole ones"
        )
    sizes = list(_sizes(model_class, config, base))
    options = _options(sizes, base, wanted)
    found = False
    reason = _difference(base, wanted)
    end = monotonic() + _MOST_SECONDS
    for values in product(*options.values()):
        if monotonic() > end:
            raise InexpressibleError(f"no configuration was found within {_MOST_SECONDS:.0f} s")
        tried = _with(config, dict(zip(options, values, strict=True)))
        shapes = shapes_of(model_class, tried)
        if shapes is not None and shapes == wanted:
            found = True
            yield tried, names
        elif shapes is not None:
            reason = _difference(shapes, wanted)
    if not found:
        raise InexpressibleError(
            f"no configuration of {model_class.__name__} has these shapes: {reason}. One number "
            "stands for all layers, and in some families for heads and model alike: prune with "
            "scope 'local' and a channel_ratio, by another granularity, or exclude what is named"
        )


def _without_layers(config: Config, base: Shapes, pruned: Shapes) -> tuple[Config, dict[str, str]]:
    """Leave out the layers of which nothing is left, and number the others again."""
    names = {name: name for name in pruned}
    gone = base.keys() - pruned.keys()
    stacks = {match.string[: match.start()] for name in gone if (match := _LAYER.search(name))}
    config = _copy(config)
    for stack in stacks:
        pattern = re.compile(re.escape(stack) + r"(\d+)\.")
        before = sorted({int(m[1]) for name in base if (m := pattern.match(name))})
        after = sorted({int(m[1]) for name in pruned if (m := pattern.match(name))})
        for name in names:
            if match := pattern.match(name):
                at = after.index(int(match[1]))
                names[name] = f"{stack}{at}.{name[match.end() :]}"
        _shorten(config, before, after)
    return config, names


def _shorten(config: Config, before: list[int], after: list[int]) -> None:
    """Say fewer layers wherever a configuration says how many there are, or says one thing each."""
    for name, value in config.items():
        if isinstance(value, dict):
            _shorten(value, before, after)
        elif isinstance(value, list) and len(value) == len(before):
            config[name] = [value[at] for at in after]
        elif value == len(before) and isinstance(value, int) and "layer" in name:
            config[name] = len(after)


def _sizes(model_class: Any, config: Config, base: Shapes) -> Iterator[_Size]:
    """The numbers that decide dimensions, found by doubling each."""
    for path, value in _numbers(config):
        shapes = shapes_of(model_class, _with(config, {path: 2 * value}))
        if shapes is None or shapes.keys() != base.keys():
            slopes = {}
        else:
            slopes = {
                (name, dim): (new - old) / value
                for name, shape in base.items()
                if len(shapes[name]) == len(shape)
                for dim, (old, new) in enumerate(zip(shape, shapes[name], strict=True))
                if new != old
            }
        yield _Size(path, value, slopes)


def _options(sizes: list[_Size], base: Shapes, wanted: Shapes) -> dict[tuple[str, ...], list[int]]:
    """What each number may be: as it is, and what each dimension that it decides asks for."""
    options: dict[tuple[str, ...], list[int]] = {}
    ratios = {
        new / old
        for name, shape in base.items()
        for old, new in zip(shape, wanted[name], strict=False)
        if new != old
    }
    for size in sizes:
        asked: list[int] = []
        for (name, dim), slope in size.slopes.items():
            missing = wanted[name][dim] - base[name][dim]
            value = size.value + missing / slope
            if value >= 1 and value.is_integer() and int(value) not in asked:
                asked.append(int(value))
        if "heads" in size.path[-1]:
            # How many heads share a width is in no shape of many architectures.
            scaled = (size.value * ratio for ratio in sorted(ratios))
            asked += [int(v) for v in scaled if v >= 1 and v.is_integer() and int(v) not in asked]
        if asked and asked != [size.value]:
            kept = [value for value in asked if value != size.value]
            options[size.path] = [*kept, size.value]
    count = 1
    for path, values in options.items():
        options[path] = values[: max(2, _MOST_VALUES // count)]
        count *= len(options[path])
        if count > _MOST_CANDIDATES:
            raise InexpressibleError(
                "the pruned widths differ between layers, and a configuration has one number for "
                "all: prune with scope 'local' and a channel_ratio"
            )
    return options


def _numbers(config: Config, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    for name, value in config.items():
        here = (*path, name)
        if isinstance(value, dict) and name not in ("id2label", "label2id"):
            yield from _numbers(value, here)
        elif type(value) is int and value > 0 and not _NOT_SIZES.fullmatch(name):
            yield here, value


def _with(config: Config, values: Mapping[tuple[str, ...], int]) -> Config:
    changed = _copy(config)
    for path, value in values.items():
        inner = changed
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
    return changed


def _copy(config: Config) -> Config:
    return {
        name: _copy(value) if isinstance(value, dict) else value for name, value in config.items()
    }


def _difference(shapes: Shapes, wanted: Shapes) -> str:
    name = next((name for name, shape in wanted.items() if shapes[name] != shape), None)
    if name is None:  # As where only weights became zero, or only whole layers went.
        return "none differs"
    return f"{name} is {list(wanted[name])}, and would be {list(shapes[name])}"
