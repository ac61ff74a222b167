"""Ways to train faster that a model may not bear: each is tried on one batch first."""

from collections.abc import Callable

import torch

from worker.engine.config import TrainingConfig
from worker.engine.program import Program

# Compiling takes a minute or more: fewer steps than these do not earn it back.
_STEPS_WORTH_COMPILING = 500

Trial = Callable[[torch.dtype], None]
"""Does one batch forward and backward in a precision, and leaves no trace."""


def prepared(
    student: Program,
    config: TrainingConfig,
    *,
    steps: int,
    trial: Trial,
    warn: Callable[[str], None],
) -> torch.dtype:
    """Compile the student's module if that is asked for and works; give the precision to use.

    What fails becomes a warning, and training does without.

    Args:
        student: Compiled in place: its tensors stay the objects that they are.
        config: What is asked for.
        steps: Of the optimizer.
        trial: Raises what the model raises.
        warn: Told what fails.

    Returns:
        ``torch.float32``, or ``torch.bfloat16``: what autocast computes in.
    """
    precision = _precision(config, student.device)
    if _compiles(config, student, steps):
        student.module.compile()
        if (reason := _failure(trial, precision)) is None:
            return precision
        student.module._compiled_call_impl = None  # noqa: SLF001 (there is no way back in public)
        warn(f"torch.compile fails on this model ({reason}): it is trained without")
    if precision is torch.bfloat16 and (reason := _failure(trial, precision)) is not None:
        warn(f"the model does not train in bfloat16 ({reason}): it is trained in float32")
        return torch.float32
    return precision


def _precision(config: TrainingConfig, device: torch.device) -> torch.dtype:
    if config.precision is not None:
        return PRECISIONS[config.precision]
    has_it = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_it else torch.float32


PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""By the names of the API."""


def _compiles(config: TrainingConfig, student: Program, steps: int) -> bool:
    if config.compile is not None:
        return config.compile
    # What a call writes is another tensor in each, for which all would be compiled anew.
    is_fixed = not student.written.tensors
    return student.device.type == "cuda" and steps >= _STEPS_WORTH_COMPILING and is_fixed


def _failure(trial: Trial, precision: torch.dtype) -> str | None:
    try:
        trial(precision)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - compilers raise whatever they like
        return type(error.__cause__ or error).__name__
    return None
