"""Every way in which a request is not done.

* ServiceError
  x RequestInvalid           422 request.invalid
  x RequestMalformed         400 request.malformed
  x MalformedDigest          400 request.digest
  x UnknownCursor            400 request.cursor
  x KeyMissing               401 auth.missing
  x KeyUnknown               401 auth.invalid
  x MethodNotAllowed         405 request.method
  x BodyTooLarge             413 request.too_large
  x MediaTypeUnsupported     415 request.media_type
  x HeadTooLarge             431 request.head_too_large
  x RangeNotSatisfiable      416 request.range
  x IdempotencyReused        422 request.idempotency
  * NotFound                 404
    - RouteNotFound              route.not_found
    - ModelNotFound              model.not_found
    - DatasetNotFound            dataset.not_found
    - JobNotFound                job.not_found
    - SweepNotFound              sweep.not_found
    - ArtifactNotFound           artifact.not_found
    - ErrorCodeNotFound          code.not_found
  * Conflict                 409
    - ModelInUse                 model.in_use
    - DatasetInUse               dataset.in_use
    - JobTerminal                job.terminal
    - JobNotFinal                job.not_final
    - JobInSweep                 job.in_sweep
    - SweepTerminal              sweep.terminal
    - SweepNotFinal              sweep.not_final
    - JobNotFinished             job.not_finished
    - JobHasNoResult             job.no_result
    - JobHasNoSearch             job.no_search
  * UploadError
    x UploadTooLarge         413 upload.too_large
    x ChecksumMismatch       422 upload.checksum
    x FileRefused            422 (the code of the FormatError)
    x OutOfSpace             507 upload.no_space
  * SpecRefused              422
    - UnknownReference           spec.unknown_id
    - DataMissing                data.missing
    - DataMismatch               data.mismatch
    - PlanMismatch               plan.mismatch
    - OutputUnavailable          output.unavailable
    - FormatUnavailable          model.no_worker
    - PrecisionUnavailable       precision.unavailable
  x NotReady                 503 service.not_ready
  x InternalError            500 internal

Each concrete error has a code of its own, written here by hand: added, never renamed. Each code has
a section in docs/errors.md. How a *job* fails is not here: that is data, `secateur.failures`.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import ClassVar

from secateur.failures import Failure
from secateur.jobs import Job, JobState
from secateur.problems import FieldProblem
from secateur.sweeps import Sweep


class ServiceError(Exception):
    """Base of all. A leaf says its status, its code and a title; its constructor the detail."""

    status: ClassVar[HTTPStatus]
    code: str
    title: ClassVar[str]
    is_retryable: ClassVar[bool] = False

    def __init__(
        self,
        detail: str,
        *,
        errors: Sequence[FieldProblem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = list(errors)
        self.headers = dict(headers or {})


class RequestInvalid(ServiceError):
    """A field or parameter is not what the schema allows."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "request.invalid"
    title = "The request is not valid"

    def __init__(self, errors: Sequence[FieldProblem]) -> None:
        shown = "; ".join(f"{error.pointer or '/'}: {error.detail}" for error in errors[:3])
        more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
        super().__init__(f"{shown}{more}", errors=errors)


class RequestMalformed(ServiceError):
    """What came is no HTTP."""

    status = HTTPStatus.BAD_REQUEST
    code = "request.malformed"
    title = "The request is not HTTP"

    def __init__(self) -> None:
        super().__init__("what was sent cannot be read as HTTP/1.1 (RFC 9112)")


class MalformedDigest(ServiceError):
    """The announced digest cannot be read."""

    status = HTTPStatus.BAD_REQUEST
    code = "request.digest"
    title = "The digest header cannot be read"

    def __init__(self, value: str) -> None:
        super().__init__(
            f"Repr-Digest is {value[:100]!r}; write `sha-256=:` and the digest in Base64 and `:`"
        )


class UnknownCursor(ServiceError):
    """The cursor is none that the service gave."""

    status = HTTPStatus.BAD_REQUEST
    code = "request.cursor"
    title = "The cursor is unknown"

    def __init__(self) -> None:
        super().__init__("pass the `next_cursor` of a page of the same list, as it was given")


class KeyMissing(ServiceError):
    """No key was sent."""

    status = HTTPStatus.UNAUTHORIZED
    code = "auth.missing"
    title = "A key is needed"

    def __init__(self) -> None:
        super().__init__(
            "send the header `Authorization: Bearer <key>`",
            headers={"WWW-Authenticate": 'Bearer realm="secateur"'},
        )


class KeyUnknown(ServiceError):
    """The key is none of ours."""

    status = HTTPStatus.UNAUTHORIZED
    code = "auth.invalid"
    title = "The key is not valid"

    def __init__(self) -> None:
        super().__init__(
            "the key sent with `Authorization: Bearer` is none that this service knows",
            headers={"WWW-Authenticate": 'Bearer realm="secateur", error="invalid_token"'},
        )


