"""Train through quantization: float weights that are rounded when they are used."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn import Module, Parameter

from worker.engine.coded.chain import Coded, in_sets, made_at, placed, read_back
from worker.engine.coded.rounding import rounded_activations
from worker.engine.draft import Draft
from worker.engine.packed import NOTHING_PACKED
from worker.engine.program import Program, set_attribute

aten = torch.ops.aten


class _Rounding(Module):
    """Rounds a weight to its codes; to gradients it is nothing (the straight-through estimator).

    Source: Bengio, Léonard and Courville (2013), "Estimating or propagating gradients through
    stochastic neurons for conditional computation".
    """

    def __init__(self, weight: Coded) -> None:
        super().__init__()
        self._about, self._grid = weight.about, weight.grid

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            sets = in_sets(weight, self._about).nan_to_num(0.0)
            away = placed(self._grid.decode(self._grid.encode(sets)), self._about) - weight
        return weight + away


class _Straight(Module):
    """Rounds to whole numbers; to gradients it is nothing."""

    def forward(self, value: Tensor) -> Tensor:
        return value + (value.round() - value).detach()


def learner(program: Program) -> Program:
    """The program with float weights, which are rounded to their grids when they are used.

    It computes what the program does, and its weights are parameters under their old names. It is
    for training alone: it is not saved.

    Args:
        program: With codes; it is not changed. All other tensors are copies, too.
    """
    program = program.copy()
    draft = Draft(program)
    module, copies = draft.module, draft.copies
    for number, about in enumerate(program.packed.weights):
        weight = read_back(program, about)
        _hold(module, weight)
        made = copies[made_at(program, about)]
        module.add_submodule(f"rounding_{number}", _Rounding(weight))
        with module.graph.inserting_before(made):
            held = module.graph.get_attr(about.name)
            rounded = module.graph.call_module(f"rounding_{number}", (held,))
        held.meta, rounded.meta = dict(made.meta), dict(made.meta)
        made.replace_all_uses_with(rounded)
    module.add_submodule("straight", _Straight())
    for each in rounded_activations(program):
        _pass_gradients(module, copies[each.result], copies[each.source])
    module.graph.eliminate_dead_code()
    module.recompile()
    return replace(draft.program_as_is(), packed=NOTHING_PACKED)


def _hold(module: GraphModule, weight: Coded) -> None:
    """Make the weight a parameter again, under all of its names."""
    parameter = Parameter(weight.weight)
    for name in weight.about.names:
        owner, _, leaf = name.rpartition(".")
        module.get_submodule(owner).register_parameter(leaf, parameter)


def _pass_gradients(module: GraphModule, result: Node, source: Node) -> None:
    """Let gradients through the rounding of an activation to codes."""
    pending, seen = [result], {source}
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        pending += node.all_input_nodes
        if node.target == aten.round.default:
            with module.graph.inserting_before(node):
                straight = module.graph.call_module("straight", node.args)
            straight.meta = dict(node.meta)
            node.replace_all_uses_with(straight)
            module.graph.erase_node(node)


@torch.no_grad()
def relearned(program: Program, taught: Program) -> Program:
    """The program with what its learner has learned: new codes on the old grids, and all else.

    Args:
        program: With codes; it is not changed.
        taught: From :func:`learner`, trained since.
    """
    found = program.copy()
    tensors = {
        **dict(taught.module.named_parameters(remove_duplicate=False)),
        **dict(taught.module.named_buffers(remove_duplicate=False)),
    }
    own = [
        *found.module.named_parameters(remove_duplicate=False),
        *found.module.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in own:
        if name in tensors:
            tensor.copy_(tensors[name])
    for about in program.packed.weights:
        before = read_back(program, about)
        sets = in_sets(tensors[about.name], about).nan_to_num(0.0)
        after = replace(before, codes=before.grid.encode(sets))
        set_attribute(found.module, about.codes, after.buffers()[about.codes])
    return found
