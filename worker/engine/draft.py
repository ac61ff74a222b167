"""A copy of a program that is being changed: its graph, and its tensors by name."""

from collections import Counter
from collections.abc import Collection
from functools import cached_property
from itertools import count

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from worker.engine.program import Program, attribute, set_attribute


class Draft:
    """A module of its own, whose tensors are the program's until others are put in their place."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.module: GraphModule = program.module_with(program.copied_graph())
        self.copies: dict[Node, Node] = dict(
            zip(program.graph.nodes, self.module.graph.nodes, strict=True)
        )

    @property
    def graph(self) -> Graph:
        return self.module.graph

    def tensor(self, node: object) -> Tensor | None:
        """What a node reads from the module, which no call changes; None where it is another."""
        if not isinstance(node, Node) or node.op != "get_attr":
            return None
        name = str(node.target)
        found = attribute(self.module, name)
        is_constant = isinstance(found, Tensor) and name not in self.program.written.tensors
        return found.detach() if is_constant and isinstance(found, Tensor) else None

    def is_own(self, node: object) -> bool:
        """Whether a node is a floating-point parameter with one reader, by whatever name."""
        tensor = self.tensor(node)
        if tensor is None or not isinstance(node, Node) or not tensor.is_floating_point():
            return False
        name = str(node.target)
        is_parameter = isinstance(attribute(self.module, name), torch.nn.Parameter)
        return is_parameter and self._readers[name] == 1

    @cached_property
    def _readers(self) -> dict[str, int]:
        """How many calls read the tensor of a name, by whatever name."""
        read = self.program.graph.find_nodes(op="get_attr")
        held = {str(node.target): id(attribute(self.module, str(node.target))) for node in read}
        counts = Counter(held[str(node.target)] for node in read for _ in node.users)
        return {name: counts[each] for name, each in held.items()}

    def put(self, node: Node, value: Tensor) -> None:
        """Give the parameter that a node reads another value; the tensor that it was stays."""
        name = str(node.target)
        before = attribute(self.module, name)
        assert isinstance(before, torch.nn.Parameter)
        after = torch.nn.Parameter(value.to(before.dtype).contiguous(), before.requires_grad)
        set_attribute(self.module, name, after)

    def add(self, name: str, value: Tensor) -> Node:
        """Have a new parameter or buffer, under a name that is free; gives a node that reads it."""
        owner, _, leaf = name.rpartition(".")
        holder = self.module.get_submodule(owner)
        if isinstance(value, torch.nn.Parameter):
            holder.register_parameter(leaf, value)
            self._readers[name] = 1
        else:
            holder.register_buffer(leaf, value)
        return self.graph.get_attr(name)

    def drop(self, name: str) -> None:
        """Forget what the module has under a name, if anything, unless somebody reads it."""
        readers = [n for n in self.graph.find_nodes(op="get_attr") if str(n.target) == name]
        if any(node.users for node in readers) or not self.has(name):
            return
        for node in readers:
            self.graph.erase_node(node)
        owner, _, leaf = name.rpartition(".")
        delattr(self.module.get_submodule(owner), leaf)

    def has(self, name: str) -> bool:
        try:
            attribute(self.module, name)
        except AttributeError:
            return False
        return True

    def program_as_is(self) -> Program:
        """With other tensors of the same shapes, and the same graph."""
        return self.program.with_module(self.module)

    def exported(self) -> Program:
        """Exported and read again: all that is noted in the graph is true.

        Raises:
            ExportError: The exporter refuses the graph.
        """
        self.module.recompile()
        return Program.from_exported(self.program_as_is().export())


def free_name(
    module: GraphModule,
    wanted: str,
    *,
    endings: Collection[str] = ("",),
    taken: Collection[str] = (),
) -> str:
    """A name that a module has with none of the endings, and that is not taken.

    Args:
        module: Whose names are looked at. The part before the last dot has to be a module in it.
        wanted: The name, if it is free; else with the first number that makes it free.
        endings: What names begin with it.
        taken: Names that are promised to others.
    """
    owner, _, leaf = wanted.rpartition(".")
    holder = module.get_submodule(owner)
    for number in count():
        own = f"{leaf}_{number}" if number else leaf
        name = f"{owner}.{own}" if owner else own
        # A bias of None is a name, and free.
        is_held = any(getattr(holder, own + ending, None) is not None for ending in endings)
        if name not in taken and not is_held:
            return name
    raise AssertionError("numbers do not end")
