"""Matrix products."""

import torch

from worker.engine.arguments import argument
from worker.engine.graph.equation import einsum_terms
from worker.engine.graph.labels import Value
from worker.engine.graph.registry import Call, Refusal, rule

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
        f"{left}, {right} -> {lead}{kept}",
        first,
        second,
        output=call.output,
        heads=call.numbering("..."),
    )


@rule(aten.bmm.default)
def bmm(call: Call) -> Value:
    """Couple ``bmm(self, mat2)``."""
    return call.coupler.equate(
        "b m k, b k n -> b m n",
        call.value("self"),
        call.value("mat2"),
        output=call.output,
        heads=call.numbering("b"),
    )


@rule(aten.mm.default)
def mm(call: Call) -> Value:
    """Couple ``mm(self, mat2)``."""
    return call.coupler.equate(
        "m k, k n -> m n", call.value("self"), call.value("mat2"), output=call.output
    )


@rule(aten.mv.default)
def mv(call: Call) -> Value:
    """Couple ``mv(self, vec)``."""
    return call.coupler.equate(
        "m k, k -> m", call.value("self"), call.value("vec"), output=call.output
    )


@rule(aten.dot.default, aten.vdot.default)
def dot(call: Call) -> Value:
    """Couple ``dot(self, other)``."""
    return call.coupler.equate("k, k -> ", *call.tensors(), output=call.output)


@rule(aten.outer.default)
def outer(call: Call) -> Value:
    """Couple ``outer(self, vec2)``."""
    return call.coupler.equate("m, n -> m n", *call.tensors(), output=call.output)


@rule(aten.cosine_similarity.default)
def cosine_similarity(call: Call) -> Value:
    """Couple ``cosine_similarity(x1, x2, dim)``: removed channels add nothing to it."""
    first, second = call.value("x1"), call.value("x2")
    names = [f"d{at}" for at in range(max(len(first.shape), len(second.shape)))]
    operands = [" ".join(names[len(names) - len(one.shape) :]) for one in (first, second)]
    del names[call.argument("dim")]
    return call.coupler.equate(
        f"{', '.join(operands)} -> {' '.join(names)}", first, second, output=call.output
    )


@rule(aten.bilinear.default)
def bilinear(call: Call) -> Value:
    """Couple ``bilinear(input1, input2, weight, bias?)``."""
    bias = call.optional("bias")
    return call.coupler.equate(
        f"... a, ... b, k a b{', k' * len(bias)} -> ... k",
        call.value("input1"),
        call.value("input2"),
        call.value("weight"),
        *bias,
        output=call.output,
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
        heads=call.numbering("b"),
    )


@rule(aten.einsum.default)
def einsum(call: Call) -> Value:
    """Couple ``einsum``: its letters are the factors."""
    operands = [call.of(node) for node in argument(call.node, "tensors")]
    terms, output = einsum_terms(call.argument("equation"))
    if any(len(set(term)) < len(term) for term in terms):
        raise Refusal("an einsum over a diagonal")
    equation = ", ".join(" ".join(term) for term in terms)
    letters = [letter for term in terms for letter in term]
    shared = [letter for letter in output if letters.count(letter) > 1]
    return call.coupler.equate(
        f"{equation} -> {' '.join(output)}",
        *operands,
        output=call.output,
        heads=call.numbering(*shared),
    )
