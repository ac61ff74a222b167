"""Regions that the exporter wraps in a call of their own, put back into the graph around them."""

import operator
from typing import Any

import torch
from torch.fx import GraphModule, Node

from worker.engine.errors import UnreadableModelError

WRAPPED_NO_GRAD = torch.ops.higher_order.wrap_with_set_grad_enabled
WRAPPED_AUTOCAST = torch.ops.higher_order.wrap_with_autocast


def inline_regions(module: GraphModule) -> None:
    """Inline what runs without gradients or with autocast switched off; in place.

    Neither changes what is computed. A region that autocast does change stays as it is.

    Raises:
        UnreadableModelError: A region that does not fit its call.
    """
    changed = False
    while calls := [node for node in module.graph.nodes if _is_plain(node)]:
        for call in calls:
            _inline(module, call)
            changed = True
    if changed:
        module.graph.lint()
        module.recompile()


def _is_plain(node: Node) -> bool:
    if node.target is WRAPPED_NO_GRAD:
        return True
    # Arguments: device, dtype, enabled, cache, then the region and what it reads.
    return node.target is WRAPPED_AUTOCAST and not node.args[2]


def _inline(module: GraphModule, call: Node) -> None:
    holder, region, operands = _parts(module, call)
    inputs = [node for node in region.graph.nodes if node.op == "placeholder"]
    if len(inputs) != len(operands):
        raise _malformed(call)
    values: dict[Node, Any] = dict(zip(inputs, operands, strict=True))
    with module.graph.inserting_before(call):
        for node in region.graph.nodes:
            if node.op == "get_attr":  # A region within the region.
                name = f"{holder.target}_{node.target}"
                setattr(module, name, getattr(region, str(node.target)))
                values[node] = module.graph.get_attr(name)
        result = module.graph.graph_copy(region.graph, values)
    outputs: list[Any] = list(result) if isinstance(result, list | tuple) else [result]
    for user in list(call.users):
        part = user.args[1] if user.target is operator.getitem else None
        if not isinstance(part, int) or part >= len(outputs):
            raise _malformed(call)
        user.replace_all_uses_with(outputs[part])
        module.graph.erase_node(user)
    module.graph.erase_node(call)
    if not holder.users:
        module.graph.erase_node(holder)
        delattr(module, str(holder.target))


def _parts(module: GraphModule, call: Node) -> tuple[Node, GraphModule, list[Any]]:
    """The node that names the region, the region, and what it reads."""
    for at, holder in enumerate(call.args):
        region = _region(module, holder) if isinstance(holder, Node) else None
        if region is not None:
            assert isinstance(holder, Node)
            return holder, region, list(call.args[at + 1 :])
    raise _malformed(call)


def _malformed(call: Node) -> UnreadableModelError:
    return UnreadableModelError(
        f"the region that node {call.name!r} runs does not fit it: export the model again"
    )


def _region(module: GraphModule, holder: Node) -> GraphModule | None:
    found = getattr(module, str(holder.target), None) if holder.op == "get_attr" else None
    return found if isinstance(found, GraphModule) else None
