"""What a job is, where it can be, and where it can go from there."""

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field

from secateur.failures import Failure
from secateur.schema import Output
from secateur.spec import JobSpec


class JobKind(StrEnum):
    COMPRESS = "compress"
    PLAN = "plan"


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    CANCELING = "canceling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_final(self) -> bool:
        return not NEXT_STATES[self]


NEXT_STATES: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELED}),
    # Back to queued: the worker was lost and attempts are left.
    JobState.RUNNING: frozenset(
        {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELING, JobState.QUEUED}
    ),
    JobState.CANCELING: frozenset({JobState.CANCELED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELED: frozenset(),
}
"""The state machine. A state without a successor is final."""


class Stage(StrEnum):
    """What a running attempt is doing, in the order in which it does it."""

    LOADING = "loading"
    BASELINE = "baseline"
    SCORING = "scoring"
    SEARCHING = "searching"
    PRUNING = "pruning"
    FACTORIZING = "factorizing"
    QUANTIZING = "quantizing"
    CASTING = "casting"
    RECOVERING = "recovering"
    SAVING = "saving"
    VERIFYING = "verifying"
    EVALUATING = "evaluating"
    EXPORTING = "exporting"


class Progress(Output):
    """How far the current stage is."""

    done: int = Field(description="Units finished in this stage.", examples=[3])
    total: int = Field(description="Units in this stage, at least 1.", examples=[10])
    unit: str = Field(description="What is counted.", examples=["epochs"])


class JobSummary(Output):
    """Where one job is. A list has these: a spec may hold a whole plan."""

    id: str = Field(examples=["job_0f8n2q4k6m8p0r2t4v6x8z0b"])
    kind: JobKind = Field(description="`plan` is a dry run: no weight changes, no model comes out.")
    state: JobState
    stage: Stage | None = Field(description="What the attempt is doing; null unless it runs.")
    progress: Progress | None = Field(description="How far the stage is; null unless it runs.")
    attempt: int = Field(description="Executions started so far; 2 and more after a lost worker.")
    model_id: str
    spec_sha256: str = Field(description="Digest of the canonical spec: equal specs, equal digest.")
    label: str | None = Field(description="The spec's own label, for filtering lists.")
    sweep_id: str | None = Field(description="The sweep that it is a job of; null for others.")
    failure: Failure | None = Field(description="Why it failed; null unless `failed`.")
    created_at: datetime
    started_at: datetime | None = Field(description="Start of the latest attempt.")
    finished_at: datetime | None


class Job(JobSummary):
    """One request to compress one model under one spec."""

    spec: JobSpec


class JobPage(Output):
    """A page of jobs, newest first."""

    data: list[JobSummary]
    next_cursor: str | None = Field(
        description="Pass as `cursor` for the next page; null at the end."
    )


class Artifact(Output):
    """An immutable file that a job made."""

    id: str = Field(examples=["art_0f8n2q4k6m8p0r2t4v6x8z0b"])
    job_id: str
    name: str = Field(examples=["model.pt2"])
    media_type: str
    size_bytes: int
    sha256: str
    created_at: datetime


class ArtifactList(Output):
    """Everything that a job made."""

    data: list[Artifact]
    next_cursor: Literal[None] = Field(description="A job's artifacts always fit on one page.")
