"""Plain supervised training."""

import math
from collections.abc import Callable, Collection

import numpy as np
import torch

from worker.engine.config import FinetuneConfig
from worker.engine.data import Rows, equal_batches
from worker.engine.errors import DataMismatchError, DivergedError
from worker.engine.objective import is_finite
from worker.engine.program import Program
from worker.engine.recovery.modes import check_statistics, training


def finetune(
    program: Program,
    config: FinetuneConfig,
    rows: Rows,
    *,
    seed: int,
    on_progress: Callable[[int, int], None],
    sparse: Collection[str] = (),
) -> None:
    """Train every parameter with AdamW and a cosine schedule without restarts.

    Args:
        program: Changed in place. Left in evaluation mode.
        config: Epochs, learning rate, weight decay, batch size.
        rows: Inputs and targets.
        seed: Orders the rows and draws dropout.
        on_progress: Told epochs done, of how many.
        sparse: Names of the parameters whose zeros stay zero.

    Raises:
        DataMismatchError: No targets, targets that do not fit the output, or too few rows for a
            batch norm.
        DivergedError: The loss became infinite or undefined.
    """
    rows.check_targets("fine-tuning")
    objective = rows.objective
    torch.manual_seed(seed)
    shuffle = np.random.default_rng(seed)
    # Whole batches only: a batch norm cannot learn from a rest of one row.
    size, batches = equal_batches(program, config.batch_size, rows=len(rows))
    steps = config.epochs * batches
    parameters = [p for p in program.module.parameters() if p.is_floating_point()]
    for parameter in parameters:
        parameter.requires_grad_()
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(step / steps, 1)))
    )
    zeros = [(p, p == 0) for name in sparse for p in [program.module.get_parameter(name)]]
    with training(program.module), torch.enable_grad():
        for epoch in range(config.epochs):
            order = shuffle.permutation(len(rows))[: batches * size]
            for batch in rows.batches(program, size, order=order):
                output = objective.outputs_of(program, batch)
                loss = objective.loss(output, objective.targets_of(batch), batch=batch)
                if not loss.requires_grad:
                    raise DataMismatchError(
                        f"{objective.output} has no gradient to any parameter, so that it cannot "
                        "be fine-tuned; export the model without detach and no_grad"
                    )
                if not is_finite(loss):
                    raise DivergedError(
                        f"the loss became {float(loss.detach())} in epoch {epoch + 1} of "
                        f"{config.epochs}: use a learning_rate below {config.learning_rate:g}"
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                with torch.no_grad():
                    for parameter, zero in zeros:
                        parameter.masked_fill_(zero, 0.0)
                schedule.step()
            on_progress(epoch + 1, config.epochs)
    check_statistics(program)
