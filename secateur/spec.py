"""What a caller asks for: the job spec. Frozen, JSON, hashed."""

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from secateur.factorization import FactorizeStep
from secateur.objective import Objective
from secateur.outputs import OutputFormat
from secateur.precision import CastStep
from secateur.pruning import Exclude, Granularity, PruneStep
from secateur.quantization import Activations, QuantizeStep
from secateur.recovery import DistillStep, FinetuneStep, Recovery
from secateur.safety import Safety, check_measured
from secateur.schema import Input

SPEC_VERSION = 1


# PostgreSQL keeps no text with a zero in it.
Label = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]


IGNORED_OF_PLAN = frozenset(
    {
        "algorithm",
        "criterion",
        "scope",
        "aggregation",
        "normalization",
        "budget",
        "seed",
        "baseline",
        "predicted",
        "keep_sha256",
        "sizes",
        "sparse",
        "frozen",
        "warnings",
    }
)
"""What a plan says of itself: taken along when it is sent back, and not read."""

IGNORED_OF_GROUP = frozenset({"name", "granularity", "channel_names", "importance", "members"})
"""The same, of each of its channel groups."""


def bare_plan(plan: Any) -> Any:
    """A plan's document without what is not read when it is applied; anything else as it is."""
    if isinstance(plan, BaseModel):
        plan = plan.model_dump(mode="json")
    if not isinstance(plan, Mapping):
        return plan
    bare = {name: value for name, value in plan.items() if name not in IGNORED_OF_PLAN}
    if isinstance(bare.get("channel_groups"), list | tuple):
        bare["channel_groups"] = [_bare_group(group) for group in bare["channel_groups"]]
    return bare


def _bare_group(group: Any) -> Any:
    if not isinstance(group, Mapping):
        return group
    return {name: value for name, value in group.items() if name not in IGNORED_OF_GROUP}


def _sorted(keep: tuple[int, ...]) -> tuple[int, ...]:
    if twice := _repeated(keep):
        raise ValueError(f"each channel once; named more than once: {twice}")
    return tuple(sorted(keep))


def _repeated(values: Iterable[Hashable]) -> str:
    """What is there more than once, or the first five of it."""
    twice = [value for value, count in Counter(values).items() if count > 1]
    return ", ".join(str(value) for value in twice[:5])


def _takes_more(schema: dict[str, Any]) -> None:
    """What a whole plan says more is dropped before it is checked: the schema allows it."""
    schema.pop("additionalProperties", None)


class GivenMerge(Input):
    """A channel that goes, and the one that stands in for it."""

    source: Annotated[int, Field(ge=0, strict=True)] = Field(description="The channel that goes.")
    target: Annotated[int, Field(ge=0, strict=True)] = Field(description="The one that stays.")
    scales: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(
        description="For each weight that reads both: what the stand-in is multiplied by."
    )


class GivenGroup(Input):
    """A channel group, and which of its channels stay."""

    model_config = ConfigDict(json_schema_extra=_takes_more)

    id: Label = Field(examples=["g3"])
    keep: Annotated[
        tuple[Annotated[int, Field(ge=0, strict=True)], ...], AfterValidator(_sorted)
    ] = Field(description="Channels that stay; all others of the group go.", examples=[[0, 2, 3]])
    channel_count: int | None = Field(
        default=None, ge=1, description="Where given, the group must have as many channels."
    )
    merges: tuple[GivenMerge, ...] = Field(
        default=(), description="Which removed channels are read from others: a shift's."
    )


class GivenPlan(Input):
    """A plan as it was downloaded, whole, or only what is needed to apply it.

    Groups that it leaves out stay whole. Scores, counts and all else that a plan says of itself is
    taken and not read; a field that no plan has is refused.
    """

    model_config = ConfigDict(json_schema_extra=_takes_more)

    format_version: Literal[3]
    model_sha256: str = Field(
        pattern="^[0-9a-f]{64}$", description="Of the model's file that the plan was made for."
    )
    granularity: Granularity = Field(
        default=Granularity.CHANNELS, description="As the plan was made: it decides the groups."
    )
    exclude: Exclude = Field(default=())
    channel_groups: tuple[GivenGroup, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, given: Any) -> Any:
        return bare_plan(given)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if twice := _repeated(group.id for group in self.channel_groups):
            raise ValueError(f"each channel group once; given more than once: {twice}")
        return self


class ApplyPlanStep(Input):
    """Take out exactly what a plan says that was downloaded, and perhaps edited."""

    step: Literal["apply_plan"]
    plan: GivenPlan


