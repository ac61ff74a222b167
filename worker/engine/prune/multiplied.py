"""The weights that are multiplied with activations, whatever shows them to the call."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import Parameter

from worker.engine.arguments import argument, constants
from worker.engine.config import PruneConfig
from worker.engine.errors import NothingToPruneError
from worker.engine.graph.counts import MACS
from worker.engine.graph.coupling import Coupling
from worker.engine.program import Program, attribute
from worker.engine.prune.plan import unmatched_warning

aten = torch.ops.aten


@dataclass(frozen=True)
class Weight:
    """A weight that is multiplied with activations.

    Attributes:
        parameter: The weight.
        macs: Multiply-accumulates of one element.
        inputs: The dimension that is summed over.
    """

    parameter: Parameter
    macs: float
    inputs: int

    @property
    def zero(self) -> Tensor:
        """What is zero already."""
        return self.parameter.detach().cpu() == 0


_TRANSPOSED = (
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
)
_PRODUCTS = {
    aten.matmul.default: "self",
    aten.mm.default: "self",
    aten.mv.default: "self",
    aten.bmm.default: "self",
    aten.addmm.default: "mat1",
    aten.baddbmm.default: "batch1",
}
"""Matrix products, and their first factor: its columns are the rows of the second."""


def multiplied_weights(
    coupling: Coupling, config: PruneConfig, warnings: list[str]
) -> dict[str, Weight]:
    """The weights of matrix products and convolutions, by name."""
    program = coupling.program
    fixed = constants(program.graph)
    kept = coupling.kept(coupling.everything())
    names = [name for name, _ in program.module.named_parameters(remove_duplicate=False)]
    warnings += [
        unmatched_warning(pattern)
        for pattern in config.exclude
        if not any(fnmatchcase(name, pattern) for name in names)
    ]
    found: dict[str, Weight] = {}
    seen: set[int] = set()
    for node in program.graph.nodes:
        if node.target not in MACS:
            continue
        for operand in node.all_input_nodes:
            name = _parameter_behind(operand, fixed)
            weight = attribute(program.module, name) if name else None
            if not isinstance(weight, Parameter) or weight.dim() < 2 or id(weight) in seen:
                continue
            if name and not any(fnmatchcase(name, pattern) for pattern in config.exclude):
                seen.add(id(weight))
                macs = MACS[node.target](node, kept.shapes) / weight.numel()
                found[name] = Weight(weight, macs, _inputs(program, node, operand))
    if not found:
        raise NothingToPruneError(
            "no weight of a convolution, linear or recurrent layer may become zero: all are "
            "excluded, or there is none",
            pointer="/exclude",
        )
    return found


def _parameter_behind(node: Node, fixed: set[Node]) -> str | None:
    """The parameter that a constant is a view or a permutation of."""
    while node in fixed and node.op != "get_attr" and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return str(node.target) if node.op == "get_attr" else None


def _inputs(program: Program, node: Node, operand: Node) -> int:
    """The dimension of a parameter that a call sums over, through what shows it to the call."""
    chain: list[Node] = []
    while operand.op != "get_attr":
        chain.append(operand)
        operand = operand.all_input_nodes[0]
    shape = program.shape(operand)
    dim = _summed_over(node, (chain or [operand])[0])
    for own in range(len(shape)):
        places = torch.arange(float(shape[own])).view(-1, *[1] * (len(shape) - own - 1))
        shown = places.expand(shape)
        for each in reversed(chain):
            shown = _called(each, shown)
        if bool((shown.diff(dim=dim) != 0).any()):
            return own
    return 1


def _called(node: Node, source: Tensor) -> Tensor:
    """What a call makes of something else than its only source."""
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda _: source)
    assert callable(node.target)
    made = node.target(*args, **kwargs)
    assert isinstance(made, Tensor)
    return made


def _summed_over(node: Node, operand: Node) -> int:
    """The dimension of an operand that a call sums over."""
    if node.target in _TRANSPOSED:
        return 0
    if node.target in _PRODUCTS:
        return -1 if argument(node, _PRODUCTS[node.target]) is operand else -2
    return 1
