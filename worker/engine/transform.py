"""Do one step that factorizes, quantizes or casts, whichever it is; and recover what it gives."""

from dataclasses import replace
from typing import assert_never

from worker.engine.changed import Changed
from worker.engine.config import (
    CastConfig,
    FactorizeConfig,
    QuantizeConfig,
    RecoveryConfig,
    TransformConfig,
)
from worker.engine.data import Rows
from worker.engine.factorize import factorize
from worker.engine.precision import cast
from worker.engine.program import Program
from worker.engine.quantize import quantize
from worker.engine.quantize.learning import learner, relearned
from worker.engine.recovery.recover import Sources, recover
from worker.engine.recovery.setting import NoSnapshots, Setting

STAGES: dict[type[TransformConfig], str] = {
    FactorizeConfig: "factorizing",
    QuantizeConfig: "quantizing",
    CastConfig: "casting",
}
"""What a run is doing meanwhile."""

NAMES: dict[type[TransformConfig], str] = {
    FactorizeConfig: "factorize",
    QuantizeConfig: "quantize",
    CastConfig: "cast",
}
"""What the steps are called in a recipe."""


def transformed(
    program: Program, step: TransformConfig, rows: Rows | None, setting: Setting
) -> Changed:
    """Do a step, on a program that is not changed. See the steps' functions for what they raise.

    Args:
        program: What is there so far.
        step: What to do.
        rows: Training data, if there is any; inputs alone are read.
        setting: Seed and progress: layers done, of how many.
    """
    match step:
        case FactorizeConfig():
            return factorize(program, step, rows, setting)
        case QuantizeConfig():
            return quantize(program, step, rows, setting)
        case CastConfig():
            return cast(program, step, rows, setting)
        case _:
            assert_never(step)


def recovered(
    program: Program, step: RecoveryConfig, sources: Sources, setting: Setting
) -> Program:
    """Do a recovery step: in place, but for a program with codes, which gives another.

    Such a program is trained through its rounding, and gets new codes. What is trained then has no
    file: it leaves no snapshots.
    """
    if not program.packed:
        recover(program, step, sources, setting)
        return program
    taught = learner(program)
    recover(taught, step, sources, replace(setting, snapshots=NoSnapshots()))
    return relearned(program, taught)
