"""The steps of a recipe that regain what pruning lost."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from secateur.schema import Input


class RecalibrateStep(Input):
    """Estimate batch-norm statistics again from unlabeled inputs. Weights do not change."""

    step: Literal["recalibrate"]
    sample_count: int = Field(default=1024, ge=1, description="Rows of the training inputs to use.")
    batch_size: int = Field(default=64, ge=1, le=65536)


class ReconstructStep(Input):
    """Solve for the weights that restore each layer's outputs from what is left of its inputs.

    Least squares on unlabeled inputs: no labels, no training. It takes the place of training where
    there is little data or time, and is where training had best begin.
    """

    step: Literal["reconstruct"]
    sample_count: int = Field(
        default=1024,
        ge=1,
        description="Rows of the training inputs to use, as far as a gibibyte holds what the model "
        "computes of them.",
    )
    batch_size: int = Field(default=64, ge=1, le=65536)
    damping: float | None = Field(
        default=None,
        ge=0,
        le=1e6,
        allow_inf_nan=False,
        description="How strongly weights are held where they are, relative to the mean square of "
        "a layer's inputs. Null chooses for each layer by the error on held-out rows.",
    )


class TrainingStep(Input):
    """How all weights are trained, whatever the loss."""

    epochs: int = Field(default=1, ge=1, le=10_000)
    optimizer: Literal["adamw", "sgd"] = Field(
        default="adamw", description="`sgd` has Nesterov `momentum`."
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=10,
        description="Its peak. Null is 0.001, and 0.0001 behind `quantize`: once batch norms are "
        "folded, networks fall apart at more.",
        examples=[0.01],
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Of `sgd`.")
    weight_decay: float = Field(
        default=0.0, ge=0, le=10, description="Not of biases, norms and other 1-d parameters."
    )
    batch_size: int = Field(default=64, ge=1, le=65536)
    schedule: Literal["cosine", "constant"] = Field(
        default="cosine", description="Of the learning rate, after `warmup`; `cosine` ends at 0."
    )
    warmup: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Fraction of all optimizer steps in which the learning rate grows linearly.",
        examples=[0.05],
    )
    gradient_clip: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Longest gradient, as the L2 norm over all parameters; null clips none.",
        examples=[1.0],
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="Share of each class target spread over all classes."
    )
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Decay of an exponential moving average of the weights, which is what is kept; "
        "null keeps the weights themselves.",
        examples=[0.999],
    )
    precision: Literal["float32", "bfloat16"] | None = Field(
        default=None,
        description="What is computed in; weights stay as they are. Null is bfloat16 on a GPU that "
        "has it, else float32.",
    )
    compile: bool | None = Field(
        default=None,
        description="Whether torch.compile makes it faster; null: on a GPU, from 500 optimizer "
        "steps on.",
    )
    keep: Literal["best", "last"] = Field(
        default="best",
        description="`best`: the weights that are best on rows held out "
        "(`data.validation_fraction`), measured before the first epoch and after each. `last`: "
        "those at the end; all rows are trained on.",
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        validate_default=True,
        description="Epochs without a new best after which training stops; null trains them all.",
    )
    augment: tuple[Literal["flip", "crop"], ...] = Field(
        default=(),
        max_length=2,
        description="Seeded changes of images of shape (rows, channels, height, width): `flip` "
        "half of them from left to right, `crop` after padding them with zeros.",
    )
    crop_padding: int = Field(
        default=4, ge=1, le=1024, description="Pixels that `crop` pads on each side."
    )

    @field_validator("patience")
    @classmethod
    def _of_the_best(cls, patience: int | None, info: ValidationInfo) -> int | None:
        if patience is not None and info.data.get("keep") == "last":
            raise ValueError(
                "patience waits for a better result, and keep 'last' measures none: leave one out"
            )
        return patience


class FinetuneStep(TrainingStep):
    """Train on the labeled training data to regain accuracy."""

    step: Literal["finetune"]


class DistillStep(TrainingStep):
    """Train the outputs to be those of the original model. Needs inputs, and no labels."""

    step: Literal["distill"]
    loss: Literal["kl", "mse"] | None = Field(
        default=None,
        description="`kl`: divergence of the class probabilities. `mse`: mean squared difference "
        "of the outputs. Null is `mse` where the data has float targets, else `kl`.",
    )
    temperature: float = Field(
        default=2.0, gt=0, le=1000, description="Of `kl`: logits are divided by it."
    )
    labels: float = Field(
        default=0.0, ge=0, le=1, description="Share of the loss on labels; above 0 it needs them."
    )
    features: float = Field(
        default=0.0,
        ge=0,
        le=1e6,
        description="Weight of the difference of activations where residual branches are added, "
        "wherever they have the original's shape.",
    )


Recovery = RecalibrateStep | ReconstructStep | FinetuneStep | DistillStep

RecoveryStep = Annotated[Recovery, Field(discriminator="step")]
"""What may follow a prune step, or stand between its rounds."""
