"""Importance by the scale that a batch norm gives to a channel."""

import torch

from worker.engine.arguments import argument
from worker.engine.criteria.subject import Slice, Subject

aten = torch.ops.aten


def batch_norm_scale(subject: Subject) -> list[Slice]:
    """Score each channel by ``|gamma|`` of the batch norms that it goes through.

    Returns:
        One slice for each batch norm; non-negative, higher is more important. A channel that goes
        through none is in no slice.

    Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming",
    ICCV 2017, https://arxiv.org/abs/1708.06519.
    """
    found = []
    flow = subject.flow
    for node in subject.program.graph.nodes:
        if node.target != aten.batch_norm.default:
            continue
        weight = argument(node, "weight")
        if weight is None or weight not in flow.constants:
            continue
        ((_, lines),) = subject.coupling.node_lines[weight]
        for _, line in lines:
            found.append(subject.gathered(line, flow.value(weight).abs(), "amax"))
    return found
