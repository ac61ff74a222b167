"""Prove a cut: the pruned program computes what the silenced original computes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from worker.engine.difference import relative_error, tolerance
from worker.engine.errors import OutputsDifferError
from worker.engine.graph.coupling import Coupling
from worker.engine.graph.silence import SilencedProgram, StandIns
from worker.engine.inputs import normal_like, shuffled
from worker.engine.program import Program, module_path

_DOES_NOT_RUN = (AssertionError, IndexError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Exactness:
    """How close a cut came to its reference."""

    max_relative_error: float
    exempt_operators: tuple[str, ...]


@torch.no_grad()
def verify_cut(
    coupling: Coupling,
    keep: Tensor,
    pruned: Program,
    *,
    seed: int,
    stand_ins: StandIns | None = None,
) -> Exactness:
    """Compare a pruned program with its silenced original on example and on random inputs.

    Args:
        coupling: Of the original.
        keep: Bool, ``(channel_count + 1,)``.
        pruned: What the cut gave.
        seed: Of the random inputs.
        stand_ins: Of a shift: what the original reads in place of removed channels.

    Raises:
        OutputsDifferError: They differ by more than the tolerance: the cut is wrong.
    """
    silenced = SilencedProgram(coupling, keep, stand_ins)
    examples = coupling.program.example_leaves
    try:
        error = _difference(silenced, pruned, examples, seed)
    except _Untaken as untaken:
        raise OutputsDifferError(
            "the model does not run with the removed channels at zero "
            f"({_first_line(untaken.__cause__)}), so the cut cannot be proved: exclude the "
            "parameters around that operator"
        ) from untaken
    for draw in (normal_like, shuffled):
        leaves = draw(examples, Generator().manual_seed(seed))
        try:
            error = max(error, _difference(silenced, pruned, leaves, seed))
            break
        except _Untaken:
            continue  # Not every model takes any number: some are indices, or must be positive.
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


class _Untaken(Exception):
    """The original does not run on these inputs."""


def _difference(silenced: SilencedProgram, pruned: Program, leaves: list[Any], seed: int) -> float:
    """How far the pruned program is from the silenced original on some inputs.

    Raises:
        _Untaken: The original does not run on them.
        OutputsDifferError: The original does, and the pruned program does not.
    """
    # A model that draws (a VAE) draws the same on both sides.
    with _full_precision():
        torch.manual_seed(seed)
        try:
            expected = silenced.outputs(leaves)
        except torch.OutOfMemoryError:
            raise
        except _DOES_NOT_RUN as error:
            raise _Untaken from error
        torch.manual_seed(seed)
        try:
            return relative_error(pruned.run(leaves), expected)
        except torch.OutOfMemoryError:
            raise
        except _DOES_NOT_RUN as error:
            raise OutputsDifferError(
                f"the pruned program does not run ({_first_line(error)}), so it is not delivered; "
                "this is a defect of the engine: report it with the model, or exclude the "
                "parameters around that operator"
            ) from error


def _first_line(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


@contextmanager
def _full_precision() -> Iterator[None]:
    """Have convolutions on a GPU compute with all 24 bits: by default they use 11 (TF32)."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
