"""What was measured, on the artifact as saved."""

from typing import Any

from pydantic import Field

from secateur.outputs import OutputFormat
from secateur.plan import Counts
from secateur.safety import SafetyReport
from secateur.schema import Output
from secateur.trials import GroupLatency, SearchReport


class Quality(Output):
    """How well a program does on the test data."""

    row_count: int
    accuracy: float | None = Field(
        description="Fraction right; null for a regression, and without targets."
    )
    top5_accuracy: float | None = Field(
        description="Fraction with the right class among the five most likely; null for fewer than "
        "6 classes, or none."
    )
    class_accuracy: list[float | None] | None = Field(
        description="Fraction right of the targets of each class, null for a class without any; "
        "null as a whole without classes, or with more than 32768."
    )
    noise_accuracy: float | None = Field(
        description="Fraction right with noise on the inputs; null unless `noise_std` was given."
    )
    fgsm_accuracy: float | None = Field(
        description="Fraction right under the model's own gradient attack; null unless "
        "`fgsm_epsilon` was given."
    )
    loss: float | None = Field(
        description="Mean loss of the objective over all targets that count: cross-entropy, "
        "binary cross-entropy or mean squared error."
    )
    agreement: float | None = Field(
        description="Fraction of targets for which the original predicts the same; null without "
        "accuracy."
    )
    output_mse: float = Field(description="Mean squared difference from the original's outputs.")


class Latency(Output):
    """Wall time of one call."""

    p50_ms: float
    p95_ms: float


class Measurement(Output):
    """One program, measured."""

    counts: Counts
    sparsity: float = Field(description="Fraction of the elements of parameters that are zero.")
    file_bytes: int | None = Field(
        description="Bytes of the file: of the upload; and of the compressed model in the upload's "
        "format where it is given in that, else of `model.pt2`. Null where none was saved."
    )
    quality: Quality | None = Field(description="Null without test data.")
    latency: Latency | None = Field(description="Null where not asked for.")


class LatencyComparison(Output):
    """The original and the compressed model, timed in turn in one process."""

    speedup: float = Field(
        description="Median of original time over compressed time; > 1 is faster."
    )
    original: Latency
    compressed: Latency
    round_count: int
    batch_size: int
    runtime: str = Field(
        description="What computed both.", examples=["torch 2.13.0 eager", "onnxruntime 1.32.0"]
    )
    mode: str | None = Field(
        description="Of a `.pt2`: `eager`, or `compiled`: both ran behind torch.compile. Null in "
        "other formats."
    )
    device: str
    thread_count: int


class LayerReport(Output):
    """What a step made of one layer."""

    layer: str = Field(description="Its weight, by name.", examples=["conv1.weight"])
    became: str = Field(
        description="What it is now; `kept` where it stays as it was.",
        examples=["int8 per_channel", "tucker 16x24", "kept"],
    )
    reason: str | None = Field(description="Why it was kept; null where it was not.")
    bytes_before: int
    bytes_after: int
    weight_error: float | None = Field(
        description="Root of the mean square of the weight's change, over that of the weight; "
        "null where it was kept."
    )
    output_error: float | None = Field(
        description="The same of the layer's output on calibration rows; null without any."
    )


class StepReport(Output):
    """What a step that factorizes, quantizes or casts made of the program."""

    index: int = Field(description="Its place in the recipe, from 0.")
    step: str = Field(examples=["quantize"])
    counts: Counts
    quality: Quality | None = Field(description="After the step. Null without test data.")
    latency: LatencyComparison | None = Field(
        description="Of the original and of the program after the step, as `.pt2`; null where "
        "latency was not asked for."
    )
    layers: list[LayerReport]


class Verification(Output):
    """The proof that the cut is right."""

    is_exact: bool = Field(
        description="Pruned program == original with its removed channels silenced, in tolerance."
    )
    max_relative_error: float
    exempt_operators: list[str] = Field(
        description="Normalizations over a pruned dimension: exactness cannot hold across these."
    )
    counts_match: bool = Field(description="The saved file was recounted and equals the plan.")
    reload_matches: bool = Field(
        description="The saved file, loaded in a fresh process, gives the same outputs."
    )


class FormatReport(Output):
    """The compressed model in one format."""

    format: OutputFormat
    file: str | None = Field(
        description="Name of the artifact; null where it could not be made.",
        examples=["model.onnx"],
    )
    size_bytes: int | None
    max_relative_error: float | None = Field(
        description="Between its outputs, loaded in a fresh process of the runtime that the format "
        "is for, and the program's: the largest difference over the largest value."
    )
    runtime: str | None = Field(
        description="What loaded it for that, and computed what is measured below.",
        examples=["onnxruntime 1.32.0"],
    )
    reason: str | None = Field(description="Why there is no file; null where there is one.")
    quality: Quality | None = Field(
        description="On the test data, computed by that runtime, which has no gradients: "
        "`fgsm_accuracy` is null. There too where the file was taken back for a broken promise; "
        "null without test data, and without a file."
    )
    latency: LatencyComparison | None = Field(
        description="Of the original and of the compressed model, both in this format and in that "
        "runtime; null where not asked for or not measured."
    )
    unmeasured: str | None = Field(
        description="Why its latency was not measured; null where it was, or nobody asked."
    )


class Report(Output):
    """A finished job's numbers. `before`, `after_prune` and `after_recovery` are measured alike."""

    format_version: int
    before: Measurement
    after_prune: Measurement | None = Field(
        description="After the last step that prunes; null where none does."
    )
    after_recovery: Measurement
    latency: LatencyComparison | None
    search: SearchReport | None = Field(
        description="Null unless the smallest model was looked for."
    )
    latency_table: list[GroupLatency] | None = Field(
        description="What a latency budget was met by; null for others."
    )
    safety: SafetyReport | None = Field(description="Null where nothing was promised.")
    formats: list[FormatReport] = Field(description="The model in each format that was asked for.")
    steps: list[StepReport] = Field(
        description="Each step that factorizes, quantizes or casts, in the order of the recipe."
    )
    verification: Verification
    stage_seconds: dict[str, float]
    warnings: list[str]


class ManifestFile(Output):
    """A file that went in or came out."""

    name: str
    sha256: str
    size_bytes: int


class Manifest(Output):
    """Everything needed to make the result again, and to know that it is this result."""

    format_version: int
    job_id: str
    spec: dict[str, Any]
    spec_sha256: str
    seed: int
    versions: dict[str, str] = Field(examples=[{"secateur": "0.1.0", "torch": "2.13.0"}])
    device: str
    inputs: list[ManifestFile]
    outputs: list[ManifestFile]
