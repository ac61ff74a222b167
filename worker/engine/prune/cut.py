"""Apply a plan: slice the parameters, rewrite the sizes that the graph spells out."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from worker.engine.errors import ExportError
from worker.engine.graph.coupling import Coupling, Lines, kept_along
from worker.engine.graph.registry import RESIZES, Refusal, Resizing
from worker.engine.program import Program, module_path


def cut(coupling: Coupling, keep: Tensor) -> Program:
    """Remove every channel outside of ``keep``, for real.

    The result is exported again, so that all shapes in it are true.

    Args:
        coupling: The analysis of the program. Its program is not changed.
        keep: Bool, ``(channel_count + 1,)``.

    Raises:
        ExportError: A size in the graph could not be rewritten, or the result does not export.
    """
    changed = coupling.program.with_module(cut_module(coupling, keep))
    return Program.from_exported(changed.export())


def cut_module(coupling: Coupling, keep: Tensor) -> GraphModule:
    """The program's graph with fewer channels. It runs; the shapes noted in it are the old ones.

    Raises:
        ExportError: A size in the graph could not be rewritten.
    """
    program = coupling.program
    module = program.copy().module
    originals = list(program.graph.nodes)
    shapes = {
        node: (
            _plain(node, [shape for shape, _ in coupling.node_lines[node]]),
            _plain(node, coupling.shapes(node, keep)),
        )
        for node in originals
        if node in coupling.node_lines
    }
    copies = dict(zip(originals, module.graph.nodes, strict=True))
    before = {copies[node]: pair[0] for node, pair in shapes.items()}
    after = {copies[node]: pair[1] for node, pair in shapes.items()}
    lines = {copies[node]: coupling.node_lines[node] for node in shapes}

    def kept_before(node: Node, dim: int, index: int) -> int:
        shape, own = lines[node][0]
        return int(kept_along(own, dim, shape[dim], keep)[:index].sum())

    for node in list(module.graph.nodes):
        if node.target in RESIZES and _changed(node, before, after):
            _resize(node, Resizing(node, before, after, kept_before))
    _slice_parameters(module, coupling, keep)
    module.recompile()
    return module


def _resize(node: Node, resizing: Resizing) -> None:
    try:
        RESIZES[node.target](resizing)
    except Refusal as refusal:
        raise ExportError(
            f"{node.target} (node {node.name!r}, module {module_path(node)!r}) cannot follow the "
            f"cut: {refusal}; exclude the parameters around it"
        ) from refusal


def _changed(node: Node, before: Mapping[Node, Any], after: Mapping[Node, Any]) -> bool:
    return any(before.get(n) != after.get(n) for n in (node, *node.all_input_nodes))


def _plain(node: Node, shapes: list[tuple[int, ...]]) -> Any:
    """One shape for a tensor, a list for an operator with several outputs."""
    return shapes[0] if isinstance(node.meta["val"], Tensor) else shapes


def _slice_parameters(module: GraphModule, coupling: Coupling, keep: Tensor) -> None:
    done: dict[int, Tensor] = {}
    for name, value in coupling.propagation.parameters.items():
        owner, _, leaf = name.rpartition(".")
        holder = module.get_submodule(owner)
        tensor = getattr(holder, leaf)
        lines = coupling.lines(value)
        if not lines:
            continue
        if id(tensor) not in done:  # A tied weight stays tied.
            done[id(tensor)] = _sliced(tensor, lines, keep)
        if leaf in holder._parameters:  # noqa: SLF001 (setattr refuses another shape's tensor)
            holder._parameters[leaf] = done[id(tensor)]  # type: ignore[assignment]  # noqa: SLF001
        else:
            setattr(holder, leaf, done[id(tensor)])


def _sliced(tensor: Tensor, lines: Lines, keep: Tensor) -> Tensor:
    sliced = tensor.detach()
    for dim in {at for at, _ in lines}:
        kept = kept_along(lines, dim, tensor.shape[dim], keep).nonzero().flatten()
        sliced = sliced.index_select(dim, kept.to(tensor.device))
    sliced = sliced.contiguous()
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(sliced, requires_grad=tensor.requires_grad)
    return sliced
