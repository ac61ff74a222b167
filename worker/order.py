"""What goes into a child process, and what comes out: JSON files in its scratch folder.

Nothing that a child wrote is trusted: it may have been taken over by the file it read.
"""

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from secateur.failures import Failure
from secateur.jobs import Progress, Stage
from secateur.spec import JobSpec

ORDER_FILE = "order.json"
OUTCOME_FILE = "outcome.json"
OUTPUT_FOLDER = "output"

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
    train: InputFile | None
    test: InputFile | None
    device: str
    memory_bytes: int
    file_bytes: int
    cpu_s: int


class Step(_Strict):
    """One line of the progress pipe."""

    stage: Stage
    progress: Progress


class Outcome(_Strict):
    """How the engine ended: exactly one of `result` and `failure`."""

    result: dict[str, Any] | None
    failure: Failure | None
    device: str
    versions: dict[str, str]


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
