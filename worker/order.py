"""What goes into a child process, and what comes out: JSON files in its scratch folder.

Nothing that a child wrote is trusted: it may have been taken over by the file it read.
"""

import os
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from secateur.failures import Failure
from secateur.jobs import Progress, Stage
from secateur.models import ModelFormat
from secateur.spec import JobSpec

ORDER_FILE = "order.json"
OUTCOME_FILE = "outcome.json"
OUTPUT_FOLDER = "output"
CHECKPOINT_FILE = "checkpoint"

# A plan lists a float for every channel; 64 MiB is several million of them.
MAX_OUTCOME_BYTES = 64 * 2**20


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InputFile(_Strict):
    """A local file that the child reads."""

    path: Path
    sha256: str


class Order(_Strict):
    """One attempt, as its child process sees it."""

    job_id: str
    attempt: int
    function: str = Field(description="What to run, as `module:name`.")
    spec: JobSpec
    model: InputFile
    model_format: ModelFormat = ModelFormat.PT2
    train: InputFile | None
    test: InputFile | None
    checkpoint: InputFile | None = Field(
        default=None, description="What an earlier attempt left to go on from."
    )
    checkpoint_s: float = Field(default=60.0, description="Least seconds between two checkpoints.")
    device: str
    memory_bytes: int
    file_bytes: int
    cpu_s: int


class Step(_Strict):
    """One line of the progress pipe."""

    stage: Stage
    progress: Progress


class Outcome(_Strict):
    """How the engine ended: with a result, or with a failure; with both if its code says so."""

    result: dict[str, Any] | None
    failure: Failure | None
    device: str
    versions: dict[str, str]

    @model_validator(mode="after")
    def _one_ending(self) -> Self:
        should_have_result = self.failure is None or self.failure.code.has_result
        if should_have_result is (self.result is None):
            how = "success" if self.failure is None else self.failure.code
            raise ValueError(f"{how} with{'out' if self.result is None else ''} a result")
        return self


def read_outcome(folder: Path) -> Outcome | None:
    """What the child left behind; None if it was not able to.

    Raises:
        ValueError: It is not an outcome.
    """
    try:
        # The child may have put a link there, to a file that it cannot read itself.
        descriptor = os.open(folder / OUTCOME_FILE, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        written = file.read(MAX_OUTCOME_BYTES + 1)
    if len(written) > MAX_OUTCOME_BYTES:
        raise ValueError(f"the outcome has more than {MAX_OUTCOME_BYTES} bytes")
    return Outcome.model_validate_json(written)
