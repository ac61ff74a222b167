"""Give layers the weights that restore their outputs best from what is left of their inputs."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, Tensor

from worker.engine.config import ReconstructConfig
from worker.engine.data import Rows, equal_batches
from worker.engine.errors import NotFiniteError
from worker.engine.graph.coupling import Coupling
from worker.engine.program import Program, attribute
from worker.engine.recovery.layers import Layer, solvable
from worker.engine.recovery.least_squares import Sums, solve
from worker.engine.recovery.lockstep import Lockstep, held_bytes
from worker.engine.recovery.remaining import Remaining

MEMORY_BYTES = 2**30
"""What all activations that are held at once may take."""

_LARGEST = 2**13
"""Columns and outputs of one layer, in all: sums of their products take half a gibibyte."""

# Positions of a convolution are many and alike: of each layer as many, and twice its columns.
_ROWS = 2**16
# One in so many rows is held out.
_PARTS = 4
_TINY = 1e-6
_MOST_NAMED = 5


@dataclass(frozen=True)
class Reference:
    """A program before anything was cut, and which indices of its parameters are left."""

    program: Program
    remaining: Remaining

    @classmethod
    def of(cls, program: Program) -> "Reference":
        """Of a program from which nothing is gone; what changes it later changes this no more."""
        return cls(program.copy(), Remaining())

    def after(self, coupling: Coupling, keep: Tensor) -> "Reference":
        """The same, once more is cut. See :meth:`Remaining.after`."""
        return replace(self, remaining=self.remaining.after(coupling, keep))


@torch.no_grad()
def reconstruct(
    program: Program,
    reference: Reference,
    config: ReconstructConfig,
    rows: Rows,
    *,
    seed: int,
    on_progress: Callable[[int, int], None],
    sparse: Collection[str] = (),
) -> list[str]:
    """Solve for the weights of every layer whose inputs are not what they were.

    Layer by layer, in the order of the program: from what the layer reads in the program as it is
    by then, its errors so far included, to what it gave in the reference. Where its output is added
    to another, it makes up for what that one lacks. Biases are solved for too; where there is none,
    the mean that a batch norm subtracts takes their place. Each layer's damping is the one of least
    error on a fourth of the rows.

    Args:
        program: Changed; tensors that it shares with others are not.
        reference: What its layers gave before.
        config: How many rows, and how many at once.
        rows: Inputs; targets are not read.
        seed: Chooses rows, and positions where there are many.
        on_progress: Told layers done, of how many.
        sparse: Names of parameters whose zeros stay: they are left as they are.

    Returns:
        Warnings: what was left as it is, and whether memory allowed fewer rows than asked.

    Raises:
        DataMismatchError: The program does not run on the rows.
        NotFiniteError: A layer reads or gave NaN or infinity.
    """
    layers = solvable(program, reference.program, reference.remaining, but=sparse)
    fitting = [layer for layer in layers if _size(layer) <= _LARGEST]
    warnings = _left(program, reference.remaining, fitting, sparse)
    if not fitting:
        return warnings
    order = np.random.default_rng(seed).permutation(len(rows))[: config.sample_count]
    most = rows_held(program, reference.program, rows)
    if most < len(order):
        warnings.append(
            f"reconstruct: {most} of {len(order)} rows are used: what the model computes of one "
            f"takes {MEMORY_BYTES // most:,} bytes, and {MEMORY_BYTES:,} are for all of them"
        )
    size, count = equal_batches(program, config.batch_size, rows=min(most, len(order)))
    batches = [batch.inputs for batch in rows.batches(program, size, order=order[: size * count])]
    ours = Lockstep(program, batches, unready=[layer.node for layer in fitting])
    theirs = Lockstep(reference.program, batches)
    generator = Generator().manual_seed(seed)
    for done, layer in enumerate(fitting, start=1):
        ours.run_to(layer.node)
        if not theirs.has_passed(layer.twin):
            _refit(layer, ours, theirs, config.damping, generator)
        on_progress(done, len(fitting))
    return warnings


def _size(layer: Layer) -> int:
    _, columns, outputs = layer.start.shape
    return columns + outputs


def rows_held(program: Program, reference: Program, rows: Rows) -> int:
    """How many rows may be held at once."""
    held = max(held_bytes(program) + held_bytes(reference), 1)
    examples = [leaf for leaf in program.example_leaves if isinstance(leaf, Tensor)]
    # What is held grows with the inputs, whose other sizes may be dynamic as well.
    of_example = sum(leaf.numel() for leaf in examples) or 1
    of_row = sum(int(np.prod(array.shape[1:])) for array in rows.inputs) or 1
    return max(1, int(MEMORY_BYTES / (held * of_row / of_example)))


def _left(
    program: Program, remaining: Remaining, fitting: list[Layer], sparse: Collection[str]
) -> list[str]:
    """A word on weights that lost inputs and are left as they are."""
    fitted = {layer.parameter for layer in fitting}
    left = [
        name
        for name, dims in remaining.indices.items()
        if name not in fitted and isinstance(attribute(program.module, name), torch.nn.Parameter)
        if any(dim > 0 for dim in dims)
    ]
    warnings = []
    if left:
        more = f" and {len(left) - _MOST_NAMED} more" if len(left) > _MOST_NAMED else ""
        warnings.append(
            f"reconstruct: {', '.join(left[:_MOST_NAMED])}{more} read less than before and stay as "
            "they are: weights that are read twice, computed, inside of a recurrent layer, or "
            f"of layers with more than {_LARGEST:,} inputs and outputs"
        )
    if sparse:
        warnings.append(
            "reconstruct: weights with zeros that were made on purpose are left as they are"
        )
    return warnings


def _refit(
    layer: Layer, ours: Lockstep, theirs: Lockstep, damping: float | None, generator: Generator
) -> None:
    start, scale = layer.start, layer.scale
    problems, inputs, outputs = start.shape
    fitted, held_out = (Sums(problems, inputs, outputs, start.device) for _ in range(2))
    share = -(-(_ROWS + 2 * inputs) // len(ours.values))
    for values, targets in zip(ours.values, layer.targets(theirs, ours), strict=True):
        columns = layer.columns(values)
        count = len(columns)
        picked = torch.randperm(count, generator=generator)[:share]
        # The last ones: positions of one row are alike, and stay together.
        is_held_out = picked >= count - count // _PARTS
        for sums, part in ((fitted, picked[~is_held_out]), (held_out, picked[is_held_out])):
            of_part = targets[part.to(targets.device)].view(len(part), problems, outputs)
            read = columns[part.to(columns.device)]
            sums.add(read.transpose(0, 1), of_part.transpose(0, 1))
    if not (fitted.is_finite and held_out.is_finite):
        raise NotFiniteError(
            f"on the training data the layer of {layer.parameter} reads or gives NaN or infinity: "
            "check the data for NaN, and its range"
        )
    by_problem = scale.view(problems, 1, outputs)
    fit = solve(fitted, held_out, start * by_problem, has_offset=layer.has_offset, damping=damping)
    # Where a batch norm multiplies with nothing, nothing is known of what it multiplies.
    is_known = scale.abs() > _TINY * scale.abs().max()
    weight = torch.where(is_known.view_as(by_problem), fit.weight / by_problem, start)
    offset = torch.where(is_known, fit.offset.flatten() / scale, 0.0)
    layer.write(weight, offset)
