"""Sweeps: ask for, follow, compare, cancel, delete."""

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Response, status

from secateur.comparison import Comparison, comparison_csv
from secateur.sweeps import Sweep, SweepPage, SweepSpec
from service import errors
from service.chart import chart
from service.conditions import is_preferred
from service.dependencies import (
    NO_ZERO,
    Cursor,
    IdempotencyKey,
    IfNoneMatch,
    Limit,
    ServicesDependency,
    Wait,
)
from service.following import followed
from service.json_bodies import StrictJsonRoute
from service.problems import problems
from service.representations import CREATED, json_response, picture_response

router = APIRouter(prefix="/v1", tags=["sweeps"], route_class=StrictJsonRoute)

_CSV = "text/csv"


@router.post(
    "/sweeps",
    summary="Start a sweep",
    status_code=status.HTTP_202_ACCEPTED,
    response_model=Sweep,
    responses={
        202: CREATED,
        **problems(
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
        ),
    },
)
def create_sweep(
    spec: SweepSpec, services: ServicesDependency, idempotency_key: IdempotencyKey = None
) -> Response:
    """Queue a job for each cell of a grid, or for each recipe of a list, and answer at once.

    All jobs are made, or none: each is checked as `POST /v1/jobs` would. They are ordinary jobs,
    with a `sweep_id`. The workers do only so many of them at once, and do others in between.

    Send an `Idempotency-Key` to make a repetition safe: the same key with the same spec is one
    sweep, and gets the first answer again. A key is remembered as long as its sweep.
    """
    created = services.sweeps.create(spec, idempotency_key=idempotency_key)
    headers = {
        "Location": f"/v1/sweeps/{created.sweep.id}",
        "Retry-After": str(services.settings.retry_after_s),
    }
    if created.is_replay:
        headers["Idempotency-Replayed"] = "true"
    return json_response(created.sweep, status_code=status.HTTP_202_ACCEPTED, headers=headers)


@router.get(
    "/sweeps",
    summary="List sweeps",
    response_model=SweepPage,
    responses=problems(errors.UnknownCursor, errors.RequestInvalid),
)
def list_sweeps(
    services: ServicesDependency,
    limit: Limit = 20,
    cursor: Cursor = None,
    model_id: Annotated[
        str | None, Query(max_length=100, pattern=NO_ZERO, description="Only sweeps of this model.")
    ] = None,
    label: Annotated[
        str | None,
        Query(max_length=200, pattern=NO_ZERO, description="Only sweeps with this label."),
    ] = None,
) -> SweepPage:
    """Sweeps, newest first, without their specs and jobs. Follow `next_cursor` until it is null."""
    return services.sweeps.page(limit=limit, cursor=cursor, model_id=model_id, label=label)


@router.get(
    "/sweeps/{sweep_id}",
    summary="Get a sweep",
    response_model=Sweep,
    responses={
        304: {"description": "It is as your `If-None-Match` says."},
        **problems(errors.SweepNotFound, errors.RequestInvalid),
    },
)
async def get_sweep(
    sweep_id: str,
    services: ServicesDependency,
    wait: Wait = 0,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Where a sweep is, and each of its jobs.

    With `wait`, the answer comes as soon as there is something to say: as soon as the sweep has
    ended, or, if you send the `ETag` that you have as `If-None-Match`, as soon as one of its jobs
    is in another state. It comes after `wait` seconds in any case.
    """
    return await followed(
        services.sweeps.get,
        sweep_id,
        services.sweeps.messages,
        services.settings,
        wait_s=wait,
        if_none_match=if_none_match,
    )


@router.post(
    "/sweeps/{sweep_id}/cancel",
    summary="Cancel a sweep",
    response_model=Sweep,
    responses={
        200: {"description": "It is `canceled`."},
        202: {"model": Sweep, "description": "The workers of jobs that run have been told."},
        **problems(errors.SweepNotFound, errors.SweepTerminal),
    },
)
def cancel_sweep(sweep_id: str, services: ServicesDependency) -> Response:
    """Stop all jobs of a sweep: those that wait at once, the others as soon as their workers have.

    What has ended stays as it is. Canceling a sweep again changes nothing and is no error.
    """
    sweep = services.sweeps.cancel(sweep_id)
    code = status.HTTP_200_OK if sweep.state.is_final else status.HTTP_202_ACCEPTED
    return json_response(sweep, status_code=code)


@router.delete(
    "/sweeps/{sweep_id}",
    summary="Delete a sweep",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=problems(errors.SweepNotFound, errors.SweepNotFinal),
)
def delete_sweep(sweep_id: str, services: ServicesDependency) -> None:
    """Delete a sweep that has ended, with its jobs, their results and their artifacts."""
    services.sweeps.delete(sweep_id)


@router.get(
    "/sweeps/{sweep_id}/result",
    summary="Compare a sweep's jobs",
    response_model=Comparison,
    responses={
        200: {"content": {_CSV: {"schema": {"type": "string"}}}},
        **problems(errors.SweepNotFound, errors.RequestInvalid),
    },
)
def get_comparison(
    sweep_id: str,
    services: ServicesDependency,
    format: Annotated[  # noqa: A002 - the parameter's name, as elsewhere.
        Literal["json", "csv"] | None,
        Query(description="Instead of `Accept`: JSON unless CSV is preferred."),
    ] = None,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """The original's numbers, and below them those of each job; partial while the sweep runs.

    Everything is from the jobs' reports. As CSV with `Accept: text/csv`, or `?format=csv`.
    """
    comparison = services.sweeps.comparison(sweep_id)
    headers = {"Vary": "Accept", "Cache-Control": "private, no-cache"}
    is_csv = format == "csv" or (format is None and is_preferred(accept, _CSV))
    if not is_csv:
        return json_response(comparison, headers=headers)
    headers["Content-Disposition"] = f'attachment; filename="{sweep_id}.csv"'
    return Response(comparison_csv(comparison), headers=headers, media_type=_CSV)


@router.get(
    "/sweeps/{sweep_id}/chart.svg",
    summary="Draw a comparison as SVG",
    response_class=Response,
    responses={
        200: {"content": {"image/svg+xml": {"schema": {"type": "string"}}}},
        **problems(errors.SweepNotFound),
    },
)
def get_chart_svg(sweep_id: str, services: ServicesDependency) -> Response:
    """Accuracy against multiply-accumulates, a line for each method; partial while it runs.

    Where there is no accuracy, agreement with the original; else the loss, else the difference of
    the outputs.
    """
    drawn = chart(services.sweeps.comparison(sweep_id), "svg")
    return picture_response(drawn, "svg")


@router.get(
    "/sweeps/{sweep_id}/chart.png",
    summary="Draw a comparison as PNG",
    response_class=Response,
    responses={
        200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}},
        **problems(errors.SweepNotFound),
    },
)
def get_chart_png(sweep_id: str, services: ServicesDependency) -> Response:
    """The same as `chart.svg`, in pixels."""
    drawn = chart(services.sweeps.comparison(sweep_id), "png")
    return picture_response(drawn, "png")
