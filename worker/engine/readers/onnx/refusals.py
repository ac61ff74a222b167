"""What cannot be taken, said before anything runs."""

from collections.abc import Iterator, Sequence

import onnx
from onnx import AttributeProto, ModelProto, NodeProto

from worker.engine.errors import QuantizedModelError, UnsupportedModelError
from worker.engine.readers.onnx.operators import OPERATORS
from worker.engine.readers.onnx.registry import key_of, label_of

OLDEST = 7
NEWEST = onnx.defs.onnx_opset_version()

_QUANTIZED = frozenset(
    (
        "ConvInteger",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
        "QuantizeLinear",
    )
)
_QUANTIZED_STARTS = ("QLinear", "DynamicQuantize", "MatMulNBits", "QAttention", "QGemm")


def check_opsets(model: ModelProto) -> dict[str, int]:
    """The version of each domain; ONNX's own under an empty name.

    Raises:
        UnsupportedModelError: The version of ONNX's own operators is not one that is known.
    """
    found = {
        "" if entry.domain == "ai.onnx" else entry.domain: entry.version
        for entry in model.opset_import
    }
    opset = found.setdefault("", NEWEST)
    if not OLDEST <= opset <= NEWEST:
        raise UnsupportedModelError(
            f"the model is of opset {opset}; opsets {OLDEST} to {NEWEST} can be taken: export it "
            "again for one of them"
        )
    return found


def check_operators(nodes: Sequence[NodeProto]) -> None:
    """Check that every node has a known operator.

    Raises:
        QuantizedModelError: One computes with quantized numbers.
        UnsupportedModelError: Some are not known; all of them are named.
    """
    unknown: dict[str, str] = {}
    for node in _all(nodes):
        if node.op_type in _QUANTIZED or node.op_type.startswith(_QUANTIZED_STARTS):
            raise QuantizedModelError(
                f"the model is already quantized (node {label_of(node)} is {node.op_type}): upload "
                "the float model; pruning comes first, quantization after"
            )
        if key_of(node) not in OPERATORS and node.op_type != "Constant":
            unknown.setdefault(key_of(node), label_of(node))
    if unknown:
        named = ", ".join(f"{name} (first at node {at!r})" for name, at in unknown.items())
        raise UnsupportedModelError(
            f"the model has operators that cannot be taken: {named}; export it without them"
            f"{_hint(unknown)}"
        )


def _hint(unknown: dict[str, str]) -> str:
    if not any("::" in name for name in unknown):
        return ""
    other = [name for name in sorted(OPERATORS) if "::" in name]
    return f". Besides those of ONNX itself these operators can be taken: {', '.join(other)}"


def _all(nodes: Sequence[NodeProto]) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            graphs = [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs
            for graph in graphs:
                yield from _all(graph.node)
