"""Write the casts into a program: each value in the type in which it is read, cast once."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from worker.engine.arguments import argument, has_argument, memory_of, written_by
from worker.engine.precision.choice import Asked, Choice, choose
from worker.engine.precision.float8 import Scaled
from worker.engine.precision.kinds import (
    Kind,
    float32_in,
    floats_read,
    is_attention,
    is_conversion,
    kind_of,
)
from worker.engine.program import Program, attribute, set_attribute

aten = torch.ops.aten

_KEPT_META = ("nn_module_stack", "stack_trace")


class UnsupportedError(Exception):
    """A call that torch does not compute in the type of fewer bits; ``node`` is the original's."""

    def __init__(self, node: Node, reason: str) -> None:
        super().__init__(reason)
        self.node = node


@dataclass(frozen=True)
class Rewritten:
    """A program with casts, which has not been exported yet.

    Attributes:
        program: It runs; what is noted of shapes and types in it is the original's.
        origins: The node of the original that each of its calls does.
        choice: What was chosen.
    """

    program: Program
    origins: Mapping[Node, Node]
    choice: Choice


def rewritten(program: Program, asked: Asked, scaled: Mapping[str, Scaled]) -> Rewritten:
    """Write a program whose products and elementwise calls are in the type of fewer bits.

    Args:
        program: Read, never written.
        asked: The type, and what has to be float32.
        scaled: Weights that are stored in 8 bits, by name.

    Raises:
        UnsupportedError: torch does not compute some call in that type.
    """
    return _Writer(program, asked, scaled).write()


@dataclass
class _Value:
    """A value in the types in which it has been needed; each a node and what it is on the examples.

    ``native`` is the type that it is made in; None for what is not float32 in the original.
    """

    native: torch.dtype | None
    nodes: dict[torch.dtype | None, Node]
    made: dict[torch.dtype | None, Any]