class MethodNotAllowed(ServiceError):
    """The path exists, the method does not."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    code = "request.method"
    title = "The method is not allowed here"

    def __init__(self, method: str, *, allowed: str) -> None:
        super().__init__(f"{method} is not allowed; allowed: {allowed}", headers={"Allow": allowed})


class BodyTooLarge(ServiceError):
    """The body of a request that is no upload is too large."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "request.too_large"
    title = "The request body is too large"

    def __init__(self, *, limit_bytes: int) -> None:
        super().__init__(
            f"the body of this request may have {limit_bytes} bytes at most; of a plan, "
            "format_version, model_sha256, granularity, exclude, and the id and keep of the "
            "channel groups that lose channels are enough"
        )


class MediaTypeUnsupported(ServiceError):
    """The body is of a kind that the route does not read."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    code = "request.media_type"
    title = "The media type is not supported here"

    def __init__(self, media_type: str, *, allowed: str) -> None:
        super().__init__(f"Content-Type is {media_type[:100]!r}; send {allowed}")


class HeadTooLarge(ServiceError):
    """The request line and headers are too large."""

    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    code = "request.head_too_large"
    title = "The request's head is too large"

    def __init__(self, *, limit_bytes: int) -> None:
        super().__init__(f"URL and headers together may have {limit_bytes} bytes at most")


class RangeNotSatisfiable(ServiceError):
    """The range begins after the end."""

    status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
    code = "request.range"
    title = "The range is outside of the artifact"

    def __init__(self, *, size_bytes: int) -> None:
        super().__init__(
            f"the artifact has {size_bytes} bytes; ask for a range within them",
            headers={"Content-Range": f"bytes */{size_bytes}"},
        )


class IdempotencyReused(ServiceError):
    """The idempotency key was used before, for something else."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "request.idempotency"
    title = "The idempotency key was used for another request"

    def __init__(self, key: str) -> None:
        super().__init__(
            f"the key {key!r} came before with another payload; use a new key for a new request"
        )


class NotFound(ServiceError):
    """Base: there is no such thing, or it is not the caller's."""

    status = HTTPStatus.NOT_FOUND


class RouteNotFound(NotFound):
    code = "route.not_found"
    title = "There is no such route"

    def __init__(self) -> None:
        super().__init__("no route has this path; /openapi.json lists them all")


class ModelNotFound(NotFound):
    code = "model.not_found"
    title = "There is no such model"

    def __init__(self, model_id: str) -> None:
        super().__init__(f"no model has the id {model_id[:100]!r}; it may have been deleted")


class DatasetNotFound(NotFound):
    code = "dataset.not_found"
    title = "There is no such data set"

    def __init__(self, dataset_id: str) -> None:
        super().__init__(f"no data set has the id {dataset_id[:100]!r}; it may have been deleted")


class JobNotFound(NotFound):
    code = "job.not_found"
    title = "There is no such job"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job has the id {job_id[:100]!r}; it may have been deleted")


class SweepNotFound(NotFound):
    code = "sweep.not_found"
    title = "There is no such sweep"

    def __init__(self, sweep_id: str) -> None:
        super().__init__(f"no sweep has the id {sweep_id[:100]!r}; it may have been deleted")


class ArtifactNotFound(NotFound):
    code = "artifact.not_found"
    title = "There is no such artifact"

    def __init__(self, artifact_id: str) -> None:
        super().__init__(
            f"no artifact has the id {artifact_id[:100]!r}; artifacts are deleted with their job"
        )


class ErrorCodeNotFound(NotFound):
    code = "code.not_found"
    title = "There is no such error code"

    def __init__(self, code: str) -> None:
        super().__init__(f"no error has the code {code[:100]!r}")


class Conflict(ServiceError):
    """Base: not in the state that the thing is in now."""

    status = HTTPStatus.CONFLICT


class ModelInUse(Conflict):
    code = "model.in_use"
    title = "The model is in use"
    is_retryable = True

    def __init__(self, model_id: str, *, job_id: str) -> None:
        super().__init__(f"{model_id} is used by {job_id}; cancel the job, or wait for its end")


class DatasetInUse(Conflict):
    code = "dataset.in_use"
    title = "The data set is in use"
    is_retryable = True

    def __init__(self, dataset_id: str, *, job_id: str) -> None:
        super().__init__(f"{dataset_id} is used by {job_id}; cancel the job, or wait for its end")


class JobTerminal(Conflict):
    code = "job.terminal"
    title = "The job has ended already"

    def __init__(self, job_id: str, state: JobState) -> None:
        super().__init__(f"{job_id} is {state}: there is nothing left to cancel")


