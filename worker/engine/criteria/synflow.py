"""Importance by synaptic flow."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node
from torch.nn import Parameter

from worker.engine.arguments import argument
from worker.engine.criteria.gradients import Elements, differentiated
from worker.engine.criteria.slices import summed
from worker.engine.criteria.subject import Slice, Subject
from worker.engine.errors import CriterionError
from worker.engine.program import Program

aten = torch.ops.aten
_NORMS = {
    aten.batch_norm.default: 1,
    aten.group_norm.default: 1,
    aten.instance_norm.default: 1,
    aten.layer_norm.default: -1,
    aten.rms_norm.default: -1,
}
"""The normalizations, and the dimension that their weights lie along."""


def synflow(subject: Subject) -> list[Slice]:
    """Score each channel by ``sum(|w| * dR/d|w|)``, without any data.

    ``R`` is the sum of the outputs of the network with the absolutes of all weights, for inputs of
    ones; a normalization only scales there, by the absolutes of its weights.

    Returns:
        One slice for each dimension of a weight; non-negative, higher is more important. What flows
        into a layer flows out of it, so that scores are comparable between groups.

    Source: Tanaka et al., "Pruning neural networks without any data by iteratively conserving
    synaptic flow", NeurIPS 2020, https://arxiv.org/abs/2006.05467 (there of single weights).
    """
    return summed(subject, synflow_of_weights(subject))


def synflow_of_weights(subject: Subject) -> Elements:
    """``|w| * dR/d|w|`` of every weight, by name, in its shape."""
    program = subject.program
    with torch.enable_grad():
        flow = _AbsoluteProgram(program)
        outputs = [o for o in flow.outputs() if o.is_floating_point() and o.requires_grad]
        if not outputs:
            raise CriterionError(
                "the model's outputs have no gradient to any parameter, so that nothing flows: "
                "export it without detach and no_grad, or use another criterion",
                pointer="/criterion",
            )
        total = sum((output.sum() for output in outputs), start=torch.zeros(()).double())
        leaves = list(flow.absolutes.values())
        found = differentiated(total, leaves)
    terms = [(w * g).detach() for w, g in zip(leaves, found, strict=True)]
    # Of hundreds of layers the product is astronomically large or small; only ratios matter.
    largest = max([float(term.abs().max()) for term in terms if term.numel()], default=0.0) or 1.0
    scaled = {
        tensor: (term.abs() / largest).float().cpu()
        for tensor, term in zip(flow.absolutes, terms, strict=True)
    }
    every = program.module.named_parameters(remove_duplicate=False)
    return {name: scaled[id(weight)] for name, weight in every if id(weight) in scaled}


class _AbsoluteProgram(Interpreter):
    """Runs the graph in float64 with the absolutes of all weights, on inputs of ones."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.module, garbage_collect_values=False)
        self._program = program
        self.absolutes: dict[int, Tensor] = {
            id(weight): weight.detach().double().abs().requires_grad_(True)
            for weight in program.module.parameters()
            if weight.is_floating_point()
        }

    def outputs(self) -> list[Tensor]:
        leaves = [_ones(leaf) for leaf in self._program.example_leaves]
        with self._program.unwritten(leaves) as own:
            made = super().run(*own)
        flat = torch.utils._pytree.tree_leaves(made)  # noqa: SLF001 (torch's own tool for this)
        return [output for output in flat if isinstance(output, Tensor)]

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        found = super().get_attr(target, args, kwargs)
        if isinstance(found, Parameter) and id(found) in self.absolutes:
            return self.absolutes[id(found)]
        is_float = isinstance(found, Tensor) and found.is_floating_point()
        return found.double() if is_float else found

    def run_node(self, n: Node) -> Any:
        if n.target not in _NORMS:
            made = super().run_node(n)
            # What a graph casts to the precision of its weights stays in the precision of the flow.
            return made.double() if isinstance(made, Tensor) and made.is_floating_point() else made
        source = self.env[n.all_input_nodes[0]]
        weight = argument(n, "weight")
        if weight is None:
            return source
        scale = self.env[weight]
        if _NORMS[n.target] == 1:
            scale = scale.view(1, -1, *[1] * (source.dim() - 2))
        return source * scale


def _ones(leaf: Any) -> Any:
    if isinstance(leaf, Tensor) and leaf.is_floating_point():
        return torch.ones_like(leaf, dtype=torch.float64)
    return leaf
