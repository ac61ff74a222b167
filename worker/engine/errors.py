"""Every way in which the engine says no.

* EngineError
  * ModelError
    x UnreadableModelError    model.unreadable
    x UnsupportedModelError   model.unsupported
    x TrainingModeError       model.training_mode
    x QuantizedModelError     model.quantized
    x BaselineError           model.does_not_run
    x NotFiniteError          model.not_finite
  * GraphError
    x ExportError             graph.export_failed
  * PlanError
    x NothingToPruneError     plan.nothing_to_prune
    x TargetUnreachableError  plan.target_unreachable
    x PlanMismatchError       plan.mismatch
    x PairError               plan.pair
    x CriterionError          plan.criterion
  * TransformError
    x NothingToChangeError    transform.nothing_to_change
  * DataError
    x UnreadableDataError     data.unreadable
    x DataMismatchError       data.mismatch
  * RecoveryError
    x DivergedError           finetune.diverged
    x UntrainableError        finetune.untrainable
  * DeviceError
    x PrecisionUnavailableError  precision.unavailable
  * MeasureError
    x CompilerError           measure.compile_failed
  * VerificationError
    x OutputsDifferError      verify.outputs_differ
    x CountsDifferError       verify.counts_differ
  * SafetyError
    x PromiseBrokenError      safety.promise_broken

Messages reach users: they say what was wrong, with the value; what is allowed; what to do.
"""

from typing import Any, ClassVar


class EngineError(Exception):
    """Base of all. Only the leaves are raised; each leaf has a code of its own.

    ``pointer`` is the field that is the reason, as a JSON pointer; None where no field is.
    ``in_step`` says that it leads into the step of the recipe that is done, whose place is not
    known where the error is raised; else it leads into the whole spec.
    """

    code: ClassVar[str]

    def __init__(self, message: str, *, pointer: str | None = None, in_step: bool = True) -> None:
        super().__init__(message)
        self.pointer = pointer
        self.in_step = in_step


class ModelError(EngineError):
    """The uploaded model is the reason."""


class UnreadableModelError(ModelError):
    code = "model.unreadable"


class UnsupportedModelError(ModelError):
    """The model is in order, and has a part that its reader does not know; the message names it."""

    code = "model.unsupported"


class TrainingModeError(ModelError):
    code = "model.training_mode"


class QuantizedModelError(ModelError):
    code = "model.quantized"


class BaselineError(ModelError):
    code = "model.does_not_run"


class NotFiniteError(ModelError):
    code = "model.not_finite"


class GraphError(EngineError):
    """The program's graph is the reason."""


class ExportError(GraphError):
    code = "graph.export_failed"


class PlanError(EngineError):
    """What was asked cannot be decided on this program."""


class NothingToPruneError(PlanError):
    code = "plan.nothing_to_prune"


class TargetUnreachableError(PlanError):
    code = "plan.target_unreachable"


class PlanMismatchError(PlanError):
    code = "plan.mismatch"


class PairError(PlanError):
    """Channels cannot be merged as asked."""

    code = "plan.pair"


class CriterionError(PlanError):
    """The criterion cannot score this model."""

    code = "plan.criterion"


class TransformError(EngineError):
    """A step that factorizes, quantizes or casts is the reason."""


class NothingToChangeError(TransformError):
    """No layer is of a kind that the step changes, or none would get smaller."""

    code = "transform.nothing_to_change"


class DataError(EngineError):
    """The data set is the reason."""


class UnreadableDataError(DataError):
    code = "data.unreadable"


class DataMismatchError(DataError):
    code = "data.mismatch"


class RecoveryError(EngineError):
    """Accuracy could not be regained the way that was asked."""


class DivergedError(RecoveryError):
    code = "finetune.diverged"


class UntrainableError(RecoveryError):
    """The model's gradient cannot be computed."""

    code = "finetune.untrainable"


class DeviceError(EngineError):
    """The device of the worker is the reason."""


class PrecisionUnavailableError(DeviceError):
    code = "precision.unavailable"


class MeasureError(EngineError):
    """Something cannot be measured as asked."""


class CompilerError(MeasureError):
    """The model does not run behind a compiler here."""

    code = "measure.compile_failed"


class VerificationError(EngineError):
    """The result was checked and is not delivered."""


class OutputsDifferError(VerificationError):
    code = "verify.outputs_differ"


class CountsDifferError(VerificationError):
    code = "verify.counts_differ"


class SafetyError(EngineError):
    """The result is right, and not what was promised."""


class PromiseBrokenError(SafetyError):
    """More was lost than the request allows. The report of the whole run comes with it."""

    code = "safety.promise_broken"

    def __init__(self, message: str, report: dict[str, Any] | None = None) -> None:
        self.report = report
        super().__init__(message)