Step = Annotated[
    PruneStep | ApplyPlanStep | FactorizeStep | QuantizeStep | CastStep | Recovery,
    Field(discriminator="step"),
]
"""A step of a recipe. Steps run in the order given."""


class Data(Input):
    """Which data sets a job may use, and for what."""

    train: str | None = Field(
        default=None,
        description="Data set for recalibration and distillation (inputs) and fine-tuning (inputs "
        "and targets).",
        examples=["dst_0f8n2q4k6m8p0r2t4v6x8z0b"],
    )
    test: str | None = Field(
        default=None,
        description="Data set that accuracy, loss and agreement are measured on, before and after.",
    )
    validation_fraction: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Fraction of the rows of `train` that are held out, drawn by the seed, if a "
        "step of the recipe keeps what is best on them (`keep: best`), or looks for the smallest "
        "model. No step trains on them.",
    )


class LatencyMode(StrEnum):
    """How the models run whose latency is measured."""

    EAGER = "eager"
    COMPILED = "compiled"


class Evaluation(Input):
    """How the original and the compressed model are measured."""

    batch_size: int = Field(default=64, ge=1, le=65536, description="Rows per batch on test data.")
    latency_batch_size: int = Field(
        default=1, ge=1, le=65536, description="Rows per call when latency is measured."
    )
    latency_mode: LatencyMode = Field(
        default=LatencyMode.EAGER,
        description="`eager`: the saved program as it is loaded. `compiled`: behind torch.compile.",
    )
    latency_rounds: int = Field(
        default=50,
        ge=0,
        le=10_000,
        description="Timed rounds; each runs both models once, interleaved. 0 measures no latency.",
    )
    noise_std: float | None = Field(
        default=None,
        gt=0,
        le=1e30,  # More is infinite in float32.
        allow_inf_nan=False,
        description="Measure accuracy with seeded Gaussian noise of this standard deviation added "
        "to the floating-point inputs, in their own unit.",
        examples=[0.1],
    )
    fgsm_epsilon: float | None = Field(
        default=None,
        gt=0,
        le=1e30,
        allow_inf_nan=False,
        description="Measure accuracy under the one-step gradient attack (FGSM) that moves each "
        "value of the first floating-point input by this much, in its own unit.",
        examples=[0.03],
    )


def _in_order(formats: tuple[OutputFormat, ...]) -> tuple[OutputFormat, ...]:
    if twice := _repeated(formats):
        raise ValueError(f"each format once; named more than once: {twice}")
    return tuple(each for each in OutputFormat if each in formats)


OutputFormats = Annotated[tuple[OutputFormat, ...], AfterValidator(_in_order)]
"""Formats of a result, each once; their order says nothing."""


class JobFrame(Input):
    """What a job is asked besides its recipe. The jobs of a sweep share it."""

    model_id: str = Field(examples=["mdl_0f8n2q4k6m8p0r2t4v6x8z0b"])
    data: Data = Field(default_factory=Data)
    objective: Objective = Field(default_factory=Objective)
    evaluation: Evaluation = Field(default_factory=Evaluation)
    output_formats: OutputFormats | None = Field(
        default=None,
        description="Formats of the compressed model, besides `pt2` and `safetensors`, which every "
        "job gives. By default the one that the model was uploaded in, where there is one.",
        examples=[["onnx"]],
    )
    safety: Safety | None = Field(
        default=None, description="Promises: a job that breaks one fails, and keeps its report."
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="Same seed, same result on a CPU.")
    label: Label | None = Field(default=None, description="Yours, for finding jobs.")
    run_timeout_s: int = Field(
        default=3600,
        ge=1,
        le=7 * 86400,
        description="Longest run of one attempt in seconds; time in the queue does not count.",
    )

    @property
    def sha256(self) -> str:
        """Hex digest of the canonical spec. The label takes no part: it changes no result."""
        canonical = self.model_dump_json(exclude={"label"})
        return hashlib.sha256(canonical.encode()).hexdigest()


Recipe = Annotated[tuple[Step, ...], Field(min_length=1, max_length=100)]


