"""The reference for a cut: the original program with the removed channels silenced.

Silenced means that whoever reads a removed channel reads zero, and that a normalization takes its
statistics over the features that are kept, as it will after the cut.
"""

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
        # An operator that writes in place must see the real tensor, or its write is lost; it acts
        # on each element alone, and what reads its result is silenced again.
        if n.target in NORMALIZATIONS and (kept := self._kept_features(n)) is not None:
            return self._normalized(n, kept)
        if n.op == "call_function" and not _writes(n):
            saved = {node: self.env[node] for node in n.all_input_nodes if node in self.env}
            for node, value in saved.items():
                self.env[node] = self._silenced(node, value)
            try:
                return super().run_node(n)
            finally:
                self.env.update(saved)
        return super().run_node(n)

    def _kept_features(self, node: Node) -> Tensor | None:
        """Indices of the last dimension that stay, where some go."""
        shape, lines = self._coupling.node_lines[argument(node, "input")][0]
        kept = kept_along(lines, len(shape) - 1, shape[-1], self._keep)
        return None if bool(kept.all()) else kept.nonzero().flatten()

    def _normalized(self, node: Node, kept: Tensor) -> Tensor:
        """Normalize the kept features among themselves; the others are never read."""
        (source, shape, *rest), kwargs = self.fetch_args_kwargs_from_env(node)
        kept = kept.to(source.device)
        rest = [part[..., kept] if isinstance(part, Tensor) else part for part in rest]
        narrow = operator_of(node)(source[..., kept], [*shape[:-1], len(kept)], *rest, **kwargs)
        return torch.zeros_like(source).index_copy(source.dim() - 1, kept, narrow)

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


def _writes(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return bool(schema is not None and schema.is_mutable)
