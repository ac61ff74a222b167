"""Apply a plan: slice the parameters, rewrite the sizes that the graph spells out."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from worker.engine.arguments import memory_of, written_by
from worker.engine.errors import ExportError
from worker.engine.graph.coupling import Coupling, Kept, Lines, kept_along
from worker.engine.graph.registry import RESIZES, Resizing
from worker.engine.program import Program, attribute, module_path, set_attribute

aten = torch.ops.aten


def cut(coupling: Coupling, keep: Tensor) -> Program:
    """Remove every channel outside of ``keep``, for real.

    The result is exported again, so that all shapes in it are true. It shares the tensors that lose
    nothing with the program.

    Args:
        coupling: The analysis of the program. Its program is not changed.
        keep: Bool, ``(channel_count + 1,)``.

    Raises:
        ExportError: The result does not export, or not with the same dynamic dimensions.
    """
    changed = coupling.program.with_module(cut_module(coupling, keep))
    result = Program.from_exported(changed.export())
    if result.input_sizes != changed.input_sizes:
        raise ExportError(
            f"the pruned program takes inputs of shapes {result.input_sizes} where the model takes "
            f"{changed.input_sizes} (None is any size): export the model with other dynamic shapes"
        )
    return result


def cut_module(coupling: Coupling, keep: Tensor) -> GraphModule:
    """The program's graph with fewer channels. It runs; the shapes noted in it are the old ones."""
    program = coupling.program
    graph = program.copied_graph()
    if coupling.blocks:
        kept = coupling.kept(keep)
        _drop_blocks(graph, kept)
        module = program.module_with(graph)
        for name in kept.gone_parameters:
            owner, _, leaf = name.rpartition(".")
            delattr(module.get_submodule(owner), leaf)
        return module
    constants: dict[str, Tensor] = {}
    _rewrite_sizes(graph, coupling, keep, constants)
    module = program.module_with(graph)
    for name, tensor in constants.items():
        set_attribute(module, name, tensor)
    _slice_parameters(module, coupling, keep)
    return module


@dataclass(frozen=True)
class WrittenSize:
    """Whole numbers that a call spells out, and what a cut makes of them."""

    module: str
    operator: str
    before: list[int]
    after: list[int]


def written_sizes(coupling: Coupling, keep: Tensor) -> list[WrittenSize]:
    """The sizes that a cut rewrites, in the order of the graph."""
    if coupling.blocks or bool(keep.all()):
        return []
    return _rewrite_sizes(coupling.program.copied_graph(), coupling, keep, {})


def _rewrite_sizes(
    graph: Graph, coupling: Coupling, keep: Tensor, constants: dict[str, Tensor]
) -> list[WrittenSize]:
    """Rewrite the sizes that a copy of the program's graph spells out; collect new constants."""
    program = coupling.program
    originals = list(program.graph.nodes)
    kept = coupling.kept(keep)
    copies = dict(zip(originals, graph.nodes, strict=True))
    before: dict[Node, Any] = {}
    after: dict[Node, Any] = {}
    for node, tensors in coupling.node_lines.items():
        before[copies[node]] = _plain(node, [shape for shape, _ in tensors])
        after[copies[node]] = _plain(node, kept.shapes(node))
    lines = {copies[node]: tensors for node, tensors in coupling.node_lines.items()}

    def kept_before(node: Node, dim: int, index: int) -> int:
        shape, own = lines[node][0]
        return int(kept_along(own, dim, shape[dim], keep)[:index].sum())

    found = []
    for node in list(graph.nodes):
        if node.target in RESIZES and _changed(node, before, after):
            name, old = str(node.target), _numbers(node)
            resize = RESIZES[node.target]
            resize(Resizing(node, before, after, kept_before, program.module, constants))
            if (new := _numbers(node)) != old:
                found.append(WrittenSize(module_path(node), name, *_differing(old, new)))
    return found


def _numbers(node: Node) -> list[list[int]]:
    """The whole numbers among the arguments of a call, an argument each; -1 for computed ones."""

    def whole(value: Any) -> int:
        return value if isinstance(value, int) and not isinstance(value, bool) else -1

    return [
        [whole(number) for number in (given if isinstance(given, list | tuple) else [given])]
        for given in (*node.args, *node.kwargs.values())
    ]


def _differing(old: list[list[int]], new: list[list[int]]) -> tuple[list[int], list[int]]:
    pairs = zip_longest(old, new, fillvalue=list[int]())
    return next((was, now) for was, now in pairs if was != now)


def _changed(node: Node, before: Mapping[Node, Any], after: Mapping[Node, Any]) -> bool:
    return any(before.get(n) != after.get(n) for n in (node, *node.all_input_nodes))


def _plain(node: Node, shapes: list[tuple[int, ...]]) -> Any:
    """One shape for a tensor, a list for an operator with several outputs."""
    return shapes[0] if isinstance(node.meta["val"], Tensor) else shapes


def _slice_parameters(module: GraphModule, coupling: Coupling, keep: Tensor) -> None:
    done: dict[int, Tensor] = {}
    kept = _KeptIndices(keep)
    for name, (_, lines) in coupling.parameter_lines.items():
        if not lines:
            continue
        tensor = attribute(module, name)
        assert isinstance(tensor, Tensor)
        if id(tensor) not in done:  # A tied weight stays tied.
            done[id(tensor)] = _sliced(tensor, lines, kept)
        set_attribute(module, name, done[id(tensor)])


class _KeptIndices:
    """Indices that stay, found once for each line."""

    def __init__(self, keep: Tensor) -> None:
        self._keep = keep
        self._found: dict[tuple[int, ...], Tensor] = {}

    def along(self, lines: Lines, dim: int, size: int) -> Tensor:
        """Of a dimension: int64, sorted."""
        numbers = tuple(line.number for at, line in lines if at == dim)
        if numbers not in self._found:
            kept = kept_along(lines, dim, size, self._keep)
            self._found[numbers] = kept.nonzero().flatten()
        return self._found[numbers]


def _sliced(tensor: Tensor, lines: Lines, kept: _KeptIndices) -> Tensor:
    sliced = tensor.detach()
    for dim in {at for at, _ in lines}:
        indices = kept.along(lines, dim, tensor.shape[dim])
        sliced = sliced.index_select(dim, indices.to(tensor.device))
    sliced = sliced.contiguous()
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(sliced, requires_grad=tensor.requires_grad)
    return sliced


def _drop_blocks(graph: Graph, kept: Kept) -> None:
    """Leave out what the blocks that go add, and all that was there for them alone."""
    originals = list(kept.coupling.program.graph.nodes)
    copies = dict(zip(originals, graph.nodes, strict=True))
    written = [{memory_of(tensor) for tensor in written_by(node)} for node in originals]
    for at, block in enumerate(kept.coupling.blocks):
        if kept.keep[at]:
            continue
        end = copies[block.sum]
        stays = end.args[block.sum.args.index(block.kept)]
        assert isinstance(stays, Node)
        is_one = block.sum.target == aten.add_.Tensor and block.sum.args[0] is block.kept
        later = set[Node]().union(*written[originals.index(block.sum) + 1 :])
        if not is_one and later & {memory_of(block.sum), memory_of(block.kept)}:
            # What is written into the sum was never written into what it was made of, nor back.
            with graph.inserting_before(end):
                stays = graph.call_function(aten.clone.default, (stays,))
        end.replace_all_uses_with(stays)
        graph.erase_node(end)
    for node in reversed(originals):
        if node in kept.gone:
            graph.erase_node(copies[node])
