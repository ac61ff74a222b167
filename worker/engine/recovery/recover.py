"""Do one recovery step, whichever it is."""

from dataclasses import dataclass

from worker.engine.config import (
    DistillConfig,
    FinetuneConfig,
    RecalibrateConfig,
    ReconstructConfig,
    RecoveryConfig,
)
from worker.engine.data import Rows
from worker.engine.program import Program
from worker.engine.recovery.distill import distill
from worker.engine.recovery.finetune import finetune
from worker.engine.recovery.recalibrate import recalibrate
from worker.engine.recovery.reconstruct import Reference, reconstruct
from worker.engine.recovery.setting import Setting


@dataclass(frozen=True)
class Sources:
    """What a program is recovered from.

    Attributes:
        rows: Training data.
        original: The model as it was uploaded: what distillation teaches.
        reference: What layers gave before anything went that has not been trained since; None if
            nothing did.
    """

    rows: Rows
    original: Program
    reference: Reference | None


def recover(program: Program, step: RecoveryConfig, sources: Sources, setting: Setting) -> None:
    """Do a step, in place. See the steps' own functions for what they raise."""
    rows = sources.rows
    match step:
        case RecalibrateConfig():
            recalibrate(program, step, rows, seed=setting.seed, on_progress=setting.on_progress)
        case ReconstructConfig():
            if sources.reference is None:
                return
            warnings = reconstruct(
                program,
                sources.reference,
                step,
                rows,
                seed=setting.seed,
                on_progress=setting.on_progress,
                sparse=setting.sparse,
            )
            for warning in warnings:
                setting.warn(warning)
        case FinetuneConfig():
            finetune(program, step, rows, setting)
        case DistillConfig():
            distill(program, step, rows, sources.original, setting)
