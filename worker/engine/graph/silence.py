"""The reference for a cut: the original program with the removed channels silenced.

Silenced means that whoever reads a removed channel reads zero, and that a normalization takes its
statistics over the features that are kept, as it will after the cut.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node
from torch.utils import _pytree as pytree

from worker.engine.arguments import operator_of, shares_memory
from worker.engine.graph.coupling import Coupling, kept_along

aten = torch.ops.aten
FEATURE_NORMS = (aten.layer_norm.default, aten.rms_norm.default)
"""Their weights lie along the dimensions that they normalize."""


@dataclass(frozen=True)
class StandIn:
    """Indices of a dimension that are read from others, times a scale each."""

    sources: Tensor
    targets: Tensor
    scales: Tensor

    def put(self, value: Tensor, original: Tensor, dim: int) -> Tensor:
        """The value with what stands in for its sources."""
        shape = [-1 if at == dim else 1 for at in range(value.dim())]
        read = original.index_select(dim, self.targets.to(value.device))
        scaled = read * self.scales.to(value.device, value.dtype).view(shape)
        return value.index_copy(dim, self.sources.to(value.device), scaled)


Where = tuple[Node, Node, int]
"""A reader, what it reads, and a dimension of that."""


@dataclass(frozen=True)
class StandIns:
    """What is read in place of removed channels.

    ``reads`` are of activations; a channel without a stand-in is read as zero. ``whole`` are
    dimensions of weights: what a stand-in is multiplied with are those of the removed channel.
    """

    reads: Mapping[Where, Sequence[StandIn]] = field(default_factory=dict)
    whole: frozenset[Where] = frozenset()


class SilencedProgram(Interpreter):
    """Runs the original graph with silenced channels.

    Knows nothing of slicing or of rewritten sizes: it shares the labels with the cut, no more.
    """

    def __init__(self, coupling: Coupling, keep: Tensor, stand_ins: StandIns | None = None) -> None:
        """Prepare it.

        Args:
            coupling: Of the program.
            keep: Bool, ``(channel_count + 1,)``.
            stand_ins: What is read in place of removed channels; by default zero.
        """
        super().__init__(coupling.program.module)
        self._stand_ins = stand_ins or StandIns()
        self._coupling = coupling
        self._keep = keep
        self._branches = {block.branch for at, block in enumerate(coupling.blocks) if not keep[at]}
        self._normalized = {found.node: found for found in coupling.propagation.normalized}

    def outputs(self, leaves: Sequence[Any]) -> list[Tensor]:
        """Run on flat inputs, as a program does."""
        with self._coupling.program.unwritten(leaves) as own:
            outputs = pytree.tree_leaves(super().run(*own))
        return [output for output in outputs if isinstance(output, Tensor)]

    def run_node(self, n: Node) -> Any:
        if n in self._branches:
            return torch.zeros_like(super().run_node(n))
        if n in self._normalized and (kept := self._kept_features(n)):
            return self._on_kept(n, kept)
        # A view, or an operator that writes in place, must see the real tensor, or the write is
        # lost: silencing copies. What reads its result is silenced by the result's own labels.
        if n.op == "call_function" and not shares_memory(n):
            saved = {node: self.env[node] for node in n.all_input_nodes if node in self.env}
            for node, value in saved.items():
                self.env[node] = self._silenced(n, node, value)
            try:
                return super().run_node(n)
            finally:
                self.env.update(saved)
        return super().run_node(n)

    def _kept_features(self, node: Node) -> dict[int, Tensor]:
        """Indices that stay, for each dimension that statistics run over and that loses some."""
        normalized = self._normalized[node]
        shape, lines = self._coupling.node_lines[normalized.source][0]
        found: dict[int, Tensor] = {}
        for dim in normalized.dims:
            kept = kept_along(lines, dim, shape[dim], self._keep)
            if not bool(kept.all()):
                found[dim] = kept.nonzero().flatten()
        return found

    def _on_kept(self, node: Node, kept: Mapping[int, Tensor]) -> Any:
        """Take statistics over what is kept; where the rest would stand is never read."""
        (source, *rest), kwargs = self.fetch_args_kwargs_from_env(node)
        narrow = _selected(source, kept)
        if node.target in FEATURE_NORMS:
            shape, *vectors = rest
            behind = {dim - source.dim() + len(shape): at for dim, at in kept.items()}
            vectors = [_selected(v, behind) if isinstance(v, Tensor) else v for v in vectors]
            rest = [narrow.shape[-len(shape) :], *vectors]
        if node.target == aten.group_norm.default:  # Of one group; its weights are of channels.
            channels = {0: kept[1]} if 1 in kept else {}
            rest = [_selected(v, channels) if isinstance(v, Tensor) else v for v in rest]
        result = operator_of(node)(narrow, *rest, **kwargs)
        made = self._coupling.node_lines[node][0][0]
        if made != self._coupling.node_lines[self._normalized[node].source][0][0]:
            return result  # A reduction.
        wide = torch.zeros_like(source)
        place = [
            kept.get(dim, torch.arange(size)).to(source.device)
            for dim, size in enumerate(source.shape)
        ]
        wide[torch.meshgrid(place, indexing="ij")] = result
        return wide

    def _silenced(self, reader: Node, node: Node, value: Any) -> Any:
        if not isinstance(value, Tensor) or node not in self._coupling.node_lines:
            return value
        for dim, line in self._coupling.node_lines[node][0][1]:
            kept = self._keep[line.channels].to(value.device)
            if bool(kept.all()) or (reader, node, dim) in self._stand_ins.whole:
                continue
            shape = [-1 if at == dim else 1 for at in range(value.dim())]
            original = value
            value = torch.where(kept.view(shape), value, value.new_zeros(()))
            for stand_in in self._stand_ins.reads.get((reader, node, dim), ()):
                value = stand_in.put(value, original, dim)
        return value


def _selected(tensor: Tensor, kept: Mapping[int, Tensor]) -> Tensor:
    for dim, indices in kept.items():
        tensor = tensor.index_select(dim, indices.to(tensor.device))
    return tensor
