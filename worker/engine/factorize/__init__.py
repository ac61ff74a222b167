"""Take layers apart into products of smaller ones."""

from worker.engine.changed import Changed
from worker.engine.config import FactorizeConfig
from worker.engine.data import Rows
from worker.engine.program import Program
from worker.engine.recovery.setting import Setting


def factorize(
    program: Program, config: FactorizeConfig, rows: Rows | None, setting: Setting
) -> Changed:
    """Take layers apart into products of smaller ones."""
    raise NotImplementedError
