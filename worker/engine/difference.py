"""How far two programs' outputs are apart, and how far rounding alone may bring them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule

from worker.engine.program import Program

# A float32 network of a hundred layers differs by 1e-6 to 1e-5 when its sums run in another order;
# a wrong cut differs by more than a hundredth.
TOLERANCE = 1e-4
# The same, for what has 11 and 8 bits of precision instead of 24.
_MASK = 1e4
LOW_PRECISION = {torch.float16: 1e-2, torch.bfloat16: 5e-2}


# Of int8 activations, whose last step may fall to either side, layer after layer; and of what
# onnxruntime's kernels for codes of 4 and 8 bits round of a block of what they read.
_ROUNDED, _CODED = 0.1, 0.05


def dtypes_of(program: Program) -> set[torch.dtype]:
    """The types of what a program stores and computes."""
    tensors = [
        *program.module.parameters(),
        *(
            node.meta.get("val")
            for part in program.module.modules()
            if isinstance(part, GraphModule)
            for node in part.graph.nodes
        ),
    ]
    return {tensor.dtype for tensor in tensors if isinstance(tensor, Tensor)}


def tolerance(program: Program) -> float:
    """The largest relative error that rounding explains, by the coarsest dtype computed with.

    A program with codes may be computed by a runtime with integers.
    """
    if program.packed.static or program.packed.dynamic:
        return _ROUNDED
    if program.packed:
        return _CODED
    return max([TOLERANCE, *(LOW_PRECISION.get(dtype, 0.0) for dtype in dtypes_of(program))])


def relative_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest difference over the largest finite expected value, masks left out.

    Infinite where shapes or dtypes differ, or where one side alone is NaN or infinite.
    """
    worst = 0.0
    if len(found) != len(expected):
        return float("inf")
    for one, other in zip(found, expected, strict=True):
        if one.shape != other.shape or one.dtype != other.dtype:
            return float("inf")
        if not one.numel():
            continue
        one, other = _real(one), _real(other)
        same = (one == other) | (one.isnan() & other.isnan())
        difference = float(torch.where(same, 0.0, one - other).abs().max())
        # A mask of -1e9 beside logits of 2 is no measure for them.
        counts = other.isfinite() & ~(same & (other.abs() >= _MASK))
        scale = float(torch.where(counts, other, 0.0).abs().max()) or 1.0
        worst = max(worst, difference / scale if math.isfinite(difference) else math.inf)
    return worst


def _real(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).double()
