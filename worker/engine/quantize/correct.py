"""Let biases make up for what quantization moves in the mean."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from worker.engine.arguments import argument
from worker.engine.config import QuantizeConfig
from worker.engine.criteria.columns import is_convolution
from worker.engine.data import Rows, equal_batches
from worker.engine.draft import Draft
from worker.engine.errors import NotFiniteError
from worker.engine.graph.weights import WeightCall
from worker.engine.program import Program
from worker.engine.quantize.sample import sampled
from worker.engine.recovery.lockstep import Lockstep
from worker.engine.recovery.reconstruct import rows_held
from worker.engine.recovery.setting import Setting

aten = torch.ops.aten


@torch.no_grad()
def bias_corrected(
    quantized: Program,
    reference: Program,
    config: QuantizeConfig,
    rows: Rows,
    setting: Setting,
    calls: Sequence[WeightCall],
) -> Program:
    """Add to each bias what its layer's outputs lack in the mean.

    Layer by layer, in the order of the program: the mean of each output channel over rows and
    positions in the reference, less the one in the quantized program with all biases before it
    corrected. Layers without a bias of their own are left alone. What both programs compute of all
    rows is held until it is read; of more rows than 1 GiB has room for, only so many are used.

    Args:
        quantized: Not changed.
        reference: The float program that it was made from.
        config: How many rows, and how many at once.
        rows: Inputs; targets are not read.
        setting: Its seed chooses rows.
        calls: Weight calls of the reference. In the quantized program each is found by the name of
            its bias.

    Returns:
        The quantized program with other biases, and the same graph.

    Raises:
        DataMismatchError: There are fewer than 16 rows, or a program does not run on them.
        NotFiniteError: A layer gives NaN or infinity.

    Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
    ICCV 2019, section on bias correction: the empirical one.
    """
    draft = Draft(quantized)
    result = draft.program_as_is()
    layers = list(_layers(draft, Draft(reference), calls))
    order = sampled(config, rows, setting)
    if not layers:
        return result
    most = min(rows_held(result, reference, rows), len(order))
    size, count = equal_batches(result, config.batch_size, rows=most)
    batches = [b.inputs for b in rows.batches(result, size, order=order[: size * count])]
    ours, theirs = Lockstep(result, batches), Lockstep(reference, batches)
    for layer in layers:
        if theirs.has_passed(layer.twin):
            continue
        expected = _mean(layer.twin, theirs.run_through(layer.twin))
        ours.run_to(layer.node)
        # Ahead of its turn: it runs once more, with the bias that it then has.
        now = ours.ahead(layer.node)
        before = draft.tensor(layer.bias)
        if now is not None and before is not None:
            lacks = expected - _mean(layer.node, now)  # Nothing, where nothing comes out.
            if not bool(lacks.isfinite().all()):
                raise NotFiniteError(
                    f"on the training data the layer of {layer.bias.target} gives NaN or infinity: "
                    "check the range of the data, and the weights for NaN"
                )
            draft.put(layer.bias, before.double() + lacks)
    return result


@dataclass(frozen=True)
class _Layer:
    """A call with a bias of its own in the quantized program, and the same in the reference."""

    node: Node
    bias: Node
    twin: Node


def _layers(draft: Draft, reference: Draft, calls: Sequence[WeightCall]) -> Iterator[_Layer]:
    """In the order of the quantized program."""
    twins = {}
    for call in calls:
        bias = _bias(reference.copies[call.node])
        tensor = reference.tensor(bias)
        if isinstance(bias, Node) and tensor is not None and tensor.dim() == 1:
            twins[str(bias.target)] = call.node
    for node in draft.graph.nodes:
        bias = _bias(node)
        if isinstance(bias, Node) and draft.is_own(bias) and str(bias.target) in twins:
            twin = twins[str(bias.target)]
            if twin.target == node.target:
                yield _Layer(node, bias, twin)


def _bias(node: Node) -> object:
    if node.op != "call_function":
        return None
    if node.target == aten.linear.default or is_convolution(node):
        return argument(node, "bias")
    is_sum = node.target == aten.addmm.default and argument(node, "beta") == 1
    return argument(node, "self") if is_sum else None


def _mean(node: Node, values: Sequence[Tensor] | Iterator[Tensor]) -> Tensor:
    """The mean of each output channel over all else: float64, ``(channels,)``."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for value in values:
        lines = value.movedim(_channels(node), -1).flatten(0, -2)
        total = total + lines.double().sum(0)
        count += len(lines)
    return total / max(count, 1)


def _channels(node: Node) -> int:
    """The dimension of channels, from the end: a convolution need not have one of rows."""
    if not is_convolution(node):
        return -1
    return 1 - len(argument(node, "weight").meta["val"].shape)
