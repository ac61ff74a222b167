"""Example inputs, which a file of ONNX does not have: made from what it says of its inputs."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx
import torch
from torch import Tensor

from worker.engine.errors import UnsupportedModelError
from worker.engine.readers.onnx.graph import Graph
from worker.engine.readers.onnx.registry import torch_dtype

_BATCH = 2
_MOST_ELEMENTS = 2**27
_SIDES = (224, 64, 32, 128, 256, 28, 96, 299, 384, 512)
_LENGTHS = (8, 16, 32, 64, 128, 224, 256, 512, 1024, 4)
_CHANNELS = (3, 1)
_PASSED = ("Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Flatten")
_BATCH_NAME = re.compile(r"batch|^n$|^b$|^bs$", re.IGNORECASE)
_LENGTH_NAME = re.compile(r"seq|len|time|step|frame|token", re.IGNORECASE)


@dataclass(frozen=True)
class Input:
    """An input of a model.

    Attributes:
        name: In the file.
        dtype: Of its elements.
        shape: A number for each fixed dimension; a name for each dynamic one, the same for those
            that have the same name in the file.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int | str, ...]


def inputs_of(graph: Graph) -> list[Input]:
    """What a graph says of its inputs.

    Raises:
        UnsupportedModelError: One is no tensor, or its number of dimensions is not known.
    """
    return [_input(info) for info in graph.inputs]


def _input(info: onnx.ValueInfoProto) -> Input:
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        raise UnsupportedModelError(
            f"the input {info.name!r} is of kind {kind}; only tensors can be taken"
        )
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        raise UnsupportedModelError(
            f"the file does not say how many dimensions the input {info.name!r} has; give it a "
            "shape, with names for the dimensions that are dynamic"
        )
    shape: list[int | str] = []
    for at, size in enumerate(tensor.shape.dim):
        # Some exporters write 0 or -1 for a number of rows that they do not know.
        is_rows = at == 0 and len(tensor.shape.dim) > 1
        if size.HasField("dim_value") and size.dim_value >= (1 if is_rows else 0):
            shape.append(size.dim_value)
        elif size.dim_param:
            shape.append(size.dim_param)
        else:
            # No name of a file has a line break: nothing else is of the same size.
            shape.append(f"{info.name}\n{at}")
    return Input(info.name, torch_dtype(tensor.elem_type), tuple(shape))


Sizes = Mapping[str, int]


def sizes_to_try(inputs: Sequence[Input]) -> Iterator[Sizes]:
    """Sizes of the dynamic dimensions that a model may run with, the likeliest first."""
    roles = _roles(inputs)
    if not roles:
        yield {}
        return
    choices = {"batch": (_BATCH,), "side": _SIDES, "length": _LENGTHS, "channels": _CHANNELS}
    seen = set()
    most = max(len(choices[role]) for role in roles.values())
    for channels in _CHANNELS if "channels" in roles.values() else _CHANNELS[:1]:
        for attempt in range(most):
            sizes = {}
            for name, role in roles.items():
                options = (channels,) if role == "channels" else choices[role]
                sizes[name] = options[attempt % len(options)]
            if tuple(sizes.items()) not in seen:
                seen.add(tuple(sizes.items()))
                yield sizes
    # A file may call a dimension dynamic in which the model takes one size alone.
    first = {name: choices[role][0] for name, role in roles.items()}
    yield {name: 1 if roles[name] == "batch" else size for name, size in first.items()}


def _roles(inputs: Sequence[Input]) -> dict[str, str]:
    """What each dynamic dimension is, as its name or its place says."""
    roles: dict[str, str] = {}
    for given in inputs:
        for at, size in enumerate(given.shape):
            if isinstance(size, str):
                roles.setdefault(size, _role(given.shape, at, size))
    return roles


def _role(shape: Sequence[int | str], at: int, name: str) -> str:
    plain = name if "\n" not in name else ""
    if _LENGTH_NAME.search(plain) and not _BATCH_NAME.search(plain):
        return "length"
    if at == 0 or _BATCH_NAME.search(plain):
        return "batch"
    if len(shape) not in (4, 5):
        return "length"
    is_last = isinstance(shape[-1], int) and not isinstance(shape[1], int)
    channels = len(shape) - 1 if is_last else 1
    first = 1 if is_last else 2
    if len(shape) == 5 and at == first:
        return "length"
    return "channels" if at == channels else "side"


def shape_of(given: Input, sizes: Sizes) -> list[int]:
    """The shape of an input at sizes of the dynamic dimensions.

    Raises:
        UnsupportedModelError: It is too large to be made.
    """
    shape = [size if isinstance(size, int) else sizes[size] for size in given.shape]
    if prod(shape) > _MOST_ELEMENTS:
        raise UnsupportedModelError(
            f"the input {given.name!r} of shape {shape} has more than {_MOST_ELEMENTS} elements"
        )
    return shape


def examples(graph: Graph, inputs: Sequence[Input], sizes: Sizes) -> list[Tensor]:
    """Draw inputs: normal floats; places in the tables that they are looked up in, else ones."""
    generator = torch.Generator().manual_seed(0)
    tables = _tables(graph)
    made = []
    for given in inputs:
        shape = shape_of(given, sizes)
        if given.dtype.is_floating_point:
            made.append(torch.randn(shape, generator=generator).to(given.dtype))
        elif given.dtype == torch.bool or given.name not in tables:
            made.append(torch.ones(shape, dtype=given.dtype))
        else:
            drawn = torch.randint(tables[given.name], shape, generator=generator)
            made.append(drawn.to(given.dtype))
    return made


def _tables(graph: Graph) -> dict[str, int]:
    """How many rows the smallest table has that an input is looked up in."""
    origin = {given.name: given.name for given in graph.inputs}
    found: dict[str, int] = {}
    for node in graph.nodes:
        if node.op_type in _PASSED and node.input[0] in origin:
            origin[node.output[0]] = origin[node.input[0]]
        if node.op_type != "Gather" or node.input[1] not in origin:
            continue
        table = graph.constants.get(node.input[0])
        if table is not None and table.dim():
            axis = next((one.i for one in node.attribute if one.name == "axis"), 0)
            name = origin[node.input[1]]
            found[name] = min(found.get(name, 2**31), table.shape[axis])
    return {name: rows for name, rows in found.items() if rows > 0}
