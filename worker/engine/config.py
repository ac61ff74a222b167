"""What the engine is asked to do: plain frozen values, no contract and no queue."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from worker.engine.safety import SafetyConfig


@dataclass(frozen=True)
class PruneConfig:
    """Exactly one of ``channel_ratio`` (fraction removed) and ``macs`` (fraction that remains)."""

    criterion: str = "magnitude"
    scope: str = "global"
    channel_ratio: float | None = None
    macs: float | None = None
    granularity: str = "channels"
    exclude: tuple[str, ...] = ()
    channel_multiple: int = 1


@dataclass(frozen=True)
class GroupConfig:
    """Channels of a channel group that stay, sorted. ``channel_count`` of None is not checked."""

    id: str
    keep: tuple[int, ...]
    channel_count: int | None = None


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

    sample_count: int = 1024
    batch_size: int = 64


@dataclass(frozen=True)
class FinetuneConfig:
    """Plain supervised training: AdamW with a cosine schedule."""

    epochs: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    batch_size: int = 64


PruningConfig = PruneConfig | ApplyPlanConfig
"""A step that removes channels."""

StepConfig = PruningConfig | RecalibrateConfig | FinetuneConfig


@dataclass(frozen=True)
class EvaluationConfig:
    """How both programs are measured. ``latency_rounds`` of 0 measures no latency.

    ``noise_std`` and ``fgsm_epsilon`` are in the unit of the inputs, > 0; None measures neither.
    """

    batch_size: int = 64
    latency_batch_size: int = 1
    latency_rounds: int = 50
    noise_std: float | None = None
    fgsm_epsilon: float | None = None


@dataclass(frozen=True)
class Request:
    """Everything that one run needs. Paths are local files; ``output_dir`` exists and is empty."""

    model: Path
    model_sha256: str
    recipe: tuple[StepConfig, ...]
    output_dir: Path
    train: Path | None = None
    test: Path | None = None
    evaluation: EvaluationConfig = EvaluationConfig()
    safety: SafetyConfig | None = None
    seed: int = 0
    device: str = "cpu"


class OnProgress(Protocol):
    """Called often, from the thread that works: cheap, and never raises."""

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None: ...
