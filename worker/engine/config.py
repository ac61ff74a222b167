"""What the engine is asked to do: plain frozen values, no contract and no queue."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from worker.engine.safety import SafetyConfig


@dataclass(frozen=True)
class OverrideConfig:
    """What groups or weights with a parameter of a matching name get instead of the budget.

    Exactly one of the amounts, which mean what they mean in :class:`PruneConfig`, and ``pairs``:
    channels that go, each with the one of its group that stands in for it.
    """

    match: str
    channel_ratio: float | None = None
    keep: int | None = None
    threshold: float | None = None
    sparsity: float | None = None
    pairs: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class PruneConfig:
    """What goes, how much of it, and what becomes of it.

    Attributes:
        criterion: A name in the table of criteria; ``options`` are its own.
        scope: ``global`` ranks all groups together, ``local`` each by itself.
        channel_ratio: Fraction of channels removed.
        keep: Channels that stay: of each group where local, of the model where global.
        threshold: Normalized importance below which goes.
        parameters: Fraction of the parameters that may remain; of those not zero with ``zero``.
        macs: Fraction of the multiply-accumulates that may remain.
        bytes: Fraction of the bytes of parameters and buffers that may remain.
        sparsity: Fraction of the weights that become zero.
        latency: Fraction of the original's latency that may remain.
        accuracy: How much accuracy may be lost by the smallest model.
        loss: How far the loss may rise with it.
        search: How to look for that.
        floor: Fraction of every dimension that stays; None is 0.1 where global and 0 where local.
        normalization: None is the criterion's own.
        algorithm: ``cut``, ``shift`` or ``zero``.
        pattern: Of zeros: ``elements``, ``N:M`` or ``AxB``.
        rounds: In how many steps, with ``recover`` between them; of a step that searches it is what
            is done with each model.
        progress: Which parts of the whole are gone before and after this round, in [0, 1].
        origin: What fractions are of; None is the program that is pruned.
    """

    criterion: str = "magnitude"
    options: Mapping[str, Any] = field(default_factory=dict)
    scope: str = "global"
    channel_ratio: float | None = None
    keep: int | None = None
    threshold: float | None = None
    parameters: float | None = None
    macs: float | None = None
    bytes: float | None = None
    sparsity: float | None = None
    latency: float | None = None
    accuracy: float | None = None
    loss: float | None = None
    floor: float | None = None
    aggregation: str = "sum"
    normalization: str | None = None
    granularity: str = "channels"
    exclude: tuple[str, ...] = ()
    channel_multiple: int = 1
    overrides: tuple[OverrideConfig, ...] = ()
    algorithm: str = "cut"
    pattern: str = "elements"
    rounds: int = 1
    schedule: str = "linear"
    recover: tuple["RecoveryConfig | TransformConfig", ...] = ()
    search: "SearchConfig | None" = None
    progress: tuple[float, float] = (0.0, 1.0)
    origin: "Origin | None" = None

    @property
    def amount(self) -> tuple[str, float] | None:
        """The one amount that is given, by its name; None where overrides or a pattern say all."""
        given = ((name, getattr(self, name)) for name in AMOUNTS)
        return next(((name, value) for name, value in given if value is not None), None)

    @property
    def promise(self) -> SafetyConfig | None:
        """What the smallest model is to keep; None where the budget is of another kind."""
        if self.accuracy is None and self.loss is None:
            return None
        return SafetyConfig(accuracy=self.accuracy, loss=self.loss)

    @property
    def floor_used(self) -> float:
        """The floor that is given, or else the scope's."""
        if self.floor is not None:
            return self.floor
        return 0.0 if self.scope == "local" else _GLOBAL_FLOOR


# A layer with almost nothing left is a bottleneck that no other layer makes up for.
_GLOBAL_FLOOR = 0.1

AMOUNTS = (
    *("channel_ratio", "keep", "threshold", "parameters", "macs", "bytes", "sparsity"),
    *("latency", "accuracy", "loss"),
)


@dataclass(frozen=True)
class SearchConfig:
    """What is to be least, of how many models that are tried, and for how long.

    ``minimize`` is ``macs``, ``parameters``, ``bytes`` or ``latency``.
    """

    minimize: str = "macs"
    trials: int = 24
    seconds: float = 1200.0


@dataclass(frozen=True)
class Origin:
    """What a program had before its first round: what fractions are of.

    ``channels`` are those of each channel group, by its name.
    """

    parameters: int
    macs: int
    size_bytes: int
    channels: Mapping[str, int]


