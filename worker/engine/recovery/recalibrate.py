"""Estimate batch-norm statistics again."""

from collections.abc import Callable

import numpy as np
import torch

from worker.engine.batch import run_batch
from worker.engine.config import RecalibrateConfig
from worker.engine.data import Rows, equal_batches
from worker.engine.program import Program
from worker.engine.recovery.modes import batch_norms, check_statistics, flags, statistics


@torch.no_grad()
def recalibrate(
    program: Program,
    config: RecalibrateConfig,
    rows: Rows,
    *,
    seed: int,
    on_progress: Callable[[int, int], None],
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

    Raises:
        DataMismatchError: The program does not run on the rows, or they give a batch norm no
            variance.
    """
    norms = batch_norms(program.module)
    if not norms:
        return
    order = np.random.default_rng(seed).permutation(len(rows))[: config.sample_count]
    # Batches of equal size: the average over batches is the average over rows.
    size, batches = equal_batches(program, config.batch_size, rows=len(order))
    order = order[: batches * size]
    buffers = [statistics(program.module, norm) for norm in norms]
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
            run_batch(program, batch)
            count += 1
            for pair, totals in zip(buffers, sums, strict=True):
                for buffer, total in zip(pair, totals, strict=True):
                    total += buffer
            on_progress(count, batches)
    for pair, totals in zip(buffers, sums, strict=True):
        for buffer, total in zip(pair, totals, strict=True):
            buffer.copy_(total / count)
    check_statistics(program)
