"""Matrix products."""

import torch

from worker.engine.graph.labels import Value
from worker.engine.graph.registry import Call, rule

aten = torch.ops.aten


@rule(aten.linear.default)
def linear(call: Call) -> Value:
    """Couple ``linear(input, weight, bias?)``: ``c`` features in, ``k`` out."""
    bias = call.optional("bias")
    equation = "... c, k c" + ", k" * len(bias) + " -> ... k"
    return call.coupler.equate(
        equation, call.value("input"), call.value("weight"), *bias, output=call.output
    )


@rule(aten.matmul.default)
def matmul(call: Call) -> Value:
    """Couple ``matmul(self, other)``, vectors and leading batch dimensions included."""
    first, second = call.value("self"), call.value("other")
    left = "k" if len(first.shape) == 1 else "... m k"
    right = "k" if len(second.shape) == 1 else "... k n"
    kept = ("m " if "m" in left else "") + ("n" if "n" in right else "")
    lead = "... " if "..." in left + right else ""
    return call.coupler.equate(
        f"{left}, {right} -> {lead}{kept}", first, second, output=call.output
    )


@rule(aten.bmm.default)
def bmm(call: Call) -> Value:
    """Couple ``bmm(self, mat2)``."""
    return call.coupler.equate(
        "b m k, b k n -> b m n", call.value("self"), call.value("mat2"), output=call.output
    )


@rule(aten.mm.default)
def mm(call: Call) -> Value:
    """Couple ``mm(self, mat2)``."""
    return call.coupler.equate(
        "m k, k n -> m n", call.value("self"), call.value("mat2"), output=call.output
    )


@rule(aten.addmm.default)
def addmm(call: Call) -> Value:
    """Couple ``addmm(self, mat1, mat2)``; ``self`` is broadcast."""
    added = call.value("self")
    dims = ["m", "n"][2 - len(added.shape) :]
    return call.coupler.equate(
        f"{' '.join(dims)}, m k, k n -> m n",
        added,
        call.value("mat1"),
        call.value("mat2"),
        output=call.output,
    )


@rule(aten.baddbmm.default)
def baddbmm(call: Call) -> Value:
    """Couple ``baddbmm(self, batch1, batch2)``; ``self`` is broadcast."""
    added = call.value("self")
    dims = ["b", "m", "n"][3 - len(added.shape) :]
    return call.coupler.equate(
        f"{' '.join(dims)}, b m k, b k n -> b m n",
        added,
        call.value("batch1"),
        call.value("batch2"),
        output=call.output,
    )
