"""Store weights in few bits, and perhaps round activations."""

from worker.engine.changed import Changed
from worker.engine.config import QuantizeConfig
from worker.engine.data import Rows
from worker.engine.program import Program
from worker.engine.recovery.setting import Setting


def quantize(
    program: Program, config: QuantizeConfig, rows: Rows | None, setting: Setting
) -> Changed:
    """Store weights in few bits, and perhaps round activations."""
    raise NotImplementedError
