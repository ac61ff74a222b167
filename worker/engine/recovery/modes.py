"""Switch an exported graph between evaluation and training.

An exported program has its mode written into the graph: ``nn.Module.train`` does nothing to it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from worker.engine.arguments import argument, has_argument, set_argument
from worker.engine.errors import DataMismatchError
from worker.engine.program import Program, module_path

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


RANDOM_IN_TRAINING = (aten.rrelu.default, aten.rrelu_.default)


def batch_norms(module: GraphModule) -> list[Node]:
    """The batch norms with running statistics."""
    return [
        node
        for node in module.graph.nodes
        if node.target == aten.batch_norm.default and argument(node, "running_mean") is not None
    ]


def statistics(module: GraphModule, norm: Node) -> tuple[Tensor, Tensor]:
    """Running mean and variance of a batch norm, each ``(channels,)``; the tensors themselves."""
    names = (str(argument(norm, name).target) for name in ("running_mean", "running_var"))
    mean, variance = (module.get_buffer(name) for name in names)
    return mean, variance


def check_statistics(program: Program) -> None:
    """Check what batch norms learned from data.

    Raises:
        DataMismatchError: A mean or variance is NaN or infinite.
    """
    for norm in batch_norms(program.module):
        if not all(bool(part.isfinite().all()) for part in statistics(program.module, norm)):
            raise DataMismatchError(
                f"the batch norm {module_path(norm) or norm.name!r} found no finite statistics: "
                "there is no variance in one value per channel, and none in NaN; use batches of "
                "at least 2 rows, from a model exported with a dynamic batch"
            )


def training_calls(module: GraphModule) -> list[Node]:
    """Calls that compute something else in training, and were exported for training."""

    def matters(node: Node) -> bool:
        if node.target == aten.batch_norm.default:
            return argument(node, "running_mean") is not None
        return bool(argument(node, "p" if has_argument(node, "p") else "dropout") > 0)

    def draws(node: Node) -> bool:
        if node.target == aten.scaled_dot_product_attention.default:
            return bool(argument(node, "dropout_p") > 0)
        return node.target in RANDOM_IN_TRAINING and bool(argument(node, "training"))

    return [
        node
        for node in module.graph.nodes
        if draws(node)
        or (
            node.target in TRAINING_FLAG
            and argument(node, TRAINING_FLAG[node.target])
            and matters(node)
        )
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
