"""Secateur: make trained neural networks smaller and faster, over HTTP."""

from secateur.apply import Applied, apply_plan
from secateur.client import Client
from secateur.comparison import Comparison, comparison_csv, comparison_table
from secateur.errors import (
    ConnectionFailed,
    DownloadCorrupt,
    JobCanceled,
    JobFailed,
    JobNotSucceeded,
    PlanMismatch,
    ProblemError,
    SecateurError,
    UnexpectedAnswer,
    WaitTimeout,
    WeightsFileInvalid,
)
from secateur.failures import Failure, FailureCode
from secateur.jobs import Artifact, Job, JobKind, JobState, JobSummary, Progress, Stage
from secateur.models import Dataset, Model
from secateur.packed import load_packed
from secateur.plan import Plan
from secateur.report import Report
from secateur.sparse import load_sparse
from secateur.spec import JobSpec, PlanSpec
from secateur.sweeps import Sweep, SweepSpec, SweepState
from secateur.transport import Retries

__version__ = "0.1.0"

__all__ = [
    "Applied",
    "Artifact",
    "Client",
    "Comparison",
    "ConnectionFailed",
    "Dataset",
    "DownloadCorrupt",
    "Failure",
    "FailureCode",
    "Job",
    "JobCanceled",
    "JobFailed",
    "JobKind",
    "JobNotSucceeded",
    "JobSpec",
    "JobState",
    "JobSummary",
    "Model",
    "Plan",
    "PlanMismatch",
    "PlanSpec",
    "ProblemError",
    "Progress",
    "Report",
    "Retries",
    "SecateurError",
    "Stage",
    "Sweep",
    "SweepSpec",
    "SweepState",
    "UnexpectedAnswer",
    "WaitTimeout",
    "WeightsFileInvalid",
    "__version__",
    "apply_plan",
    "comparison_csv",
    "comparison_table",
    "load_packed",
    "load_sparse",
]
