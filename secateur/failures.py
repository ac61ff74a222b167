"""Why a job failed: data on the job, never an HTTP error."""

from enum import StrEnum

from pydantic import Field

from secateur.schema import Output


class FailureCode(StrEnum):
    """Stable reasons. Added or deprecated, never renamed; each has a section in docs/errors.md."""

    MODEL_UNREADABLE = "model.unreadable"
    MODEL_UNSUPPORTED = "model.unsupported"
    MODEL_UNSUPPORTED_LAYER = "model.unsupported_layer"
    MODEL_ARCHITECTURE = "model.architecture"
    MODEL_TORCHSCRIPT = "model.torchscript"
    MODEL_NOT_KERAS = "model.not_keras"
    MODEL_TRAINING_MODE = "model.training_mode"
    MODEL_QUANTIZED = "model.quantized"
    MODEL_DOES_NOT_RUN = "model.does_not_run"
    MODEL_NOT_FINITE = "model.not_finite"
    GRAPH_EXPORT_FAILED = "graph.export_failed"
    PLAN_NOTHING_TO_PRUNE = "plan.nothing_to_prune"
    PLAN_TARGET_UNREACHABLE = "plan.target_unreachable"
    PLAN_MISMATCH = "plan.mismatch"
    PLAN_PAIR = "plan.pair"
    PLAN_CRITERION = "plan.criterion"
    TRANSFORM_NOTHING_TO_CHANGE = "transform.nothing_to_change"
    DATA_UNREADABLE = "data.unreadable"
    DATA_MISMATCH = "data.mismatch"
    FINETUNE_DIVERGED = "finetune.diverged"
    PRECISION_UNAVAILABLE = "precision.unavailable"
    MEASURE_COMPILE_FAILED = "measure.compile_failed"
    FINETUNE_UNTRAINABLE = "finetune.untrainable"
    VERIFY_OUTPUTS_DIFFER = "verify.outputs_differ"
    VERIFY_COUNTS_DIFFER = "verify.counts_differ"
    SAFETY_PROMISE_BROKEN = "safety.promise_broken"
    RESOURCE_OUT_OF_MEMORY = "resource.out_of_memory"
    RESOURCE_TIME_LIMIT = "resource.time_limit"
    RESOURCE_WORKER_LOST = "resource.worker_lost"
    INTERNAL = "internal"

    @property
    def is_retryable(self) -> bool:
        """Whether the same job may succeed when tried again, elsewhere or with more room."""
        return self in _RETRYABLE

    @property
    def has_result(self) -> bool:
        """Whether a job that ends so has a result and artifacts all the same, but no model."""
        return self is FailureCode.SAFETY_PROMISE_BROKEN


_RETRYABLE = frozenset(
    {
        FailureCode.PRECISION_UNAVAILABLE,
        FailureCode.RESOURCE_OUT_OF_MEMORY,
        FailureCode.RESOURCE_TIME_LIMIT,
        FailureCode.RESOURCE_WORKER_LOST,
        FailureCode.INTERNAL,
    }
)


class Failure(Output):
    """How a job ended that did not succeed."""

    code: FailureCode
    detail: str = Field(description="What was wrong, what is allowed, what to do.")
    is_retryable: bool = Field(description="Whether the same job may succeed when sent again.")
    pointer: str | None = Field(
        description="JSON pointer into the spec; null where no field is the reason.",
        examples=["/recipe/0/budget/macs"],
    )

    @classmethod
    def of(cls, code: FailureCode, detail: str, pointer: str | None = None) -> "Failure":
        return cls(code=code, detail=detail, is_retryable=code.is_retryable, pointer=pointer)
