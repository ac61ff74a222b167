"""How channels are scored: the criteria, what each needs, and their options."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, SerializationInfo, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from secateur.schema import Input


class Criterion(StrEnum):
    """How channels are scored. Each has an implementation of the same name in the engine."""

    MAGNITUDE = "magnitude"
    WEIGHT_VARIANCE = "weight_variance"
    COSINE_SIMILARITY = "cosine_similarity"
    GEOMETRIC_MEDIAN = "geometric_median"
    BATCH_NORM_SCALE = "batch_norm_scale"
    LAMP = "lamp"
    SYNFLOW = "synflow"
    RANDOM = "random"
    ACTIVATION_MEAN = "activation_mean"
    ACTIVATION_VARIANCE = "activation_variance"
    WANDA = "wanda"
    RECONSTRUCTION = "reconstruction"
    TAYLOR = "taylor"
    FISHER = "fisher"
    HESSIAN = "hessian"
    SNIP = "snip"
    SENSITIVITY = "sensitivity"


class Norm(StrEnum):
    """How weights become one number: sum of absolutes, sum of squares, the largest absolute."""

    L1 = "l1"
    L2 = "l2"
    LINF = "linf"


class Slices(StrEnum):
    """Whose weights count: every slice that goes with a channel, or those that make it alone."""

    COUPLED = "coupled"
    PRODUCER = "producer"


class Targets(StrEnum):
    """What the loss is measured against: the data's labels, or the model's own outputs."""

    LABELS = "labels"
    OUTPUTS = "outputs"


class Normalization(StrEnum):
    """What the scores of a channel group are divided by before they are ranked with others."""

    NONE = "none"
    MEAN = "mean"
    MAX = "max"
    STANDARDIZED = "standardized"
    PER_MAC = "per_mac"
    PER_PARAMETER = "per_parameter"


class Aggregation(StrEnum):
    """How the scores of the slices of one channel become one."""

    SUM = "sum"
    MEAN = "mean"
    MAX = "max"
    GEOMETRIC_MEAN = "geometric_mean"
    FIRST = "first"


@dataclass(frozen=True)
class CriterionNeeds:
    """One line of description, what must come with the job, and what may be said besides.

    Attributes:
        summary: For people who choose.
        data: Needs training inputs.
        labels: Needs training targets, unless the option ``targets`` is ``outputs``.
        elements: Can score single weights too, which ``algorithm: zero`` asks for.
        options: Names of the fields of :class:`CriterionChoice` that it takes.
        normalization: The one that a spec without its own gets.
    """

    summary: str
    data: bool = False
    labels: bool = False
    elements: bool = False
    options: tuple[str, ...] = ()
    normalization: Normalization = Normalization.NONE


_ROWS = ("sample_count", "batch_size")
_LOSS = (*_ROWS, "targets")

CRITERIA: Mapping[Criterion, CriterionNeeds] = {
    Criterion.MAGNITUDE: CriterionNeeds(
        "Size of the weights: L1, L2 or largest, over every slice of a channel or its producer's.",
        elements=True,
        options=("norm", "slices"),
        normalization=Normalization.MEAN,
    ),
    Criterion.WEIGHT_VARIANCE: CriterionNeeds(
        "Variance of the weights that make a channel.", normalization=Normalization.MEAN
    ),
    Criterion.COSINE_SIMILARITY: CriterionNeeds(
        "Redundancy: a channel goes when the weights of another point the same way.",
    ),
    Criterion.GEOMETRIC_MEDIAN: CriterionNeeds(
        "FPGM: distance of the weights of a channel to those of all others of its group.",
        normalization=Normalization.MEAN,
    ),
    Criterion.BATCH_NORM_SCALE: CriterionNeeds(
        "Absolute scale of the batch norm that a channel goes through.",
    ),
    Criterion.LAMP: CriterionNeeds(
        "Magnitude, relative to all that is at least as large in its group.", elements=True
    ),
    Criterion.SYNFLOW: CriterionNeeds(
        "Synaptic flow: what weights carry from an input of ones to the outputs.", elements=True
    ),
    Criterion.RANDOM: CriterionNeeds(
        "A seeded random order: the yardstick for every other criterion.", elements=True
    ),
    Criterion.ACTIVATION_MEAN: CriterionNeeds(
        "Mean absolute activation, as its readers see it.",
        data=True,
        options=_ROWS,
        normalization=Normalization.MEAN,
    ),
    Criterion.ACTIVATION_VARIANCE: CriterionNeeds(
        "Variance of the activation: minimum-variance pruning removes what hardly varies.",
        data=True,
        options=_ROWS,
        normalization=Normalization.MEAN,
    ),
    Criterion.WANDA: CriterionNeeds(
        "Absolute weights of the readers, times the norm of what they read.",
        data=True,
        elements=True,
        options=_ROWS,
        normalization=Normalization.MEAN,
    ),
    Criterion.RECONSTRUCTION: CriterionNeeds(
        "Optimal brain surgeon on channels: error of the readers' outputs with the rest refitted.",
        data=True,
        options=_ROWS,
    ),
    Criterion.TAYLOR: CriterionNeeds(
        "First-order change of the loss, squared, if the channel were zero.",
        data=True,
        labels=True,
        elements=True,
        options=_LOSS,
    ),
    Criterion.FISHER: CriterionNeeds(
        "Squared weights times the diagonal of the empirical Fisher information.",
        data=True,
        labels=True,
        elements=True,
        options=_LOSS,
    ),
    Criterion.HESSIAN: CriterionNeeds(
        "Optimal brain damage: squared weights times the diagonal of the Hessian of the loss.",
        data=True,
        labels=True,
        elements=True,
        options=_LOSS,
    ),
    Criterion.SNIP: CriterionNeeds(
        "Connection sensitivity: absolute weight times absolute gradient.",
        data=True,
        labels=True,
        elements=True,
        options=_LOSS,
    ),
    Criterion.SENSITIVITY: CriterionNeeds(
        "Ablation: how much the loss grows when the channel alone is silenced.",
        data=True,
        labels=True,
        options=_LOSS,
    ),
}
"""By the name that a spec gives."""


class CriterionChoice(Input):
    """A criterion with options. A plain name stands for it with all options at their defaults."""

    name: Criterion
    norm: Norm = Field(
        default=Norm.L2, description="`magnitude`: sum of |w|, of w squared, or the largest |w|."
    )
    slices: Slices = Field(
        default=Slices.COUPLED,
        description="`magnitude`: weights of every slice that goes with a channel, or of its "
        "producers alone.",
    )
    sample_count: int = Field(
        default=512, ge=1, le=2**31, description="Rows of the training inputs to measure on."
    )
    batch_size: int = Field(default=32, ge=1, le=65536, description="Rows per batch of these.")
    targets: Targets = Field(
        default=Targets.LABELS,
        description="`labels`: the loss on the data's targets. `outputs`: the squared distance to "
        "the model's own outputs, which needs no labels.",
    )

    @property
    def needs(self) -> CriterionNeeds:
        return CRITERIA[self.name]

    @property
    def needs_labels(self) -> bool:
        """Whether the training data must have targets."""
        return self.needs.labels and self.targets is Targets.LABELS

    @property
    def options(self) -> dict[str, Any]:
        """The options that this criterion takes, with their values."""
        return {name: getattr(self, name) for name in self.needs.options}

    @model_validator(mode="after")
    def _own_options(self) -> Self:
        foreign = self.model_fields_set - {"name"} - set(self.needs.options)
        if foreign:
            takes = ", ".join(self.needs.options) or "no options"
            raise ValueError(
                f"criterion '{self.name}' has no option {', '.join(sorted(foreign))}; it takes "
                f"{takes}"
            )
        return self

    @model_serializer(mode="plain")
    def _canonical(self, info: SerializationInfo) -> Any:
        """The plain name where no option differs from its default: one way to say one thing."""
        fields = type(self).model_fields
        said = {
            name: value.value if isinstance(value, StrEnum) else value
            for name, value in self.options.items()
            if value != fields[name].default
        }
        name = self.name.value if info.mode == "json" else self.name
        return {"name": name, **said} if said else name

    def __str__(self) -> str:
        said: Any = self.model_dump(mode="json")
        if isinstance(said, str):
            return said
        options = ", ".join(f"{name}={value}" for name, value in said.items() if name != "name")
        return f"{self.name} ({options})"


_NO_CRITERION = "a criterion is its name, or an object with a name and options"


def _chosen(given: Any) -> Any:
    if isinstance(given, str) and given in CRITERIA:
        return {"name": given}
    if isinstance(given, dict | CriterionChoice):
        return given
    is_name = isinstance(given, str)
    raise PydanticCustomError(
        "enum",
        "{wrong}; choose one of {names}",
        {
            "wrong": "there is no such criterion" if is_name else _NO_CRITERION,
            "names": ", ".join(CRITERIA),
        },
    )


ChosenCriterion = Annotated[
    CriterionChoice, BeforeValidator(_chosen, json_schema_input_type=Criterion | CriterionChoice)
]
"""A criterion as a spec says it: by name, or with options."""