@dataclass(frozen=True)
class MergeConfig:
    """A removed channel and its stand-in; scales by the name of the weight that reads both."""

    source: int
    target: int
    scales: Mapping[str, float]


@dataclass(frozen=True)
class GroupConfig:
    """Channels of a channel group that stay, sorted. ``channel_count`` of None is not checked."""

    id: str
    keep: tuple[int, ...]
    channel_count: int | None = None
    merges: tuple[MergeConfig, ...] = ()


@dataclass(frozen=True)
class ApplyPlanConfig:
    """A plan that is given. ``granularity`` and ``exclude`` are those it was made with."""

    model_sha256: str
    groups: tuple[GroupConfig, ...]
    granularity: str = "channels"
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecalibrateConfig:
    """Batch-norm statistics from ``sample_count`` rows of the training inputs."""

    trains: ClassVar[bool] = False

    sample_count: int = 1024
    batch_size: int = 64


@dataclass(frozen=True)
class ReconstructConfig:
    """Least-squares weights from ``sample_count`` rows of the training inputs.

    ``damping`` is relative to the mean square of a layer's inputs; None is chosen by held-out
    error.
    """

    trains: ClassVar[bool] = False

    sample_count: int = 1024
    batch_size: int = 64
    damping: float | None = None


@dataclass(frozen=True)
class TrainingConfig:
    """How all weights are trained, whatever the loss.

    Attributes:
        optimizer: ``adamw``, or ``sgd`` with Nesterov ``momentum``.
        weight_decay: Of parameters with 2 dimensions or more.
        schedule: ``cosine`` or ``constant``.
        warmup: Fraction of all optimizer steps in which the learning rate grows linearly.
        gradient_clip: Longest gradient, as the L2 norm over all parameters.
        label_smoothing: Share of each class target that is spread over all classes.
        ema: Decay of the moving average that is kept in the place of the weights.
        precision: ``float32`` or ``bfloat16``; None is bfloat16 on a GPU that has it.
        compile: None is on a GPU where there are steps enough.
        keep: ``best`` on rows held out, or ``last``.
        patience: Epochs without a new best after which training stops.
        augment: ``flip`` and ``crop``, of images.
        crop_padding: In pixels, on each side.
    """

    trains: ClassVar[bool] = True

    epochs: int = 1
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_size: int = 64
    schedule: str = "cosine"
    warmup: float = 0.0
    gradient_clip: float | None = None
    label_smoothing: float = 0.0
    ema: float | None = None
    precision: str | None = None
    compile: bool | None = None
    keep: str = "best"
    patience: int | None = None
    augment: tuple[str, ...] = ()
    crop_padding: int = 4


@dataclass(frozen=True)
class FinetuneConfig(TrainingConfig):
    """Training on labels."""


@dataclass(frozen=True)
class DistillConfig(TrainingConfig):
    """Training on what the original computes.

    Attributes:
        loss: ``kl`` or ``mse``; None is ``mse`` where targets are floats.
        temperature: What logits are divided by in ``kl``.
        labels: Share of the loss on labels, in [0, 1].
        features: Weight of the difference of inner activations.
    """

    loss: str | None = None
    temperature: float = 2.0
    labels: float = 0.0
    features: float = 0.0


@dataclass(frozen=True)
class FactorizeConfig:
    """Layers become products of smaller ones.

    Attributes:
        method: ``auto``, ``svd``, ``tucker`` or ``cp``.
        energy: Share of each layer's energy that stays.
        macs: Fraction of the multiply-accumulates that may remain.
        parameters: Fraction of the parameters that may remain.
        vbmf: Ranks by variational Bayesian matrix factorization. Exactly one of the four.
        exclude: Parameters to leave alone, by name or pattern.
        sample_count: Rows of the training inputs whose moments weigh what is lost, if there are.
    """

    method: str = "auto"
    energy: float | None = None
    macs: float | None = None
    parameters: float | None = None
    vbmf: bool | None = None
    exclude: tuple[str, ...] = ()
    sample_count: int = 512
    batch_size: int = 64