class JobSpec(JobFrame):
    """One model, one recipe, and how the result is measured."""

    spec_version: Literal[1] = Field(default=1, description="Version of this schema.")
    recipe: Recipe

    @model_validator(mode="after")
    def _a_step_compresses(self) -> Self:
        if not any(isinstance(step, Compressing) for step in self.recipe):
            raise ValueError(
                "recipe: at least one step must be 'prune', 'apply_plan', 'factorize', 'quantize' "
                "or 'cast', or nothing is compressed"
            )
        return self

    @model_validator(mode="after")
    def _numbers_change_last(self) -> Self:
        if found := _out_of_order(self.recipe):
            at, message = found
            problem = InitErrorDetails(
                type=PydanticCustomError("order", "{message}", {"message": message}),
                loc=("recipe", at),
                input=self.recipe[at].step,
            )
            raise ValidationError.from_exception_data("JobSpec", [problem])
        return self

    @model_validator(mode="after")
    def _one_search(self) -> Self:
        pruning = [
            at for at, step in enumerate(self.recipe) if isinstance(step, PruneStep | ApplyPlanStep)
        ]
        searching = [at for at in pruning if is_searching(self.recipe[at])]
        if searching and len(pruning) > 1:
            other = next(at for at in pruning if at != searching[0])
            raise ValueError(
                f"recipe: step {searching[0]} looks for the smallest model that keeps a promise, "
                f"and step {other} prunes, too: a search is the only step of a job that prunes"
            )
        return self

    @model_validator(mode="after")
    def _promises_are_measured(self) -> Self:
        if self.safety is not None:
            given = (name for name, value in self.evaluation if value is not None)
            check_measured(self.safety, frozenset(given))
        return self


Compressing = PruneStep | ApplyPlanStep | FactorizeStep | QuantizeStep | CastStep
"""A step that makes a model smaller."""


def _out_of_order(recipe: tuple[Step, ...]) -> tuple[int, str] | None:
    """Which of the steps around those that change how numbers are stored is wrong, and why."""
    quantized = _places(recipe, QuantizeStep)
    cast = _places(recipe, CastStep)
    for name, places in (("quantize", quantized), ("cast", cast)):
        if len(places) > 1:
            return (
                places[1],
                (
                    f"steps {places[0]} and {places[1]} are both '{name}': one is all that there "
                    "can be"
                ),
            )
    for at, step in enumerate(recipe):
        if cast and at > cast[0] and not isinstance(step, QuantizeStep):
            return (
                at,
                (
                    f"step {at} is '{step.step}' and comes after 'cast', which only 'quantize' may "
                    "follow: put it before"
                ),
            )
        may_follow = isinstance(step, FinetuneStep | DistillStep)
        if quantized and at > quantized[0] and not may_follow:
            return (
                at,
                (
                    f"step {at} is '{step.step}' and comes after 'quantize', which only 'finetune' "
                    "and 'distill' may follow: put it before"
                ),
            )
    if quantized and cast and recipe[quantized[0]].activations is not Activations.FLOAT:  # type: ignore[union-attr]
        return (
            quantized[0],
            (
                f"step {quantized[0]} computes with integers, and step {cast[0]} with floats of "
                "fewer bits: leave one out, or quantize weights alone (`activations: float`)"
            ),
        )
    return None


def _places(recipe: tuple[Step, ...], kind: type[Step]) -> list[int]:
    return [at for at, step in enumerate(recipe) if isinstance(step, kind)]


def is_searching(step: Step) -> bool:
    """Whether a step tries models, each recovered by the steps that follow it."""
    return isinstance(step, PruneStep) and step.budget is not None and step.budget.is_searched


class PlanSpec(Input):
    """A dry run: what one prune step would remove, before any weight changes."""

    model_id: str = Field(examples=["mdl_0f8n2q4k6m8p0r2t4v6x8z0b"])
    prune: PruneStep
    data: Data = Field(default_factory=Data, description="`train`, for criteria that need it.")
    objective: Objective = Field(
        default_factory=Objective, description="For criteria that need labels."
    )
    seed: int = Field(default=0, ge=0, lt=2**63)
    label: Label | None = None

    @model_validator(mode="after")
    def _can_be_planned(self) -> Self:
        if is_searching(self.prune):
            raise ValueError(
                "prune: a budget of accuracy or loss is met by trying models, so that there is "
                "nothing to plan: submit a job, whose plan.json is that of the model it found"
            )
        return self

    def as_job_spec(self) -> JobSpec:
        return JobSpec(
            model_id=self.model_id,
            recipe=(self.prune,),
            data=self.data,
            objective=self.objective,
            seed=self.seed,
            label=self.label,
        )


def job_spec_schema() -> dict[str, object]:
    """The JSON Schema (2020-12) of a job spec."""
    schema = JobSpec.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
