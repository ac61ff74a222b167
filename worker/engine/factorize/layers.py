"""The layers of a program that can be taken apart, and why the others cannot."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import Parameter

from worker.engine.arguments import argument, constants
from worker.engine.config import FactorizeConfig
from worker.engine.criteria.columns import groups_of, is_convolution
from worker.engine.graph.counts import MACS
from worker.engine.graph.rules.convolution import TRANSPOSED
from worker.engine.graph.rules.recurrent import GATES
from worker.engine.graph.weights import WeightCall, bias_of, weight_calls
from worker.engine.program import Program, attribute

aten = torch.ops.aten

LARGEST = 2**13
"""The longest side of a matrix whose eigenvectors are looked for: it takes half a gibibyte."""


@dataclass(frozen=True)
class Offset:
    """Where a number can be added to each output of a layer: a bias, or a mean that is subtracted.

    Attributes:
        name: Of the parameter or buffer, float, ``(outputs,)``; nobody else reads it.
        sign: 1, or -1 for the running mean of the batch norm behind the layer.
    """

    name: str
    sign: int


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or a matrix product whose weight nobody else reads.

    Attributes:
        program: Where it is.
        call: The call.
        shape: ``(outputs, inputs, *kernel)``; a matrix product has no kernel.
        rows: How often each position is computed at the example inputs: rows of a convolution,
            rows and positions of a matrix product.
        read: Sizes of the dimensions that the kernel slides along, as the layer reads them.
        given: The same, as it gives them.
        offset: Where an offset can be put, if anywhere.
    """

    program: Program
    call: WeightCall
    shape: tuple[int, ...]
    rows: int
    read: tuple[int, ...]
    given: tuple[int, ...]
    offset: Offset | None

    @property
    def name(self) -> str:
        return self.call.parameter

    @property
    def node(self) -> Node:
        return self.call.node

    @property
    def is_convolution(self) -> bool:
        return is_convolution(self.node)

    @property
    def outputs(self) -> int:
        return self.shape[0]

    @property
    def inputs(self) -> int:
        return self.shape[1]

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.shape[2:]

    @property
    def columns(self) -> int:
        """What one output is made of: inputs, each as often as the kernel is large."""
        return prod(self.shape[1:])

    @property
    def parameters(self) -> int:
        return prod(self.shape)

    @property
    def macs(self) -> int:
        """Multiply-accumulates at the example inputs."""
        return self.rows * prod(self.given) * self.parameters

    @property
    def is_batched(self) -> bool:
        """Whether it reads rows, and not one image without a dimension of rows."""
        dims = len(self.program.shape(self.call.source))
        return not self.is_convolution or dims == len(self.shape)

    @property
    def stored(self) -> Parameter:
        """The weight as the program holds it."""
        found = attribute(self.program.module, self.name)
        assert isinstance(found, Parameter)
        return found

    @property
    def weight(self) -> Tensor:
        """The weight, float64 on the CPU: ``(outputs, inputs, *kernel)``."""
        weight = self.stored.detach().double().cpu()
        return weight if self.is_convolution or self.call.weight_dim == 1 else weight.T


def layers_of(
    program: Program, config: FactorizeConfig, *, sparse: Collection[str]
) -> Iterator[Layer | tuple[str, str]]:
    """All that is multiplied with what depends on inputs, in the order of the program.

    Args:
        program: Read, never written.
        config: Names the method, and the parameters to leave alone.
        sparse: Names of parameters whose zeros stay.

    Yields:
        A layer that can be taken apart, or the name of a weight that stays, and why.
    """
    readers = _Readers(program)
    calls = {call.parameter: call for call in weight_calls(program)}
    for name in readers.multiplied():
        call = calls.get(name)
        if any(fnmatchcase(name, pattern) for pattern in config.exclude):
            yield name, "excluded"
        elif name in sparse:
            yield name, "has zeros that were made on purpose"
        elif name in program.written.tensors:
            yield name, "is written while the model runs"
        elif readers.count(name) > 1:
            yield name, f"is read {readers.count(name)} times: a tied weight stays one"
        elif call is None:
            yield name, _unknown(readers.of(name)[0])
        else:
            layer = _layer(program, call, readers)
            reason = _refused(layer, config.method)
            yield layer if reason is None else (name, reason)


def _unknown(reader: Node) -> str:
    if reader.target in GATES or "cell" in str(reader.target):
        return "is a weight of a recurrent layer, which is one operator"
    if reader.target in TRANSPOSED:
        return "is the weight of a transposed convolution"
    return f"is not read as it is by a convolution or a linear layer, but by {reader.target}"


