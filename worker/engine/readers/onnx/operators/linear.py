"""Matrix products."""

import string

import torch
import torch.nn.functional as F  # noqa: N812 (as everywhere in PyTorch)
from torch import Tensor

from worker.engine.readers.onnx.registry import Call, Unmet, operator


@operator("Gemm")
def gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """Compute ``alpha * A @ B + beta * C``: a linear layer where it is one."""
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    a = a.t() if call.get("transA", 0) else a
    if c is not None and beta == 0.0:
        c = None
    is_bias = c is None or (beta == 1.0 and c.dim() == 1 and c.shape[0] == _columns(call, b))
    if call.get("transB", 0):
        if alpha == 1.0 and is_bias:
            return F.linear(a, b, c)
        b = b.t()
    if c is None:
        product = a @ b
        return product if alpha == 1.0 else product * alpha
    if not a.is_floating_point():
        return (a @ b) * int(alpha) + c * int(beta)
    return torch.addmm(c, a, b, beta=beta, alpha=alpha)


def _columns(call: Call, b: Tensor) -> int:
    return b.shape[0 if call.get("transB", 0) else 1]


@operator("MatMul")
def matmul(_: Call, a: Tensor, b: Tensor) -> Tensor:
    """Compute ``matmul``."""
    return torch.matmul(a, b)


@operator("com.microsoft::FusedMatMul")
def fused_matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """Compute ``alpha * A @ B`` of tensors that are transposed before."""
    if call.get("transBatchA", 0) or call.get("transBatchB", 0):
        raise Unmet("it transposes batches")
    a = a.mT if call.get("transA", 0) else a
    b = b.mT if call.get("transB", 0) else b
    alpha = call.get("alpha", 1.0)
    product = torch.matmul(a, b)
    return product if alpha == 1.0 else product * alpha


@operator("Einsum")
def einsum(call: Call, *operands: Tensor) -> Tensor:
    """Compute ``einsum``."""
    equation = call.get("equation", "").replace(" ", "")
    if not set(equation) <= set(string.ascii_letters + ".,->"):
        raise Unmet(f"its equation is {equation!r}")
    return torch.einsum(equation, *operands)


@operator("Det")
def det(_: Call, x: Tensor) -> Tensor:
    """Compute determinants."""
    return torch.linalg.det(x)
