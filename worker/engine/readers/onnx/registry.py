"""How an operator of ONNX is written down: one function in one table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import onnx
import torch
from onnx import TensorProto
from torch import Tensor

from worker.engine.errors import UnsupportedModelError
from worker.engine.readers.onnx.host import Host

Value = Tensor | Host | None
"""What a name in a graph stands for; None for an input that is left out."""

_TORCH_DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}


def torch_dtype(number: int) -> torch.dtype:
    """The dtype of an element type of ONNX.

    Raises:
        UnsupportedModelError: PyTorch does not compute with it.
    """
    if number not in _TORCH_DTYPES:
        known = ", ".join(name_of(known) for known in _TORCH_DTYPES)
        raise UnsupportedModelError(
            f"the model has tensors of type {name_of(number)}; these can be taken: {known}"
        )
    return _TORCH_DTYPES[number]


def name_of(number: int) -> str:
    """What ONNX calls an element type."""
    try:
        return str(TensorProto.DataType.Name(number))
    except ValueError:
        return str(number)


class Unmet(Exception):
    """A node asks for what its operator has no function for; the message says for what."""


@dataclass(frozen=True)
class Call:
    """One node, as its operator's function sees it.

    Attributes:
        node: As it stands in the file.
        label: Its name, or that of its first output, for messages.
        opset: The version of the operators of its domain.
        attributes: Python values by name; tensors as ``onnx.TensorProto``.
        run: Runs a graph that is an attribute, and gives its outputs.
        parameters: Names of the values that are parameters of the model.
        buffers: Names of those that are buffers.
    """

    node: onnx.NodeProto
    label: str
    opset: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    run: Callable[[str], list[Value]] | None = None
    parameters: frozenset[str] = frozenset()
    buffers: frozenset[str] = frozenset()

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute; text as ``str``."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def texts(self, name: str, default: Sequence[str]) -> list[str]:
        return [
            text.decode() if isinstance(text, bytes) else text
            for text in self.attributes.get(name, default)
        ]

    def is_read(self, output: int) -> bool:
        """Whether an output has a name."""
        return len(self.node.output) > output and bool(self.node.output[output])


def label_of(node: onnx.NodeProto) -> str:
    """The name of a node; that of its first output where it has none."""
    return node.name or next((name for name in node.output if name), "(without a name)")


@dataclass(frozen=True)
class Operator:
    """What computes one operator.

    Attributes:
        compute: Takes a :class:`Call` and the node's inputs; gives a value, or a list of them.
        host: Inputs that have to be numbers known while tracing, as the shape of a reshape.
        either: Inputs that the function takes both as numbers and as tensors.
    """

    compute: Callable[..., Any]
    host: frozenset[int] = frozenset()
    either: frozenset[int] = frozenset()


OPERATORS: dict[str, Operator] = {}
"""All that can be taken, by name; those of another domain as ``domain::name``."""

ON_HOST: dict[str, Callable[..., Any]] = {}
"""What computes shapes: functions of a :class:`Call` and :class:`Host` values."""

_Function = TypeVar("_Function", bound=Callable[..., Any])

ALL = frozenset(range(64))


def operator(
    *names: str, host: Sequence[int] = (), either: Sequence[int] | frozenset[int] = ()
) -> Callable[[_Function], _Function]:
    """Register the function of one or more operators.

    Args:
        names: As in the file.
        host: Inputs that it takes as :class:`Host` alone.
        either: Inputs that it takes as they are; all others are made tensors before.
    """

    def register(function: _Function) -> _Function:
        for name in names:
            assert name not in OPERATORS, name
            OPERATORS[name] = Operator(function, frozenset(host), frozenset(either))
        return function

    return register


def on_host(*names: str) -> Callable[[_Function], _Function]:
    """Register what computes an operator where all of its inputs are numbers."""

    def register(function: _Function) -> _Function:
        for name in names:
            assert name not in ON_HOST, name
            ON_HOST[name] = function
        return function

    return register


def key_of(node: onnx.NodeProto) -> str:
    """Under what a node's operator stands in the table."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def number_or_tensor(value: Tensor | Host) -> Any:
    """A single number as it is, which takes part in any computation; else a tensor."""
    if isinstance(value, Host):
        return value.one() if value.array.shape == () else value.tensor()
    return value


def as_tensor(value: Value) -> Tensor:
    """A tensor, whatever it was."""
    assert value is not None
    return value.tensor() if isinstance(value, Host) else value