class _Writer:
    """Goes through a copy of the graph, and computes it on the example inputs meanwhile."""

    def __init__(self, program: Program, asked: Asked, scaled: Mapping[str, Scaled]) -> None:
        self.program = program
        self.asked = asked
        self.scaled = scaled
        self.choice = choose(program, asked)
        self.graph = program.copied_graph()
        self.values: dict[Node, _Value] = {}
        self.members: dict[Node, list[_Value]] = {}
        self.origins: dict[Node, Node] = {}
        self.codes: dict[str, Tensor] = {}
        self.held: dict[int, _Value] = {}
        self.gone: list[Node] = []

    @torch.no_grad()
    def write(self) -> Rewritten:
        args, kwargs = self.program.args, self.program.kwargs
        if self.asked.cast_inputs:
            args, kwargs = pytree.tree_map_only(Tensor, self.low, (args, kwargs))
        leaves = iter(pytree.tree_leaves((args, kwargs)))
        copies = list(self.graph.nodes)
        for node, copied in zip(list(self.program.graph.nodes), copies, strict=True):
            if node.op == "placeholder":
                leaf = next(leaves)
                self.keep(node, copied, leaf.clone() if isinstance(leaf, Tensor) else leaf)
            elif node.op == "get_attr":
                self.read(node, copied)
            elif node.op == "output":
                low = self.asked.low if self.asked.cast_inputs else torch.float32
                self.give(node, copied, low)
            elif node.target is aten._assert_tensor_metadata.default:  # noqa: SLF001 (its name)
                self.gone.append(copied)
            else:
                self.call(node, copied)
        for copied in reversed(self.gone):
            self.graph.erase_node(copied)
        program = replace(self.program.with_module(self.module()), args=args, kwargs=kwargs)
        return Rewritten(program, self.origins, self.choice)

    def low(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.asked.low) if tensor.dtype == torch.float32 else tensor

    def module(self) -> GraphModule:
        module = self.program.module_with(self.program.copied_graph())
        done: dict[int, Tensor] = {}
        for name in sorted(self.choice.stored):
            tensor = attribute(module, name)
            assert isinstance(tensor, Tensor)
            if id(tensor) not in done:
                done[id(tensor)] = self.stored(name, tensor)
            set_attribute(module, name, done[id(tensor)])
        for name, scale in self.codes.items():
            holder, _, leaf = name.rpartition(".")
            module.get_submodule(holder).register_buffer(leaf, scale)
        self.graph.lint()
        # Last: a module takes no graph that reads what it does not hold yet.
        module.graph = self.graph
        return module

    def stored(self, name: str, tensor: Tensor) -> Tensor:
        """What is there in a tensor's place; a tied weight stays tied."""
        value = self.scaled[name].codes if name in self.scaled else tensor.detach()
        value = value if name in self.scaled else value.to(self.asked.low)
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        return torch.nn.Parameter(value, requires_grad=False) if is_parameter else value

    # What a node of each kind becomes.

    def keep(self, node: Node, copied: Node, made: Any) -> _Value:
        """Take a node as it is; its type is that of what it makes."""
        native = None
        if float32_in(node):
            tensors = pytree.tree_leaves(made)
            native = next(t.dtype for t in tensors if isinstance(t, Tensor) and _is_float(t))
        value = self.values[node] = _Value(native, {native: copied}, {native: made})
        self.origins[copied] = node
        if node in self.choice.widened and native == self.asked.low:
            self.widen(copied, value)
        if memory_of(node) in self.choice.shared:
            self.members.setdefault(memory_of(node), []).append(value)
        return value

    def widen(self, copied: Node, value: _Value) -> None:
        """Put what a call makes into memory of float32: what is written there needs it."""
        with self.graph.inserting_after(copied):
            cast = self.graph.call_function(aten.to.dtype, (copied, torch.float32))
        made = value.made[value.native].to(torch.float32)
        value.native = torch.float32
        value.nodes, value.made = {torch.float32: cast}, {torch.float32: made}

    def read(self, node: Node, copied: Node) -> None:
        """A tensor of the module, as it will be stored."""
        name = str(node.target)
        held = attribute(self.program.module, name)
        if id(held) in self.held:
            self.values[node] = self.held[id(held)]  # A tied weight by another of its names.
        elif name in self.scaled:
            self.held[id(held)] = self.unscale(node, copied, name)
        else:
            self.held[id(held)] = self.keep(node, copied, self.as_stored(name, held))

    def as_stored(self, name: str, held: object) -> object:
        if not isinstance(held, Tensor):
            return held
        if name in self.program.written.tensors:
            return held.detach().clone()
        low = self.asked.low if name in self.choice.stored else held.dtype
        return held.detach().to(low)

    def unscale(self, node: Node, copied: Node, name: str) -> _Value:
        """The float32 weight of 8-bit codes and their scales."""
        scaled = self.scaled[name]
        self.codes[scaled.scale_name] = scaled.scale
        with self.graph.inserting_after(copied):
            scale = self.graph.get_attr(scaled.scale_name)
        with self.graph.inserting_after(scale):
            codes = self.graph.call_function(aten.to.dtype, (copied, torch.float32))
        with self.graph.inserting_after(codes):
            weight = self.graph.call_function(aten.mul.Tensor, (codes, scale))
        return self.keep(node, weight, scaled.weight)

    def give(self, node: Node, copied: Node, dtype: torch.dtype) -> None:
        """The outputs, of the type that they had."""

        def version(read: Node) -> Node:
            return self.version(read, dtype, before=copied)[0]

        copied.args = map_arg(node.args, version)

    def call(self, node: Node, copied: Node) -> None:
        if is_conversion(node) and float32_in(node) and self.convert(node, copied):
            return
        dtype = self.type_of(node)
        given, made = self.arguments(node, copied, dtype)
        copied.args, copied.kwargs = given
        try:
            result = self.compute(copied, *made)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if node in self.asked.islands:
                raise
            # Whatever it raises: torch has no kernel for this type, or the call takes no such type.
            raise UnsupportedError(node, "torch does not compute it in that type") from error
        self.keep(node, copied, result)
        if written_by(node):
            self.forget_casts(node)

    def compute(self, copied: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if isinstance(copied.target, OpOverload) or callable(copied.target):
            return copied.target(*args, **kwargs)
        raise AssertionError(f"{copied.target} is no function")

    def convert(self, node: Node, copied: Node) -> bool:
        """Whether a conversion to float32 is done: one of what is float32 has nothing to do."""
        source = node.args[0]
        assert isinstance(source, Node)
        if float32_in(source):
            if node.meta["val"].device != source.meta["val"].device:
                return False
            # `_to_copy` has no such argument, and type_as has none and may give the same memory.
            is_copy = has_argument(node, "copy") and argument(node, "copy")
            if is_copy or node.target is aten._to_copy.default:  # noqa: SLF001 (its name)
                copied.target, copied.kwargs = aten.clone.default, {}
                given, made = self.arguments(node, copied, None, only=source)
                copied.args = given[0]
                self.keep(node, copied, self.compute(copied, *made))
            else:
                self.values[node] = self.values[source]
                self.gone.append(copied)
            return True
        copied.target, copied.kwargs = aten.to.dtype, {}
        read, made_of = self.version(source, None, before=copied)
        copied.args = (read, torch.float32)
        self.keep(node, copied, made_of.to(torch.float32))
        return True

    def type_of(self, node: Node) -> torch.dtype | None:
        """The type of the floats that a call reads; None for the one that each of them has."""
        base = memory_of(node)
        if base in self.choice.shared and base is not node:
            return self.values[base].native if written_by(node) else None
        if node in self.choice.wide:
            return torch.float32
        if kind_of(node) is Kind.MOVEMENT or not float32_in(node):
            read = floats_read(node)
            return None if len(read) < 2 else self.asked.low
        return self.asked.low

    def arguments(
        self, node: Node, copied: Node, dtype: torch.dtype | None, only: Node | None = None
    ) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        """The arguments of a call as nodes, and as what they are on the examples."""
        written = set(written_by(node))
        mask = argument(node, "attn_mask") if is_attention(node) else None

        def version(read: Node) -> tuple[Node, Any]:
            wanted = None if read in written else dtype
            is_mask = read is mask and wanted == self.asked.low
            return self.version(read, wanted, before=copied, is_mask=is_mask)

        taken = ((only,), {}) if only is not None else (node.args, node.kwargs)
        nodes = map_arg(taken, lambda read: version(read)[0])
        made: Any = map_arg(taken, lambda read: version(read)[1])
        return nodes, made

    def version(
        self, read: Node, dtype: torch.dtype | None, *, before: Node, is_mask: bool = False
    ) -> tuple[Node, Any]:
        """A value in a type, cast where it is not there yet; in its own type for None."""
        value = self.values[read]
        if (
            value.native is None
            or dtype is None
            or not isinstance(value.made[value.native], Tensor)
        ):
            dtype = value.native
        if dtype not in value.nodes:
            source, made = value.nodes[value.native], value.made[value.native]
            assert isinstance(dtype, torch.dtype)
            with self.graph.inserting_before(before):
                if is_mask:
                    source, made = self.saturated(source, made)
                cast = self.graph.call_function(aten.to.dtype, (source, dtype))
            cast.meta = {key: read.meta[key] for key in _KEPT_META if key in read.meta}
            value.nodes[dtype], value.made[dtype] = cast, made.to(dtype)
        return value.nodes[dtype], value.made[dtype]

    def saturated(self, mask: Node, made: Tensor) -> tuple[Node, Tensor]:
        """A mask whose -1e9 is the least number of the type, and no infinity.

        A row in which all is masked has equal shares then, as it had, and not NaN. An infinity
        stays one.
        """
        most = torch.finfo(self.asked.low).max
        clamped = self.graph.call_function(aten.clamp.default, (mask, -most, most))
        infinite = self.graph.call_function(aten.isinf.default, (mask,))
        chosen = self.graph.call_function(aten.where.self, (infinite, mask, clamped))
        return chosen, torch.where(made.isinf(), made, made.clamp(-most, most))

    def forget_casts(self, node: Node) -> None:
        """What was cast of memory that is written now shows what was there before."""
        for base in {memory_of(tensor) for tensor in written_by(node)}:
            for value in self.members[base]:
                value.nodes = {value.native: value.nodes[value.native]}
                value.made = {value.native: value.made[value.native]}


def _is_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point()
