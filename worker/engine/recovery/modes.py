"""Switch an exported graph between evaluation and training.

An exported program has its mode written into the graph: ``nn.Module.train`` does nothing to it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.fx import GraphModule, Node

from worker.engine.graph.arguments import argument, set_argument

aten = torch.ops.aten

TRAINING_FLAG = {
    aten.batch_norm.default: "training",
    aten.dropout.default: "train",
    aten.dropout_.default: "train",
    aten.alpha_dropout.default: "train",
    aten.feature_dropout.default: "train",
    aten.lstm.input: "train",
    aten.gru.input: "train",
    aten.rnn_tanh.input: "train",
    aten.rnn_relu.input: "train",
}
"""The argument that tells training from evaluation, for each operator that has one."""


def batch_norms(module: GraphModule) -> list[Node]:
    """The batch norms with running statistics."""
    return [
        node
        for node in module.graph.nodes
        if node.target == aten.batch_norm.default and argument(node, "running_mean") is not None
    ]


@contextmanager
def training(module: GraphModule) -> Iterator[None]:
    """Train inside, evaluate after: batch norms use the batch, dropout drops."""
    with flags(
        module,
        [
            (node, TRAINING_FLAG[node.target], True)
            for node in module.graph.nodes
            if node.target in TRAINING_FLAG
        ],
    ):
        yield


@contextmanager
def flags(module: GraphModule, changes: list[tuple[Node, str, object]]) -> Iterator[None]:
    """Set arguments of nodes inside, and set them back after."""
    saved = [(node, name, argument(node, name)) for node, name, _ in changes]
    try:
        for node, name, value in changes:
            set_argument(node, name, value)
        module.recompile()
        yield
    finally:
        for node, name, value in saved:
            set_argument(node, name, value)
        module.recompile()
