"""What jobs made: results and artifacts."""

from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Query
from starlette.responses import JSONResponse, Response

from secateur.jobs import Artifact, ArtifactList
from secateur.plan import Plan
from secateur.report import Report
from secateur.search import Minimize
from service import downloads, errors
from service.conditions import ByteRange, Unsatisfiable, is_match, requested_range
from service.dependencies import IfNoneMatch, Services, ServicesDependency
from service.picture import Format
from service.problems import problems
from service.representations import picture_response
from service.search_chart import search_chart

router = APIRouter(prefix="/v1", tags=["results"])

_FILE = {
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    "headers": {
        "ETag": {"description": "The sha256 of the file.", "schema": {"type": "string"}},
        "Repr-Digest": {
            "description": "The sha256 of the whole file (RFC 9530).",
            "schema": {"type": "string"},
        },
    },
}

_NO_CHART = problems(
    errors.JobNotFound,
    errors.JobNotFinished,
    errors.JobHasNoResult,
    errors.JobHasNoSearch,
    errors.RequestInvalid,
)

Against = Annotated[
    Minimize | None,
    Query(description="What the horizontal axis shows; what was minimized if it is left out."),
]


@router.get(
    "/jobs/{job_id}/result",
    summary="Get a job's result",
    response_model=Report | Plan,
    responses=problems(errors.JobNotFound, errors.JobNotFinished, errors.JobHasNoResult),
)
def get_result(job_id: str, services: ServicesDependency) -> Response:
    """What was measured (a report), or for a dry run what was decided (a plan).

    A job that failed with `safety.promise_broken` has its report all the same: it says what was
    lost. Any other job that failed or was canceled has no result: 409, with the failure's code in
    the detail.
    """
    return JSONResponse(services.jobs.result(job_id))


@router.get(
    "/jobs/{job_id}/chart.svg",
    summary="Draw a job's trials as SVG",
    response_class=Response,
    responses={
        200: {"content": {"image/svg+xml": {"schema": {"type": "string"}}}},
        **_NO_CHART,
    },
)
def get_job_chart_svg(
    job_id: str, services: ServicesDependency, against: Against = None
) -> Response:
    """Accuracy on the validation rows against size: a point for each model that was tried.

    With a budget of `loss`, the loss. Delivered, keeping the promise and breaking it are told
    apart; a line joins those of which none is smaller and as good; dashed are the original and the
    limit. For a job whose budget is neither: 409.
    """
    return _drawn_search(services, job_id, against, "svg")


@router.get(
    "/jobs/{job_id}/chart.png",
    summary="Draw a job's trials as PNG",
    response_class=Response,
    responses={
        200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}},
        **_NO_CHART,
    },
)
def get_job_chart_png(
    job_id: str, services: ServicesDependency, against: Against = None
) -> Response:
    """The same as `chart.svg`, in pixels."""
    return _drawn_search(services, job_id, against, "png")


def _drawn_search(
    services: Services, job_id: str, against: Minimize | None, file_format: Format
) -> Response:
    search = services.jobs.search(job_id)
    title = services.jobs.get(job_id).label or job_id
    drawn = search_chart(search, file_format, title=title, against=against)
    return picture_response(drawn, file_format)


@router.get(
    "/jobs/{job_id}/artifacts",
    summary="List a job's artifacts",
    response_model=ArtifactList,
    responses=problems(errors.JobNotFound),
)
def list_artifacts(job_id: str, services: ServicesDependency) -> ArtifactList:
    """The files that a job made, by name; none before it has ended.

    A job that failed with `safety.promise_broken` has its report, plans and manifest, and no model.
    """
    return ArtifactList(data=services.jobs.artifacts(job_id), next_cursor=None)


@router.get(
    "/artifacts/{artifact_id}",
    summary="Download an artifact",
    response_class=Response,
    responses={
        200: {"description": "The whole file.", **_FILE},
        206: {"description": "The part that `Range` asks for.", **_FILE},
        304: {"description": "You have it: it is as your `If-None-Match` says."},
        **problems(errors.ArtifactNotFound, errors.RangeNotSatisfiable),
    },
)
async def download_artifact(
    artifact_id: str,
    services: ServicesDependency,
    if_none_match: IfNoneMatch = None,
    range_header: Annotated[
        str | None,
        Header(
            alias="Range",
            description="One range of bytes, to go on with a download.",
            examples=["bytes=1048576-"],
        ),
    ] = None,
    if_range: Annotated[
        str | None, Header(description="The `ETag` of what you have; else the whole comes.")
    ] = None,
) -> Response:
    """A file that a job made. It never changes: `ETag` is its sha256."""
    artifact = await run_sync(services.jobs.artifact, artifact_id)
    etag = downloads.artifact_etag(artifact)
    if is_match(if_none_match, etag):
        return downloads.not_modified(artifact)
    part = _requested(artifact, range_header, if_range)
    file = await run_sync(services.jobs.open, artifact)
    return downloads.download(artifact, file, part)


@router.head(
    "/artifacts/{artifact_id}",
    summary="Look at an artifact",
    response_class=Response,
    responses={
        200: {"description": "The headers that a download has.", "headers": _FILE["headers"]},
        304: {"description": "You have it: it is as your `If-None-Match` says."},
        **problems(errors.ArtifactNotFound),
    },
)
def head_artifact(
    artifact_id: str, services: ServicesDependency, if_none_match: IfNoneMatch = None
) -> Response:
    """Size, digest and type of an artifact, without its bytes."""
    artifact = services.jobs.artifact(artifact_id)
    if is_match(if_none_match, downloads.artifact_etag(artifact)):
        return downloads.not_modified(artifact)
    return downloads.head(artifact)


def _requested(
    artifact: Artifact, range_header: str | None, if_range: str | None
) -> ByteRange | None:
    try:
        return requested_range(
            range_header,
            if_range=if_range,
            etag=downloads.artifact_etag(artifact),
            size_bytes=artifact.size_bytes,
        )
    except Unsatisfiable as error:
        raise errors.RangeNotSatisfiable(size_bytes=artifact.size_bytes) from error
