"""Jobs: ask for, follow, cancel, delete."""

from typing import Annotated

from fastapi import APIRouter, Query, Response, status

from secateur.jobs import Job, JobKind, JobPage, JobState
from secateur.spec import JobSpec, PlanSpec
from service import errors
from service.dependencies import (
    NO_ZERO,
    Cursor,
    IdempotencyKey,
    IfNoneMatch,
    Limit,
    Services,
    ServicesDependency,
    Wait,
)
from service.following import followed
from service.json_bodies import StrictJsonRoute
from service.problems import problems
from service.representations import CREATED, json_response

router = APIRouter(prefix="/v1", tags=["jobs"], route_class=StrictJsonRoute)

_SPEC_PROBLEMS = problems(
    errors.RequestInvalid,
    errors.IdempotencyReused,
    errors.UnknownReference,
    errors.DataMissing,
    errors.DataMismatch,
    errors.PlanMismatch,
    errors.OutputUnavailable,
    errors.FormatUnavailable,
    errors.PrecisionUnavailable,
    errors.MediaTypeUnsupported,
    errors.BodyTooLarge,
)


@router.post(
    "/jobs",
    summary="Start a job",
    status_code=status.HTTP_202_ACCEPTED,
    response_model=Job,
    responses={202: CREATED, **_SPEC_PROBLEMS},
)
def create_job(
    spec: JobSpec, services: ServicesDependency, idempotency_key: IdempotencyKey = None
) -> Response:
    """Queue the compression of an uploaded model, and answer at once.

    The job starts as `queued`. What can be seen from the spec and the uploads is checked here; a
    job that turns out later to be impossible ends as `failed`, with a `failure.code` that says why.

    Send an `Idempotency-Key` to make a repetition safe: the same key with the same spec is one job,
    and gets the first answer again. A key is remembered as long as its job.
    """
    return _created(services, spec, JobKind.COMPRESS, idempotency_key)


@router.post(
    "/plans",
    summary="Start a dry run",
    status_code=status.HTTP_202_ACCEPTED,
    response_model=Job,
    responses={202: CREATED, **_SPEC_PROBLEMS},
)
def create_plan(
    plan: PlanSpec, services: ServicesDependency, idempotency_key: IdempotencyKey = None
) -> Response:
    """Queue a job of the kind `plan`: its result is what one prune step would remove.

    No weight changes and no model comes out. The result lists every channel group with the scores
    of its channels, what would be kept, and the counts that would be left.
    """
    return _created(services, plan.as_job_spec(), JobKind.PLAN, idempotency_key)


@router.get(
    "/jobs",
    summary="List jobs",
    response_model=JobPage,
    responses=problems(errors.UnknownCursor, errors.RequestInvalid),
)
def list_jobs(
    services: ServicesDependency,
    limit: Limit = 20,
    cursor: Cursor = None,
    state: Annotated[JobState | None, Query(description="Only jobs in this state.")] = None,
    model_id: Annotated[
        str | None, Query(max_length=100, pattern=NO_ZERO, description="Only jobs of this model.")
    ] = None,
    label: Annotated[
        str | None,
        Query(max_length=200, pattern=NO_ZERO, description="Only jobs with this label."),
    ] = None,
    sweep_id: Annotated[
        str | None, Query(max_length=100, pattern=NO_ZERO, description="Only jobs of this sweep.")
    ] = None,
) -> JobPage:
    """Jobs, newest first. Follow `next_cursor` until it is null."""
    return services.jobs.page(
        limit=limit, cursor=cursor, state=state, model_id=model_id, label=label, sweep_id=sweep_id
    )


@router.get(
    "/jobs/{job_id}",
    summary="Get a job",
    response_model=Job,
    responses={
        304: {"description": "It is as your `If-None-Match` says."},
        **problems(errors.JobNotFound, errors.RequestInvalid),
    },
)
async def get_job(
    job_id: str,
    services: ServicesDependency,
    wait: Wait = 0,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Where a job is.

    With `wait`, the answer comes as soon as there is something to say: as soon as the job has
    ended, or, if you send the `ETag` that you have as `If-None-Match`, as soon as anything has
    changed. It comes after `wait` seconds in any case. Where the service cannot hear of changes it
    comes at once, and `Retry-After` says when to ask again.
    """
    return await followed(
        services.jobs.get,
        job_id,
        services.jobs.messages,
        services.settings,
        wait_s=wait,
        if_none_match=if_none_match,
    )


@router.post(
    "/jobs/{job_id}/cancel",
    summary="Cancel a job",
    response_model=Job,
    responses={
        200: {"description": "It is `canceled`."},
        202: {"model": Job, "description": "It is `canceling`: its worker has been told."},
        **problems(errors.JobNotFound, errors.JobTerminal),
    },
)
def cancel_job(job_id: str, services: ServicesDependency) -> Response:
    """Stop a job: at once if it is queued, as soon as its worker has stopped if it runs.

    Canceling a job that is canceled already changes nothing and is no error.
    """
    job = services.jobs.cancel(job_id)
    is_done = job.state is JobState.CANCELED
    return json_response(
        job, status_code=status.HTTP_200_OK if is_done else status.HTTP_202_ACCEPTED
    )


@router.delete(
    "/jobs/{job_id}",
    summary="Delete a job",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=problems(errors.JobNotFound, errors.JobNotFinal, errors.JobInSweep),
)
def delete_job(job_id: str, services: ServicesDependency) -> None:
    """Delete a job that has ended, with its result and its artifacts.

    A job of a sweep goes with its sweep, so that no comparison has holes.
    """
    services.jobs.delete(job_id)


def _created(
    services: Services, spec: JobSpec, kind: JobKind, idempotency_key: str | None
) -> Response:
    created = services.jobs.create(spec, kind=kind, idempotency_key=idempotency_key)
    headers = {
        "Location": f"/v1/jobs/{created.job.id}",
        "Retry-After": str(services.settings.retry_after_s),
    }
    if created.is_replay:
        headers["Idempotency-Replayed"] = "true"
    return json_response(created.job, status_code=status.HTTP_202_ACCEPTED, headers=headers)
