"""The reference for a cut: the original program with the removed channels silenced.

Silenced means that whoever reads a removed channel reads zero, and that a normalization takes its
statistics over the features that are kept, as it will after the cut.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from worker.engine.graph.arguments import argument, operator_of
from worker.engine.graph.coupling import Coupling, kept_along

aten = torch.ops.aten
NORMALIZATIONS = (aten.layer_norm.default, aten.rms_norm.default)


class SilencedProgram(Interpreter):
    """Runs the original graph with silenced channels.

    Knows nothing of slicing or of rewritten sizes: it shares the labels with the cut, no more.
    """

    def __init__(self, coupling: Coupling, keep: Tensor) -> None:
        super().__init__(coupling.program.module)
        self._coupling = coupling
        self._keep = keep

    def run_node(self, n: Node) -> Any:
        # A view, or an operator that writes in place, must see the real tensor, or the write is
        # lost: silencing copies. What reads its result is silenced by the result's own labels.
        if n.target in NORMALIZATIONS and (kept := self._kept_features(n)):
            return self._normalized(n, kept)
        if n.op == "call_function" and not _shares_memory(n):
            saved = {node: self.env[node] for node in n.all_input_nodes if node in self.env}
            for node, value in saved.items():
                self.env[node] = self._silenced(node, value)
            try:
                return super().run_node(n)
            finally:
                self.env.update(saved)
        return super().run_node(n)

    def _kept_features(self, node: Node) -> dict[int, Tensor]:
        """Indices that stay, for each normalized dimension (from the right) that loses some."""
        shape, lines = self._coupling.node_lines[argument(node, "input")][0]
        found: dict[int, Tensor] = {}
        for dim in range(-len(argument(node, "normalized_shape")), 0):
            kept = kept_along(lines, dim % len(shape), shape[dim], self._keep)
            if not bool(kept.all()):
                found[dim] = kept.nonzero().flatten()
        return found

    def _normalized(self, node: Node, kept: Mapping[int, Tensor]) -> Tensor:
        """Normalize the kept features among themselves; the others are never read."""
        (source, shape, *rest), kwargs = self.fetch_args_kwargs_from_env(node)
        wide = torch.zeros_like(source)
        place = [torch.arange(size, device=source.device) for size in source.shape]
        for dim, indices in kept.items():
            place[dim] = indices.to(source.device)
        rank = len(shape)
        features = torch.meshgrid(place[-rank:], indexing="ij")
        within: Any = (..., *features)
        rest = [part[features] if isinstance(part, Tensor) else part for part in rest]
        wide[within] = operator_of(node)(source[within], features[0].shape, *rest, **kwargs)
        return wide

    def _silenced(self, node: Node, value: Any) -> Any:
        if not isinstance(value, Tensor) or node not in self._coupling.node_lines:
            return value
        for dim, channels in self._coupling.node_lines[node][0][1]:
            kept = self._keep[channels].to(value.device)
            if bool(kept.all()):
                continue
            line = [-1 if at == dim else 1 for at in range(value.dim())]
            value = torch.where(kept.view(line), value, value.new_zeros(()))
        return value


def _shares_memory(node: Node) -> bool:
    """Whether the operator writes into what it reads, or returns a view of it."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(given.alias_info is not None for given in schema.arguments)
