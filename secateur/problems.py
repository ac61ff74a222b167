"""The one shape of every HTTP error (RFC 9457), and what else the service says of itself."""

from typing import Any

from pydantic import Field

from secateur.schema import Output


class FieldProblem(Output):
    """What is wrong with one field of a request."""

    pointer: str = Field(
        description="JSON pointer into the body; `query:name` or `header:name` elsewhere.",
        examples=["/recipe/0/criterion"],
    )
    code: str = Field(examples=["enum"])
    detail: str


class Problem(Output):
    """Why a request was not done."""

    type: str = Field(description="Link to the section on `code`.")
    title: str
    status: int
    detail: str = Field(description="What was wrong, what is allowed, what to do.")
    instance: str = Field(description="Path of the request.")
    code: str = Field(description="Stable: program against this.", examples=["model.not_found"])
    errors: list[FieldProblem] = Field(
        description="Field by field; empty where it is not about fields."
    )
    retryable: bool = Field(description="Whether the same request may succeed later.")
    request_id: str


class Validation(Output):
    """Whether a spec would be taken, without taking it."""

    valid: bool
    problems: list[FieldProblem]
    canonical_spec: dict[str, Any] | None = Field(description="With every default written out.")
    spec_sha256: str | None


class OptionInfo(Output):
    """Something that may be said of a criterion besides its name."""

    name: str
    description: str
    choices: list[str] | None = Field(description="What it may be; null where it is a number.")
    default: str | int


class ModelFormatStatus(Output):
    """A format in which models are taken."""

    name: str = Field(examples=["saved_model"])
    summary: str
    is_available: bool = Field(
        description="Whether a worker is up that reads it. While none is, jobs are refused on "
        "models of a format that only some workers read; others wait for a worker."
    )


class PrecisionStatus(Output):
    """A data type of fewer bits that models are cast to."""

    name: str = Field(examples=["bfloat16"])
    summary: str
    is_available: bool = Field(
        description="Whether a worker is up whose device computes with it. While workers are up "
        "and none has it, jobs that cast to it are refused; while none is up at all, jobs wait, "
        "but those that need what only some devices have."
    )


class OutputFormatInfo(Output):
    """A format in which the compressed model is given."""

    name: str = Field(examples=["onnx"])
    summary: str
    file: str = Field(description="Name of the artifact.", examples=["model.onnx"])
    uploads: list[str] | None = Field(
        description="Formats of uploads that can be given back so; null is any."
    )


class CriterionInfo(Output):
    """A way to score channels."""

    name: str
    summary: str
    needs_data: bool = Field(description="Needs `data.train`.")
    needs_labels: bool = Field(
        description="Needs targets in it, unless the option `targets` is `outputs`."
    )
    scores_weights: bool = Field(description="Can score single weights: for algorithm `zero`.")
    normalization: str = Field(description="What a prune step without a `normalization` gets.")
    options: list[OptionInfo]


class StepInfo(Output):
    """A step that a recipe may hold."""

    name: str
    summary: str
    needs_data: bool
    needs_labels: bool


class BudgetInfo(Output):
    """A way to say how much is removed."""

    name: str
    summary: str
    needs_data: bool
    needs_labels: bool


class TaskInfo(Output):
    """What right may mean for a model."""

    name: str
    summary: str = Field(description="The shapes of output and targets.")
    has_accuracy: bool


class Limits(Output):
    """The largest things that are taken."""

    model_bytes: int
    dataset_bytes: int
    page_size: int
    wait_s: int
    sweep_jobs: int


class Capabilities(Output):
    """What this service can do."""

    version: str
    spec_version: int
    model_formats: list[str]
    models: list[ModelFormatStatus]
    precisions: list[PrecisionStatus]
    output_formats: list[OutputFormatInfo]
    dataset_formats: list[str]
    criteria: list[CriterionInfo]
    algorithms: list[str]
    aggregations: list[str]
    normalizations: list[str]
    schedules: list[str]
    scopes: list[str]
    granularities: list[str]
    budgets: list[BudgetInfo]
    minimize: list[str] = Field(description="What a search may look for the least of.")
    tasks: list[TaskInfo]
    latency_modes: list[str]
    steps: list[StepInfo]
    limits: Limits
