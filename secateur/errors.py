"""Every way in which a call ends badly.

* SecateurError
  x ConnectionFailed    the service did not answer, though asked several times
  x UnexpectedAnswer    something answered that is not the service: a proxy, another program
  x ProblemError        the service said no, and why
  * JobNotSucceeded
    x JobFailed         the job ended with a failure
    x JobCanceled       the job was canceled
  x WaitTimeout         the job, or sweep, had not ended when the time was over
  x DownloadCorrupt     what arrived is not what the service announced
  x PlanMismatch        a plan cannot be applied to this module
  x WeightsFileInvalid   a file of sparse weights is none, or damaged
  x UnknownModelFile    a file or folder is no model that can be uploaded
"""

from pathlib import Path

from secateur.failures import Failure
from secateur.jobs import Job
from secateur.problems import Problem
from secateur.sweeps import Sweep


class SecateurError(Exception):
    """Base of all of them."""


class ConnectionFailed(SecateurError):
    """The service did not answer, though asked several times."""

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        super().__init__(f"{url} does not answer: {reason}")


class UnexpectedAnswer(SecateurError):
    """Something answered that is not the service."""

    def __init__(self, url: str, *, status: int, excerpt: str) -> None:
        self.url = url
        self.status = status
        super().__init__(
            f"{url} answered {status} with what no Secateur service says; is the URL right? "
            f"It begins: {excerpt!r}"
        )


class ProblemError(SecateurError):
    """The service said no."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(f"{problem.detail} ({problem.code})")

    @property
    def code(self) -> str:
        """The stable reason: program against this."""
        return self.problem.code

    @property
    def status(self) -> int:
        return self.problem.status


class JobNotSucceeded(SecateurError):
    """A job that was waited for ended without a result."""

    def __init__(self, job: Job, message: str) -> None:
        self.job = job
        super().__init__(message)


class JobFailed(JobNotSucceeded):
    """The job ended with a failure."""

    def __init__(self, job: Job, failure: Failure) -> None:
        self.failure = failure
        super().__init__(job, f"{job.id} failed: {failure.detail} ({failure.code})")


class JobCanceled(JobNotSucceeded):
    """The job was canceled."""

    def __init__(self, job: Job) -> None:
        super().__init__(job, f"{job.id} was canceled")


class WaitTimeout(SecateurError, TimeoutError):
    """The job, or sweep, had not ended when the time was over. It goes on."""

    def __init__(self, job: Job | Sweep, timeout_s: float) -> None:
        self.job = job
        super().__init__(f"{job.id} is {job.state} after {timeout_s:g} s")


class DownloadCorrupt(SecateurError):
    """What arrived is not what the service announced. Nothing of it is kept."""

    def __init__(self, path: Path, *, expected: str, actual: str) -> None:
        self.path = path
        super().__init__(f"{path}: expected sha256 {expected}, got {actual}; download it again")


class PlanMismatch(SecateurError):
    """A plan cannot be applied to a module. The module is as it was."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("the plan cannot be applied: " + "; ".join(problems))


class WeightsFileInvalid(SecateurError):
    """A file holds no weights of the kind that was to be read, or not all of it."""


class UnknownModelFile(SecateurError):
    """Nothing was sent: a file or folder is no model that can be uploaded."""

    def __init__(self, path: Path | None, reason: str) -> None:
        self.path = path
        where = "" if path is None else f"{path}: "
        super().__init__(
            f"{where}{reason}; models are .pt2, .onnx, .keras and .h5 files, weights with their "
            "architecture, and folders (or zips of folders) of TensorFlow's SavedModel, of "
            "transformers, or of ONNX with external data"
        )
