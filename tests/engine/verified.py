"""A run whose saved file is verified without a new interpreter, which has tests of its own."""

import pytest

from worker.engine import compress as compressing
from worker.engine.load import load_program
from worker.engine.program import Program
from worker.engine.reload import outputs_on_examples


def verify_here(patch: pytest.MonkeyPatch) -> None:
    """Load the saved file in this process instead: a new one takes longer than all else."""
    patch.setattr(
        compressing,
        "outputs_in_fresh_process",
        lambda path, _: outputs_on_examples(Program.from_exported(load_program(path))),
    )
