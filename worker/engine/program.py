"""A program that can be analyzed, changed and trained: the exported graph with its own weights."""

import copy
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import sympy
import torch
from torch import Tensor
from torch._dynamo.exc import UserError
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass
from torch.fx import Graph, GraphModule, Node
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree

from worker.engine.dynamic import (
    dynamic_shapes,
    example_sizes,
    placeholders,
    row_limits,
    unnamed,
)
from worker.engine.errors import ExportError, UnreadableModelError
from worker.engine.inline import inline_regions
from worker.engine.packed import NOTHING_PACKED, Packed
from worker.engine.state import Written, written_in

_HELD = ("_parameters", "_buffers", "_non_persistent_buffers_set")
_Copied = TypeVar("_Copied", Graph, GraphModule)


@dataclass(frozen=True)
class Program:
    """An exported program as one flat graph module, and what is needed to export it again.

    Attributes:
        module: Owns its parameters under their original names.
        args: Positional example inputs.
        kwargs: Example inputs by keyword.
        dynamic_shapes: As ``torch.export.export`` takes them.
        sizes: The number that each symbol of a dynamic dimension has at the example inputs.
        row_limits: Fewest and most rows that one call takes; the most is None where nothing
            limits it, and both are equal where the batch is not dynamic.
        written: What a call changes: a cache, a counter, an input.
        packed: What it makes from codes. No file says it: who reads a program back has to.
    """

    module: GraphModule
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dynamic_shapes: Any
    sizes: Mapping[sympy.Symbol, int]
    row_limits: tuple[int, int | None]
    written: Written
    packed: Packed = field(default=NOTHING_PACKED, kw_only=True)

    @classmethod
    def from_exported(cls, exported: ExportedProgram) -> "Program":
        """Read an exported program, whose tensors are shared with it.

        Raises:
            UnreadableModelError: It has no example inputs, or names that a module cannot have.
        """
        if exported.example_inputs is None:
            raise UnreadableModelError(
                "the file holds no example inputs: save it with torch.export.save(program, path) "
                "from a program made by torch.export.export(model, example_inputs)"
            )
        # Copies: a slice of a data set would take the whole data set along into every saved file.
        args, kwargs = pytree.tree_map_only(Tensor, torch.clone, exported.example_inputs)
        module = _module_of(exported)
        _forget_sources(module)
        _tie(module)
        inline_regions(module)
        leaves = pytree.tree_leaves((args, kwargs))
        return cls(
            module=module,
            args=tuple(args),
            kwargs=dict(kwargs),
            dynamic_shapes=dynamic_shapes(exported, module),
            sizes=example_sizes(module, leaves),
            row_limits=row_limits(exported, module),
            written=written_in(module.graph),
        )

    @property
    def graph(self) -> Graph:
        return self.module.graph

    @property
    def device(self) -> torch.device:
        for tensor in (*self.module.parameters(), *self.module.buffers()):
            return tensor.device
        return torch.device("cpu")

    @property
    def example_leaves(self) -> list[Any]:
        """The example inputs, flat, in the order of the graph's inputs."""
        return pytree.tree_leaves((self.args, self.kwargs))

    @property
    def input_sizes(self) -> list[tuple[int | None, ...] | None]:
        """The size of each dimension of each flat input, None where it is dynamic.

        None for an input that is no tensor.
        """

        def fixed(size: int | torch.SymInt) -> int | None:
            # The exporter leaves a symbol in place of a size that it has found to be one number.
            is_number = isinstance(size, int) or size.node.expr.is_number
            return int(size) if is_number else None

        values = [tensor_value(node) for node in placeholders(self.module)]
        return [value if value is None else tuple(map(fixed, value.shape)) for value in values]

    def rows_per_call(self, wanted: int) -> int:
        """The number of rows nearest to ``wanted`` that one call takes."""
        low, high = self.row_limits
        return max(low, wanted if high is None else min(wanted, high))

    def run(self, leaves: Sequence[Any]) -> list[Tensor]:
        """Run on flat inputs, in the order of the graph's; the outputs are flat too.

        Every call finds what the file holds: what a call writes is gone after it.
        """
        structure = pytree.tree_structure((self.args, self.kwargs))
        with self.unwritten(self.as_taken(leaves)) as own:
            args, kwargs = pytree.tree_unflatten(own, structure)
            outputs = pytree.tree_leaves(self.module(*args, **kwargs))
        return [output for output in outputs if isinstance(output, Tensor)]

    def as_taken(self, leaves: Sequence[Any]) -> list[Any]:
        """Flat inputs with floats in the precision that the program takes: data stays float32."""

        def taken(leaf: Any, example: Any) -> Any:
            both = isinstance(leaf, Tensor) and isinstance(example, Tensor)
            is_float = both and leaf.is_floating_point() and example.is_floating_point()
            return leaf.to(example.dtype) if is_float else leaf

        examples = self.example_leaves
        return [taken(leaf, example) for leaf, example in zip(leaves, examples, strict=True)]

    @contextmanager
    def unwritten(self, leaves: Sequence[Any]) -> Iterator[list[Any]]:
        """Let a call write into copies: of its flat inputs, which it gets, and of the tensors."""
        own = [
            leaf.clone() if at in self.written.inputs else leaf for at, leaf in enumerate(leaves)
        ]
        found = {name: attribute(self.module, name) for name in self.written.tensors}
        originals = {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
        for name, tensor in originals.items():
            set_attribute(self.module, name, tensor.clone())
        try:
            yield own
        finally:
            for name, tensor in originals.items():
                set_attribute(self.module, name, tensor)

    @contextmanager
    def holding(self, tensors: Mapping[str, Tensor]) -> Iterator[None]:
        """Put other tensors in the place of parameters and buffers inside, and back after."""
        before = {name: attribute(self.module, name) for name in tensors}
        for name, tensor in tensors.items():
            is_parameter = isinstance(before[name], torch.nn.Parameter)
            set_attribute(self.module, name, torch.nn.Parameter(tensor) if is_parameter else tensor)
        try:
            yield
        finally:
            for name, held in before.items():
                assert isinstance(held, Tensor)
                set_attribute(self.module, name, held)

    def shape(self, node: Node) -> tuple[int, ...]:
        """The shape of a tensor node at the example inputs."""
        return tuple(self.size(size) for size in node.meta["val"].shape)

    def size(self, size: int | torch.SymInt) -> int:
        """A number for a size, symbolic or not, at the example inputs.

        Raises:
            UnreadableModelError: The size depends on what the inputs hold, not on their shapes.
        """
        if isinstance(size, int):
            return size
        expression = size.node.expr
        if not expression.free_symbols <= self.sizes.keys():
            raise UnreadableModelError(
                f"a tensor has a size ({size}) that depends on the values of the inputs, as after "
                "nonzero, item or a boolean mask: sizes must follow from the shapes of the inputs; "
                "export the model without that part"
            )
        return int(expression.xreplace(dict(self.sizes)))

    def copy(self) -> "Program":
        """The same program with a graph and weights of its own."""
        return self.with_module(_deep_copy(self.module, {}))

    def copied_graph(self) -> Graph:
        """The graph, to be changed."""
        return _deep_copy(self.graph, {})

    def module_with(self, graph: Graph) -> GraphModule:
        """A module that runs a changed copy of the graph, with the tensors of this one."""
        return _deep_copy(self.module, {**_without_weights(self.module), id(self.graph): graph})

    def with_module(self, module: GraphModule) -> "Program":
        """The same inputs, another graph."""
        return replace(self, module=module)

    def to(self, device: str) -> "Program":
        """The program on a device, with the devices that its graph spells out."""
        if self.device == torch.device(device):
            return self
        moved = Program.from_exported(move_to_device_pass(self.export(), device))
        return replace(moved, packed=self.packed)

    def _exported(self, dynamic_shapes: Any) -> ExportedProgram:
        return torch.export.export(
            self.module, self.args, self.kwargs, dynamic_shapes=dynamic_shapes
        )

    def export(self) -> ExportedProgram:
        """Export the module as it is now, with the dynamic dimensions it came with.

        Raises:
            ExportError: The exporter refuses the graph.
        """
        try:
            try:
                return self._exported(self.dynamic_shapes)
            except UserError:
                # A slice of a table up to a dynamic length: the exporter wants a named dimension
                # to end before the table does, and finds that range again for one without a name.
                return self._exported(pytree.tree_map(unnamed, self.dynamic_shapes))
        except Exception as error:
            # Whatever the exporter raises, the file cannot be made: one clear end for the job.
            raise ExportError(
                f"the changed program does not export again ({type(error).__name__}): leave the "
                "parameters around the change as they are (`exclude`, `keep_float`)"
            ) from error


def named_parameters(program: Program) -> list[tuple[tuple[str, ...], torch.nn.Parameter]]:
    """Every parameter once, with all of its names: a tied one has several."""
    names: dict[int, list[str]] = {}
    found: dict[int, torch.nn.Parameter] = {}
    for name, parameter in program.module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
        found[id(parameter)] = parameter
    return [(tuple(names[key]), found[key]) for key in names]


def tensor_value(node: Node) -> Tensor | None:
    """The fake tensor that a node makes, or None for sizes, tuples and nothing."""
    value = node.meta.get("val")
    return value if isinstance(value, Tensor) else None


def attribute(module: torch.nn.Module, name: str) -> object:
    """What a module holds under a dotted name: a parameter, a buffer, a constant or a subgraph."""
    return operator.attrgetter(name)(module)


def set_attribute(module: torch.nn.Module, name: str, tensor: Tensor) -> None:
    """Put a tensor of any shape where another was; a parameter stays a parameter."""
    owner, _, leaf = name.rpartition(".")
    holder = module.get_submodule(owner)
    if leaf in holder._parameters:  # noqa: SLF001 (setattr refuses another shape's tensor)
        holder._parameters[leaf] = tensor  # type: ignore[assignment]  # noqa: SLF001
    else:
        setattr(holder, leaf, tensor)


def module_path(node: Node) -> str:
    """Path of the module that a node came from; empty for the outermost."""
    stack = node.meta.get("nn_module_stack")
    path = str(list(stack.values())[-1][0]) if stack else ""
    # What the exporter adds itself stands outside of every module, under a name of its own.
    return "" if path.startswith("_empty_nn_module_stack") else path


def _deep_copy(original: _Copied, memo: dict[int, Any]) -> _Copied:
    with warnings.catch_warnings():
        # torch 2.13 copies its own deprecated LeafSpec; remove this when it no longer does.
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        return copy.deepcopy(original, memo)


def _without_weights(module: GraphModule) -> dict[int, Any]:
    """What a deep copy has to copy no more: tensors as they are, and modules made anew with them.

    A plain module is a name for what it holds; to copy the dozen empty dictionaries of each takes
    longer than all the rest.
    """
    memo: dict[int, Any] = {}
    names = (str(node.target) for node in module.graph.find_nodes(op="get_attr"))
    constants = (attribute(module, name) for name in names)
    for tensor in (*module.parameters(), *module.buffers(), *constants):
        if isinstance(tensor, Tensor):
            memo[id(tensor)] = tensor
    for part in reversed(list(module.modules())):
        if type(part) is torch.nn.Module:
            twin = object.__new__(torch.nn.Module)
            held = vars(part)
            own = {name: copy.copy(held[name]) for name in _HELD}
            own["_modules"] = {name: memo.get(id(c), c) for name, c in held["_modules"].items()}
            vars(twin).update(held | own)
            memo[id(part)] = twin
    return memo


def _module_of(exported: ExportedProgram) -> GraphModule:
    try:
        module = exported.module(check_guards=False)
    except (AttributeError, KeyError, TypeError, SyntaxError) as error:
        raise UnreadableModelError(
            f"the program does not become a module ({error}): a submodule, parameter or buffer has "
            "a name that modules have for themselves, such as 'graph', 'code' or 'meta', or that "
            "Python has, such as 'else'; rename it and export again"
        ) from error
    assert isinstance(module, GraphModule)
    return module


def _forget_sources(module: GraphModule) -> None:
    """Drop what each node was made from: every export nests it deeper, and the 80th fails."""
    for part in module.modules():
        if isinstance(part, GraphModule):
            for node in part.graph.nodes:
                node.meta.pop("from_node", None)


def _tie(module: GraphModule) -> None:
    """Make all names of one stored tensor names of one object, as before the file was saved."""
    seen: dict[tuple[object, ...], Tensor] = {}
    for part in module.modules():
        for held in (part._parameters, part._buffers):  # noqa: SLF001 (setattr tells no kinds)
            for name, tensor in held.items():
                if tensor is not None and tensor.numel():
                    same = seen.setdefault((type(tensor), *stored_at(tensor)), tensor)
                    held[name] = same  # type: ignore[assignment]


def stored_at(tensor: Tensor) -> tuple[object, ...]:
    """Which memory a tensor shows, and how: its storage says so where it has no data too."""
    storage = StorageWeakRef(tensor.untyped_storage()).cdata  # type: ignore[no-untyped-call]
    shape, stride = tuple(tensor.shape), tensor.stride()
    return storage, tensor.storage_offset(), shape, stride, tensor.dtype
