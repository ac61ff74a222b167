"""Tell a model whose weights are integers already: there is nothing left to prune in it."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node

from worker.engine.arguments import constants
from worker.engine.errors import QuantizedModelError
from worker.engine.graph.counts import MACS
from worker.engine.program import Program, attribute

_EIGHT_BIT_FLOATS = (
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
)
NAMESPACES = ("quantized", "quantized_decomposed", "_quantized")
PRODUCTS = ("_int_mm", "_scaled_mm", "_weight_int4pack_mm", "_weight_int8pack_mm")
"""Operators of ATen that multiply by a quantized weight."""

_CASTS = {"_to_copy", "contiguous", "clone", "detach", "lift_fresh_copy", "to", "type_as"}
_ARITHMETIC = {"add", "add_", "div", "div_", "mul", "mul_", "rsub", "sub", "sub_"}
_SHAPES = {
    "_unsafe_view",
    "alias",
    "expand",
    "flatten",
    "permute",
    "repeat_interleave",
    "reshape",
    "select",
    "slice",
    "squeeze",
    "t",
    "transpose",
    "unflatten",
    "unsqueeze",
    "view",
}
_PACKING = {"__lshift__", "__or__", "bitwise_left_shift", "bitwise_or", "cat", "stack"}
UNPACKING = {"__and__", "__rshift__", "bitwise_and", "bitwise_right_shift"}
PASSED = _CASTS | _ARITHMETIC | _SHAPES | _PACKING | UNPACKING
"""What stands between the stored integers and the weight: unpacking, a cast, an offset, a scale."""


def check_not_quantized(program: Program) -> None:
    """Check that the weights are floats, as they are before a quantization.

    Raises:
        QuantizedModelError: The program calls a quantized operator, or makes the weight of a matrix
            product or a convolution from stored integers or 8-bit floats.
    """
    constant = constants(program.graph)
    for node in program.graph.nodes:
        if node.op == "call_function" and _is_quantized_call(node):
            raise QuantizedModelError(_explained(f"it calls {node.target}"))
        for weight in node.all_input_nodes if node.target in MACS else ():
            for name, stored in _made_from(program, weight, constant):
                if stored.dtype in _EIGHT_BIT_FLOATS or _is_a_weight(stored):
                    made = f"{node.target} reads a weight made from {name}, {stored.dtype}"
                    raise QuantizedModelError(_explained(made))


def _explained(found: str) -> str:
    return (
        f"the model is already quantized ({found}): upload the float model; pruning comes first, "
        "quantization after"
    )


def _is_quantized_call(node: Node) -> bool:
    namespace, name = _names(node)
    return namespace in NAMESPACES or name in PRODUCTS


def _names(node: Node) -> tuple[str, str]:
    """Namespace and name of an operator; empty for what is none."""
    if not isinstance(node.target, OpOverload):
        return "", ""
    namespace, name, _ = str(node.target).split(".")
    return namespace, name


def _made_from(program: Program, weight: Node, constant: set[Node]) -> Iterator[tuple[str, Tensor]]:
    """The stored tensors that a weight is made from, wide integers only where they are unpacked."""
    pending, seen = [(weight, False)], {(weight, False)}
    while pending:
        node, is_unpacked = pending.pop()
        if node not in constant:
            continue
        if node.op == "get_attr":
            stored = attribute(program.module, str(node.target))
            if isinstance(stored, Tensor) and (stored.element_size() == 1 or is_unpacked):
                yield str(node.target), stored
        elif (name := _names(node)[1]) in PASSED:
            sources = {(s, is_unpacked or name in UNPACKING) for s in node.all_input_nodes}
            pending += sources - seen
            seen |= sources


def _is_a_weight(stored: Tensor) -> bool:
    """Whether these are numbers: no mask, which is of zeros and ones, and no list of shifts."""
    if stored.is_floating_point() or stored.is_complex() or stored.dtype == torch.bool:
        return False
    return stored.dim() > 1 and bool(((stored != 0) & (stored != 1)).any())