@dataclass(frozen=True)
class QuantizeConfig:
    """Weights, and perhaps activations, of few bits.

    Attributes:
        weights: ``int8``, ``int4``, ``int2``, ``ternary`` or ``codebook``.
        codebook_size: Entries of a codebook.
        granularity: ``per_tensor``, ``per_channel`` or ``per_group``.
        group_size: Inputs that share a scale, where they are grouped.
        symmetric: Whether there is no zero point.
        clipping: ``max`` or ``mse``.
        rounding: ``nearest`` or ``compensated``.
        activations: ``float``, ``dynamic`` or ``static``.
        calibration: ``minmax``, ``percentile``, ``entropy`` or ``mse``.
        percentile: In [50, 100].
        sample_count: Rows of the training inputs.
        bias_correction: Whether biases make up for what moves in the mean.
        equalize: Whether channels are scaled between layers first.
        smooth: SmoothQuant's exponent; None does without.
        keep_float: Parameters to leave alone, by name or pattern.
        float_layers: How many of the most sensitive layers stay.
    """

    weights: str = "int8"
    codebook_size: int = 16
    granularity: str = "per_channel"
    group_size: int = 64
    symmetric: bool = True
    clipping: str = "mse"
    rounding: str = "nearest"
    activations: str = "float"
    calibration: str = "mse"
    percentile: float = 99.99
    sample_count: int = 512
    batch_size: int = 64
    bias_correction: bool = False
    equalize: bool = False
    smooth: float | None = None
    keep_float: tuple[str, ...] = ()
    float_layers: int = 0


@dataclass(frozen=True)
class CastConfig:
    """A floating-point type of fewer bits.

    Attributes:
        dtype: ``float16``, ``bfloat16`` or ``float8_e4m3fn``.
        keep_float: Parameters to leave alone, by name or pattern.
        cast_inputs: Whether inputs and outputs are of that type too.
        sample_count: Rows of the training inputs to look at, if there are any.
    """

    dtype: str
    keep_float: tuple[str, ...] = ()
    cast_inputs: bool = False
    sample_count: int = 64
    batch_size: int = 64


PruningConfig = PruneConfig | ApplyPlanConfig
"""A step that removes channels."""

RecoveryConfig = RecalibrateConfig | ReconstructConfig | FinetuneConfig | DistillConfig
"""A step that regains what pruning lost."""

TransformConfig = FactorizeConfig | QuantizeConfig | CastConfig
"""A step that changes what layers are, or how their numbers are stored."""

StepConfig = PruningConfig | TransformConfig | RecoveryConfig


@dataclass(frozen=True)
class EvaluationConfig:
    """How both programs are measured. ``latency_rounds`` of 0 measures no latency.

    ``latency_mode`` is ``eager`` or ``compiled``.

    ``noise_std`` and ``fgsm_epsilon`` are in the unit of the inputs, > 0; None measures neither.
    """

    batch_size: int = 64
    latency_batch_size: int = 1
    latency_rounds: int = 50
    latency_mode: str = "eager"
    noise_std: float | None = None
    fgsm_epsilon: float | None = None


@dataclass(frozen=True)
class ObjectiveConfig:
    """What right means.

    Attributes:
        task: A name in the table of tasks; None is the one that the targets suggest:
            ``classification`` for whole numbers, ``regression`` for floats.
        output: Which of the program's outputs is judged, from 0.
        ignore_class: The target that counts nowhere; None is the task's own.
    """

    task: str | None = None
    output: int = 0
    ignore_class: int | None = None


AS_TARGETS_SUGGEST = ObjectiveConfig()
"""What right means where nobody says it."""


@dataclass(frozen=True)
class Request:
    """Everything that one run needs. Paths are local files; ``output_dir`` exists and is empty.

    Attributes:
        model_format: A name in the table of readers.
        output_formats: Names in the table of writers; None is the upload's own format, if it has
            a writer.
        validation_fraction: Of the training rows, held out if a step keeps what is best on them.
        spec_sha256: Tells specs apart: a checkpoint of another one is not gone on with.
        checkpoint: File in which the newest checkpoint is left; None leaves none.
        resume: Checkpoint of an earlier attempt; one that does not fit is not used.
        checkpoint_s: Least seconds between two checkpoints; 0 is every optimizer step.
    """

    model: Path
    model_sha256: str
    recipe: tuple[StepConfig, ...]
    output_dir: Path
    train: Path | None = None
    test: Path | None = None
    model_format: str = "pt2"
    output_formats: tuple[str, ...] | None = None
    objective: ObjectiveConfig = AS_TARGETS_SUGGEST
    evaluation: EvaluationConfig = EvaluationConfig()
    safety: SafetyConfig | None = None
    validation_fraction: float = 0.1
    seed: int = 0
    device: str = "cpu"
    spec_sha256: str = ""
    checkpoint: Path | None = None
    resume: Path | None = None
    checkpoint_s: float = 60.0


class OnProgress(Protocol):
    """Called often, from the thread that works: cheap, and never raises."""

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None: ...
