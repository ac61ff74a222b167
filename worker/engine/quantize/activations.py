"""Round activations to 256 levels in the graph, in plain ATen."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.fx import Node

from worker.engine.arguments import argument, written_by
from worker.engine.criteria.columns import is_convolution
from worker.engine.draft import Draft
from worker.engine.graph.weights import WeightCall
from worker.engine.program import Program, tensor_value
from worker.engine.quantize.calibrate import HIGHEST, LOWEST, Range
from worker.engine.quantize.points import Point, input_name
from worker.engine.quantize.writes import Writes, is_seen_once

aten = torch.ops.aten

LEAST_SCALE = 1e-12
"""Of a value that is zero everywhere, whose scale would be zero."""


def with_static(
    program: Program, points: Sequence[Point], ranges: Sequence[Range]
) -> tuple[Program, tuple[str, ...]]:
    """Round values to the codes of their ranges, wherever they are read; outputs stay as they are.

    ``value = (clamp(round(x / scale) + zero_point, -128, 127) - zero_point) * scale``, where halves
    are rounded to even numbers: what QuantizeLinear and DequantizeLinear of ONNX compute. A relu or
    another clamp in front of it, of which the codes leave nothing to do, is left out.

    Args:
        program: Not changed.
        points: Values of it.
        ranges: One for each of them.

    Returns:
        The program, exported again, and the names of the rounded values, as
        :mod:`worker.engine.packed` describes them.

    Raises:
        ExportError: The exporter refuses the new graph.
    """
    if not points:
        return program, ()
    draft = Draft(program)
    for point, found in zip(points, ranges, strict=True):
        _round_static(draft, point, found)
    return draft.exported(), tuple(point.name for point in points)


def with_dynamic(program: Program, calls: Sequence[WeightCall]) -> tuple[Program, tuple[str, ...]]:
    """Round what calls read to 256 levels between its least and its largest number, at each run.

    The range is that of the whole tensor, all rows of a batch together, and has zero in it: what
    DynamicQuantizeLinear of ONNX computes. Calls that read one value share what is rounded.
    Convolutions are left alone: none of integers is faster with ranges of the moment.

    Args:
        program: Not changed.
        calls: Weight calls of it.

    Returns:
        The program, exported again, and the names of the rounded values, as
        :mod:`worker.engine.packed` describes them.

    Raises:
        ExportError: The exporter refuses the new graph.
    """
    writes = Writes(program.graph)
    place = {node: at for at, node in enumerate(program.graph.nodes)}
    readers: dict[tuple[Node, int], list[WeightCall]] = {}
    # Weights may be held in another order: it is rounded ahead of the first call that reads it.
    for call in sorted(calls, key=lambda call: place[call.node]):
        value = tensor_value(call.source)
        if not is_convolution(call.node) and value is not None and value.is_floating_point():
            # Between two calls their source may be written in place.
            moment = writes.before(call.node, into=call.source)
            readers.setdefault((call.source, moment), []).append(call)
    if not readers:
        return program, ()
    draft = Draft(program)
    names: list[str] = []
    for (source, _), own in readers.items():
        name = input_name(program, own[0], names)
        names.append(name)
        rounded = _round_dynamic(draft, draft.copies[source], name, draft.copies[own[0].node])
        for call in own:
            draft.copies[call.node].replace_input_with(draft.copies[source], rounded)
    return draft.exported(), tuple(names)


def _round_static(draft: Draft, point: Point, found: Range) -> None:
    graph, value = draft.graph, draft.copies[point.node]
    readers = [reader for reader in value.users if reader.op != "output"]
    with graph.inserting_before(_after(value)):
        scale = _buffer(draft, f"{point.name}_scale", found.scale)
        zero_point = _buffer(draft, f"{point.name}_zero_point", float(found.zero_point))
        code = graph.call_function(aten.div.Tensor, (value, scale))
        code = graph.call_function(aten.round.default, (code,))
        code = graph.call_function(aten.add.Tensor, (code, zero_point))
        code = graph.call_function(aten.clamp.default, (code, LOWEST, HIGHEST))
        code = graph.call_function(aten.sub.Tensor, (code, zero_point))
        rounded = graph.call_function(aten.mul.Tensor, (code, scale))
    for reader in readers:
        reader.replace_input_with(value, rounded)
    if value.op == "call_function":
        _skip_clamps(draft, value, found)


def _skip_clamps(draft: Draft, node: Node, found: Range) -> None:
    """Leave out what only cuts off, behind a layer, what the codes of a range cut off as well.

    Runtimes join a layer with what rounds its output, if nothing stands in between.
    """
    while len(node.users) == 1 and _is_within(node, found):
        source = node.args[0]
        assert isinstance(source, Node)
        if written_by(node) and not is_seen_once(node):
            return  # Others see what it writes.
        node.replace_all_uses_with(source)
        draft.graph.erase_node(node)
        node = source


def _is_within(node: Node, found: Range) -> bool:
    """Whether a call only cuts off at bounds, and the codes of a range end before both."""
    bounds = _bounds(node)
    if bounds is None or any(isinstance(bound, Node) for bound in bounds):
        return False
    low, high = (
        unbounded if bound is None else float(bound)  # type: ignore[arg-type]  # A number.
        for bound, unbounded in zip(bounds, (-np.inf, np.inf), strict=True)
    )
    with np.errstate(over="ignore"):  # A bound may be infinite, or become so.
        codes = np.array([low, high], np.float32) / np.float32(found.scale)
    ends = np.round(codes) + found.zero_point
    return bool(ends[0] <= LOWEST and ends[1] >= HIGHEST)


def _bounds(node: Node) -> tuple[object, object] | None:
    """What a call cuts numbers off at, None for no bound; None for a call of another kind."""
    match node.target:
        case aten.relu.default | aten.relu_.default:
            return 0, None
        case aten.relu6.default | aten.relu6_.default:
            return 0, 6
        case aten.hardtanh.default | aten.hardtanh_.default:
            return argument(node, "min_val"), argument(node, "max_val")
        case aten.clamp.default | aten.clamp_.default:
            return argument(node, "min"), argument(node, "max")
        case aten.clamp_min.default | aten.clamp_min_.default:
            return argument(node, "min"), None
        case aten.dropout.default | aten.dropout_.default if not argument(node, "train"):
            return None, None
        case _:
            return None


def _round_dynamic(draft: Draft, value: Node, name: str, before: Node) -> Node:
    graph = draft.graph

    def call(operator: object, *args: object) -> Node:
        assert callable(operator)
        return graph.call_function(operator, args)  # type: ignore[arg-type]

    with graph.inserting_before(before):
        least = _buffer(draft, f"{name}_least", LEAST_SCALE)
        low = call(aten.clamp_max.default, call(aten.amin.default, value), 0)
        high = call(aten.clamp_min.default, call(aten.amax.default, value), 0)
        span = call(aten.sub.Tensor, high, low)
        scale = call(aten.maximum.default, call(aten.div.Tensor, span, 255), least)
        away = call(aten.div.Tensor, call(aten.neg.default, low), scale)
        zero_point = call(aten.round.default, call(aten.clamp.default, away, 0, 255))
        code = call(aten.round.default, call(aten.div.Tensor, value, scale))
        code = call(aten.clamp.default, call(aten.add.Tensor, code, zero_point), 0, 255)
        return call(aten.mul.Tensor, call(aten.sub.Tensor, code, zero_point), scale)


def _buffer(draft: Draft, name: str, number: float) -> Node:
    device = draft.program.device
    return draft.add(name, torch.tensor(number, dtype=torch.float32, device=device))


def _after(node: Node) -> Node:
    """What a node's value can be worked on in front of: no input may stand behind a call."""
    after = node.next
    while after.op == "placeholder":
        after = after.next
    return after
