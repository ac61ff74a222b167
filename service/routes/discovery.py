"""What the service can do, and whether it would take a spec."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from pydantic import ValidationError

import secateur
from secateur.capabilities import CRITERIA, STEPS, budgets, options_of
from secateur.criteria import Aggregation, Normalization
from secateur.models import DatasetFormat, ModelFormat
from secateur.objective import TASKS
from secateur.outputs import OUTPUT_FORMATS
from secateur.problems import (
    Capabilities,
    CriterionInfo,
    Limits,
    OutputFormatInfo,
    StepInfo,
    TaskInfo,
    Validation,
)
from secateur.pruning import Algorithm, Granularity, Schedule, Scope
from secateur.search import Minimize
from secateur.spec import SPEC_VERSION, JobSpec, LatencyMode, job_spec_schema
from secateur.sweeps import MOST_JOBS
from service.dependencies import PAGE_MAX_ROWS, ServicesDependency
from service.errors import BodyTooLarge, MediaTypeUnsupported, RequestInvalid
from service.json_bodies import StrictJsonRoute
from service.problems import field_problems, problems

router = APIRouter(prefix="/v1", tags=["discovery"], route_class=StrictJsonRoute)


@router.get("/capabilities", summary="What this service can do", response_model=Capabilities)
def get_capabilities(services: ServicesDependency) -> Capabilities:
    """Formats, steps, criteria, budgets and tasks that a spec may name, and the largest sizes."""
    return Capabilities(
        version=secateur.__version__,
        spec_version=SPEC_VERSION,
        model_formats=list(ModelFormat),
        models=services.jobs.model_formats(),
        precisions=services.jobs.precisions(),
        output_formats=[
            OutputFormatInfo(
                name=name,
                summary=info.summary,
                file=info.file,
                uploads=None if info.uploads is None else sorted(info.uploads),
            )
            for name, info in OUTPUT_FORMATS.items()
        ],
        dataset_formats=list(DatasetFormat),
        criteria=[
            CriterionInfo(
                name=name,
                summary=needs.summary,
                needs_data=needs.data,
                needs_labels=needs.labels,
                scores_weights=needs.elements,
                normalization=needs.normalization,
                options=options_of(name),
            )
            for name, needs in CRITERIA.items()
        ],
        algorithms=list(Algorithm),
        aggregations=list(Aggregation),
        normalizations=list(Normalization),
        schedules=list(Schedule),
        scopes=list(Scope),
        granularities=list(Granularity),
        budgets=budgets(),
        minimize=list(Minimize),
        tasks=[
            TaskInfo(name=task, summary=summary, has_accuracy=task.has_accuracy)
            for task, summary in TASKS.items()
        ],
        latency_modes=list(LatencyMode),
        steps=[
            StepInfo(
                name=name,
                summary=needs.summary,
                needs_data=needs.data,
                needs_labels=needs.labels,
            )
            for name, needs in STEPS.items()
        ],
        limits=Limits(
            model_bytes=services.settings.model_max_bytes,
            dataset_bytes=services.settings.dataset_max_bytes,
            page_size=PAGE_MAX_ROWS,
            wait_s=int(services.settings.wait_max_s),
            sweep_jobs=MOST_JOBS,
        ),
    )


@router.get("/schemas/job-spec", summary="The JSON Schema of a job spec")
def get_job_spec_schema() -> dict[str, object]:
    """JSON Schema (2020-12): for editors, and for checking without a service."""
    return job_spec_schema()


@router.post(
    "/jobs/validate",
    summary="Check a spec",
    response_model=Validation,
    responses=problems(RequestInvalid, MediaTypeUnsupported, BodyTooLarge),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobSpec"}}},
        }
    },
)
def validate_job(
    request: Request, body: Annotated[Any, Body()], services: ServicesDependency
) -> Validation:
    """Say whether a spec would be taken, and everything that is wrong with it, without taking it.

    `canonical_spec` has every default written out; specs with the same `spec_sha256` ask for the
    same.
    """
    if isinstance(body, bytes):  # FastAPI reads as JSON only what is called JSON.
        media_type = request.headers.get("content-type", "")
        raise MediaTypeUnsupported(media_type, allowed="application/json")
    try:
        spec = JobSpec.model_validate(body)
    except ValidationError as error:
        found = field_problems({**each, "loc": ("body", *each["loc"])} for each in error.errors())
        return Validation(valid=False, problems=found, canonical_spec=None, spec_sha256=None)
    return services.jobs.validate(spec)