class JobNotFinal(Conflict):
    code = "job.not_final"
    title = "The job has not ended"
    is_retryable = True

    def __init__(self, job: Job) -> None:
        super().__init__(f"{job.id} is {job.state}; cancel it, and delete it when it is canceled")


class JobInSweep(Conflict):
    code = "job.in_sweep"
    title = "The job belongs to a sweep"

    def __init__(self, job_id: str, *, sweep_id: str) -> None:
        super().__init__(f"{job_id} is a job of {sweep_id}, and goes with it: delete the sweep")


class SweepTerminal(Conflict):
    code = "sweep.terminal"
    title = "The sweep has ended already"

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(f"{sweep.id} is {sweep.state}: there is nothing left to cancel")


class SweepNotFinal(Conflict):
    code = "sweep.not_final"
    title = "The sweep has not ended"
    is_retryable = True

    def __init__(self, sweep: Sweep) -> None:
        counts = sweep.counts
        super().__init__(
            f"{counts.total - counts.final} of {counts.total} jobs of {sweep.id} have not ended; "
            "cancel it, and delete it when it is canceled"
        )


class JobNotFinished(Conflict):
    code = "job.not_finished"
    title = "The job has not finished"
    is_retryable = True

    def __init__(self, job: Job, *, retry_after_s: int) -> None:
        super().__init__(
            f"{job.id} is {job.state}; its result is there when it is succeeded",
            headers={"Retry-After": str(retry_after_s)},
        )


class JobHasNoResult(Conflict):
    code = "job.no_result"
    title = "The job ended without a result"

    def __init__(self, job_id: str, *, failure: Failure | None) -> None:
        if failure is None:
            super().__init__(f"{job_id} was canceled")
        else:
            super().__init__(f"{job_id} failed with {failure.code}: {failure.detail}")


class JobHasNoSearch(Conflict):
    code = "job.no_search"
    title = "The job did not look for the smallest model"

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"{job_id} has a result, and no trials to draw: only a job with a budget of accuracy "
            "or loss tries models"
        )


class UploadError(ServiceError):
    """Base: the file that was sent is not taken. Nothing of it is kept."""


class UploadTooLarge(UploadError):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "upload.too_large"
    title = "The file is too large"

    def __init__(self, *, limit_bytes: int) -> None:
        super().__init__(f"a file of this kind may have {limit_bytes} bytes at most")


class ChecksumMismatch(UploadError):
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "upload.checksum"
    title = "The file arrived changed"
    is_retryable = True

    def __init__(self, *, announced: str, received: str) -> None:
        super().__init__(f"Repr-Digest announced sha256 {announced}, received was {received}")


class FileRefused(UploadError):
    """The file was checked and is not safe, not whole, or not of its format."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    title = "The file was checked and refused"

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        super().__init__(detail)


class OutOfSpace(UploadError):
    status = HTTPStatus.INSUFFICIENT_STORAGE
    code = "upload.no_space"
    title = "There is no room for the file"
    is_retryable = True

    def __init__(self) -> None:
        super().__init__("the service's disk is full; its operator has to make room")


class SpecRefused(ServiceError):
    """Base: each field is right, and together with what was uploaded they are not."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY

    def __init__(self, errors: Sequence[FieldProblem]) -> None:
        super().__init__("; ".join(error.detail for error in errors), errors=errors)


class UnknownReference(SpecRefused):
    code = "spec.unknown_id"
    title = "The spec names something that is not there"


class DataMissing(SpecRefused):
    code = "data.missing"
    title = "The job needs data that it does not have"


class DataMismatch(SpecRefused):
    code = "data.mismatch"
    title = "The data does not fit the model"


class PlanMismatch(SpecRefused):
    code = "plan.mismatch"
    title = "The plan does not fit the model"


class OutputUnavailable(SpecRefused):
    code = "output.unavailable"
    title = "The model cannot be given in that format"


class FormatUnavailable(SpecRefused):
    """No worker reads the model. Another answer may come later, and there is a way without."""

    code = "model.no_worker"
    title = "No worker that is up reads the format of the model"
    is_retryable = True


class PrecisionUnavailable(SpecRefused):
    """No worker's device computes with a type. Another answer may come later."""

    code = "precision.unavailable"
    title = "No worker that is up computes with the data type"
    is_retryable = True


class NotReady(ServiceError):
    """Something that the service needs does not answer."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "service.not_ready"
    title = "The service is not ready"
    is_retryable = True

    def __init__(self, failing: Sequence[str]) -> None:
        super().__init__(f"not working now: {', '.join(failing)}", headers={"Retry-After": "5"})


class InternalError(ServiceError):
    """A defect of the service. What went wrong is in its log, under the request id."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    code = "internal"
    title = "The service failed"
    is_retryable = True

    def __init__(self) -> None:
        super().__init__("this is a defect of the service; report it with the `request_id`")
