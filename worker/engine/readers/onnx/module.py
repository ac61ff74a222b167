"""A module that runs the nodes of a graph one by one, for the exporter to trace."""

import inspect
import operator as python
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from onnx import GraphProto, NodeProto
from torch import Tensor

from worker.engine.errors import EngineError, UnreadableModelError, UnsupportedModelError
from worker.engine.readers.onnx.constants import Kinds
from worker.engine.readers.onnx.graph import Graph, reads
from worker.engine.readers.onnx.host import LARGEST, Host, TooMany
from worker.engine.readers.onnx.names import identifiers, parameter_names
from worker.engine.readers.onnx.operators import ON_HOST, OPERATORS
from worker.engine.readers.onnx.registry import Call, Unmet, Value, as_tensor, key_of

_Values = dict[str, Value]


class OnnxModule(torch.nn.Module):
    """Parameters and buffers under the names of the file, and a call that runs the nodes."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        kinds = Kinds.of(graph)
        stored = [name for name in graph.constants if name not in kinds.numbers]
        self._plan = _Plan(graph, kinds, parameter_names(stored))
        for name, full in self._plan.names.items():
            self._hold(full, graph.constants[name], is_parameter=name in kinds.parameters)
        arguments = identifiers(given.name for given in graph.inputs).values()
        self.forward = self._named(list(arguments))
        self.eval()

    @property
    def names(self) -> Mapping[str, str]:
        """Names of parameters and buffers, by those in the file."""
        return self._plan.names

    def _hold(self, full: str, tensor: Tensor, *, is_parameter: bool) -> None:
        *path, leaf = full.split(".")
        owner: torch.nn.Module = self
        for part in path:
            if part not in dict(owner.named_children()):
                owner.add_module(part, torch.nn.Module())
            owner = owner.get_submodule(part)
        if is_parameter:
            owner.register_parameter(leaf, torch.nn.Parameter(tensor))
        else:
            owner.register_buffer(leaf, tensor)

    def _named(self, names: Sequence[str]) -> Callable[..., Any]:
        """A function whose arguments have names: the exporter names the inputs by them."""

        def forward(*inputs: Tensor) -> Any:
            return self._plan.run(self, inputs)

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(name, kind) for name in names]
        forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return forward


class _Plan:
    """The nodes of a graph, and where its constants are."""

    def __init__(self, graph: Graph, kinds: Kinds, names: Mapping[str, str]) -> None:
        self.graph = graph
        self.names = names
        self.parameters = kinds.parameters
        self.buffers = frozenset(names) - kinds.parameters
        self.numbers = {name: _host(graph.constants[name]) for name in kinds.numbers}
        self.calls = [self._call(node) for node in graph.nodes]
        self.last = _last_reads(graph)

    def _call(self, node: NodeProto) -> Call:
        return replace(self.graph.call(node), parameters=self.parameters, buffers=self.buffers)

    def run(self, module: torch.nn.Module, inputs: Sequence[Tensor]) -> Any:
        values: _Values = dict(self.numbers)
        values |= {name: _held(module, full) for name, full in self.names.items()}
        given = zip(self.graph.inputs, inputs, strict=True)
        values |= {info.name: value for info, value in given}
        for at, call in enumerate(self.calls):
            self._step(call, values)
            for name in self.last.get(at, ()):
                values.pop(name, None)
        outputs = tuple(self._output(values.get(name), name) for name in self.graph.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def _output(self, value: Value, name: str) -> Tensor:
        if value is None:
            raise UnreadableModelError(f"the output {name!r} is made by nothing")
        # A parameter that is given back as it is has to be another tensor.
        return as_tensor(value).clone() if name in self.names else as_tensor(value)

    def _step(self, call: Call, values: _Values) -> None:
        given = [_read(call, name, values) for name in call.node.input]
        if call.node.op_type == "If":
            call = replace(call, run=lambda name: self._inner(call.attributes[name], values))
        try:
            made = self._computed(call, given)
        except EngineError:
            raise
        except Exception as error:
            raise UnsupportedModelError(_explained(call, error)) from error
        several = made if isinstance(made, list | tuple) else [made]
        # What is read is there; the rest of the names of optional outputs has no value.
        for name, value in zip(call.node.output, several, strict=False):
            if name:
                values[name] = value

    def _inner(self, graph: GraphProto, outer: _Values) -> list[Value]:
        """Run a graph that reads what stands around it."""
        values = dict(outer)
        for node in graph.node:
            if node.op_type != "Constant":
                self._step(self._call(node), values)
        return [values[output.name] for output in graph.output]

    def _computed(self, call: Call, given: Sequence[Value]) -> Any:
        key = key_of(call.node)
        if key in ON_HOST and all(value is None or isinstance(value, Host) for value in given):
            with suppress(TooMany):
                made = ON_HOST[key](call, *given)
                if made is not NotImplemented:
                    return made
        operator = OPERATORS[key]
        ready: list[Value] = []
        for at, value in enumerate(given):
            if value is None or at in operator.either:
                ready.append(value)
            elif at in operator.host:
                ready.append(self._number(call, at, value))
            else:
                ready.append(as_tensor(value))
        return operator.compute(call, *ready)

    def _number(self, call: Call, at: int, value: Value) -> Host:
        if isinstance(value, Host):
            return value
        stored = self.graph.constants.get(call.node.input[at])
        if stored is not None and stored.numel() <= LARGEST:
            return _host(stored)
        raise Unmet(
            f"its input {call.node.input[at]!r} has to be known while the model is read, and "
            "depends on the values of inputs"
        )


def _read(call: Call, name: str, values: _Values) -> Value:
    if name and name not in values:
        raise UnsupportedModelError(
            f"node {call.label!r} ({call.node.op_type}) reads {name!r}, which is given in training "
            "alone or by nothing before it"
        )
    return values[name] if name else None


def _explained(call: Call, error: Exception) -> str:
    where = f"node {call.label!r} ({call.node.op_type}) cannot be taken"
    if isinstance(error, Unmet):
        return f"{where}: {error}"
    said = " ".join(str(error).split())[:300]
    return f"{where}: {type(error).__name__}: {said}"


def _held(module: torch.nn.Module, full: str) -> Tensor:
    tensor = python.attrgetter(full)(module)
    assert isinstance(tensor, Tensor)
    return tensor


def _host(tensor: Tensor) -> Host:
    numbers = tensor.reshape(-1).tolist()
    return Host(Host.of(numbers).array.reshape(tuple(tensor.shape)), tensor.dtype)


def _last_reads(graph: Graph) -> dict[int, list[str]]:
    """After which node each value is read no more; outputs are kept."""
    last: dict[str, int] = {}
    for at, node in enumerate(graph.nodes):
        for name in reads(node):
            last[name] = at
    gone: dict[int, list[str]] = {}
    for name, at in last.items():
        if name not in graph.outputs:
            gone.setdefault(at, []).append(name)
    return gone
