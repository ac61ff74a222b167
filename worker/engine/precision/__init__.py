"""Compute in a floating-point type of fewer bits."""

from worker.engine.changed import Changed
from worker.engine.config import CastConfig
from worker.engine.data import Rows
from worker.engine.program import Program
from worker.engine.recovery.setting import Setting


def cast(program: Program, config: CastConfig, rows: Rows | None, setting: Setting) -> Changed:
    """Compute in a floating-point type of fewer bits."""
    raise NotImplementedError
