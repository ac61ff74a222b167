"""Estimate batch-norm statistics again."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from worker.engine.config import RecalibrateConfig
from worker.engine.data import Rows
from worker.engine.graph.arguments import argument
from worker.engine.program import Program
from worker.engine.recovery.modes import batch_norms, flags


@torch.no_grad()
def recalibrate(
    program: Program,
    config: RecalibrateConfig,
    rows: Rows,
    *,
    seed: int,
    on_progress: Callable[[int, int, str], None],
) -> None:
    """Set each batch norm's running mean and variance to their averages over fresh batches.

    Only batch norms run in training mode, so nothing else changes, and no weight does. Statistics
    are averaged in float64 over batches of equal size.

    Args:
        program: Changed in place.
        config: How many rows, and how many at once.
        rows: Inputs; targets are not read.
        seed: Chooses the rows.
        on_progress: Told batches done, of how many.
    """
    norms = batch_norms(program.module)
    if not norms:
        return
    order = np.random.default_rng(seed).permutation(len(rows))[: config.sample_count]
    size = min(config.batch_size, len(order))
    # Batches of equal size: the average over batches is the average over rows.
    order = order[: len(order) // size * size]
    buffers = [_statistics(program, norm) for norm in norms]
    sums = [[torch.zeros_like(buffer, dtype=torch.float64) for buffer in pair] for pair in buffers]
    changes = [
        change
        for norm in norms
        # With a momentum of 1 the running statistics are the last batch's.
        for change in ((norm, "training", True), (norm, "momentum", 1.0))
    ]
    count = 0
    with flags(program.module, list(changes)):
        for batch in rows.batches(program, size, order=order):
            program.run(batch.inputs)
            count += 1
            for pair, totals in zip(buffers, sums, strict=True):
                for buffer, total in zip(pair, totals, strict=True):
                    total += buffer
            on_progress(count, len(order) // size, "batches")
    for pair, totals in zip(buffers, sums, strict=True):
        for buffer, total in zip(pair, totals, strict=True):
            buffer.copy_(total / count)


def _statistics(program: Program, norm: torch.fx.Node) -> tuple[Tensor, Tensor]:
    names = (str(argument(norm, name).target) for name in ("running_mean", "running_var"))
    mean, variance = (program.module.get_buffer(name) for name in names)
    return mean, variance
