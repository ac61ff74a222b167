"""Prove a cut: the pruned program computes what the silenced original computes."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from worker.engine.errors import OutputsDifferError
from worker.engine.graph.coupling import Coupling
from worker.engine.program import Program, module_path
from worker.engine.prune.silence import SilencedProgram

# A float32 network of a hundred layers differs by 1e-6 to 1e-5 when its sums run in another order;
# a wrong cut differs by more than a hundredth.
TOLERANCE = 1e-4
# The same, for what has 11 and 8 bits of precision instead of 24.
LOW_PRECISION = {torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class Exactness:
    """How close a cut came to its reference."""

    max_relative_error: float
    exempt_operators: tuple[str, ...]


@torch.no_grad()
def verify_cut(coupling: Coupling, keep: Tensor, pruned: Program, *, seed: int) -> Exactness:
    """Compare a pruned program with its silenced original on example and on random inputs.

    Raises:
        OutputsDifferError: They differ by more than the tolerance: the cut is wrong.
    """
    silenced = SilencedProgram(coupling, keep)
    examples = coupling.program.example_leaves
    error = 0.0
    for leaves in (examples, _random_like(examples, seed)):
        # A model that draws (a VAE) draws the same on both sides.
        with _full_precision():
            torch.manual_seed(seed)
            outputs = pytree.tree_leaves(silenced.run(*leaves))
            expected = [output for output in outputs if isinstance(output, Tensor)]
            torch.manual_seed(seed)
            error = max(error, relative_error(pruned.run(leaves), expected))
    allowed = tolerance(coupling.program)
    if not error <= allowed:
        raise OutputsDifferError(
            f"the pruned program differs from its reference by {error:.2g} (relative; at most "
            f"{allowed:g} is allowed), so it is not delivered; this is a defect of the engine: "
            "report it with the model, or exclude the parameters around the change"
        )
    exempt = tuple(
        f"{node.target} ({module_path(node) or node.name})"
        for node in coupling.normalized_with(keep)
    )
    return Exactness(error, exempt)


def tolerance(program: Program) -> float:
    """The largest relative error that rounding explains, by the coarsest dtype of the weights."""
    return max([TOLERANCE, *(LOW_PRECISION.get(p.dtype, 0.0) for p in program.module.parameters())])


@contextmanager
def _full_precision() -> Iterator[None]:
    """Have convolutions on a GPU compute with all 24 bits: by default they use 11 (TF32)."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


def relative_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest difference over the largest finite expected value.

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
        one, other = one.detach().double(), other.detach().double()
        same = (one == other) | (one.isnan() & other.isnan())
        difference = float(torch.where(same, 0.0, one - other).abs().max())
        scale = float(torch.where(other.isfinite(), other, 0.0).abs().max()) or 1.0
        worst = max(worst, difference / scale if math.isfinite(difference) else math.inf)
    return worst


def _random_like(examples: list[Any], seed: int) -> list[Any]:
    """Inputs of the same shapes: normal floats; whole numbers drawn from those of the example."""
    generator = torch.Generator().manual_seed(seed)

    def draw(example: Any) -> Any:
        if not isinstance(example, Tensor) or not example.numel():
            return example
        if example.is_floating_point():
            return torch.randn(example.shape, generator=generator).to(example)
        picks = torch.randint(example.numel(), example.shape, generator=generator)
        return example.flatten()[picks.to(example.device)]

    return [draw(example) for example in examples]