def _refused(layer: Layer, method: str) -> str | None:
    """Why a layer stays; None where it need not."""
    weight = layer.stored
    if groups_of(layer.node) > 1:
        return f"is a convolution in {groups_of(layer.node)} groups"
    if not layer.is_convolution and weight.dim() != 2:
        return f"is a stack of matrices, of shape {tuple(weight.shape)}"
    if not weight.is_floating_point():
        return f"holds {weight.dtype}, not real numbers"
    if not weight.numel() or not bool(weight.isfinite().all()) or not bool(weight.any()):
        return "is empty, holds nothing but zeros, or NaN or infinity"
    if method in ("tucker", "cp") and prod(layer.kernel) == 1:
        return f"has no kernel for {method}: a matrix is taken apart by svd or auto"
    is_kernel = method != "svd" and prod(layer.kernel) > 1
    sides = (layer.outputs, layer.inputs if is_kernel else layer.columns)
    if (max if is_kernel else min)(sides) > LARGEST:
        return f"is too large to be taken apart: {sides[0]:,} by {sides[1]:,}"
    return None


def _layer(program: Program, call: WeightCall, readers: "_Readers") -> Layer:
    weight = attribute(program.module, call.parameter)
    assert isinstance(weight, Tensor)
    node = call.node
    shape = tuple(weight.shape)
    read, given = program.shape(call.source), program.shape(node)
    if is_convolution(node):
        dims = len(shape) - 2
        rows = prod(read[: -dims - 1])
        read, given = read[-dims:], given[-dims:]
    else:
        shape = shape if call.weight_dim == 1 else shape[::-1]
        rows, read, given = prod(read[:-1]), (), ()
    offset = _offset(program, node, shape[0], readers)
    return Layer(program, call, shape, rows, read, given, offset)


def _offset(program: Program, node: Node, outputs: int, readers: "_Readers") -> Offset | None:
    bias = bias_of(node)
    if bias is None:
        return _mean_behind(program, node, readers)
    is_scaled = node.target == aten.addmm.default and (
        argument(node, "beta") != 1 or argument(node, "alpha") != 1
    )
    if is_scaled or not _is_own(program, bias, readers) or program.shape(bias) != (outputs,):
        return None
    return Offset(str(bias.target), 1)


def _mean_behind(program: Program, node: Node, readers: "_Readers") -> Offset | None:
    """The running mean of the batch norm that alone reads a call's output."""
    if len(node.users) != 1:
        return None
    [norm] = node.users
    if norm.target != aten.batch_norm.default or argument(norm, "training"):
        return None
    mean = argument(norm, "running_mean")
    is_own = mean is not None and _is_own(program, mean, readers)
    return Offset(str(mean.target), -1) if is_own else None


def _is_own(program: Program, node: Node, readers: "_Readers") -> bool:
    name = str(node.target)
    is_held = node.op == "get_attr" and name not in program.written.tensors
    return is_held and readers.count(name) == 1


class _Readers:
    """Who reads each tensor of a program, by whatever name, as it is or through constants."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._constants = constants(program.graph)
        self._reads: dict[int, list[Node]] = {}
        for node in program.graph.find_nodes(op="get_attr"):
            found = self._reads.setdefault(id(attribute(program.module, str(node.target))), [])
            found += self._behind(node)

    def of(self, name: str) -> list[Node]:
        return self._reads.get(id(attribute(self._program.module, name)), [])

    def count(self, name: str) -> int:
        return len(self.of(name))

    def multiplied(self) -> list[str]:
        """Parameters of two dimensions or more that an operator multiplies and sums with."""
        found: list[str] = []
        for node in self._program.graph.find_nodes(op="get_attr"):
            name = str(node.target)
            tensor = attribute(self._program.module, name)
            is_weight = isinstance(tensor, Parameter) and tensor.dim() > 1
            if is_weight and any(reader.target in MACS for reader in self.of(name)):
                found.append(name)
        # Under one name each: a tied weight has several, and is one.
        tensors = {id(attribute(self._program.module, name)): name for name in reversed(found)}
        return [name for name in dict.fromkeys(found) if name in tensors.values()]

    def _behind(self, node: Node) -> list[Node]:
        found: list[Node] = []
        asked = list(node.users)
        while asked:
            user = asked.pop()
            if user in self._constants:
                asked += user.users
            else:
                found.append(user)
        return found
