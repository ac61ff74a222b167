"""The steps of a recipe that regain what pruning lost."""

from typing import Annotated, Literal

from pydantic import Field

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


class FinetuneStep(Input):
    """Train on the labeled training data (AdamW, cosine schedule) to regain accuracy."""

    step: Literal["finetune"]
    epochs: int = Field(default=1, ge=1, le=10_000)
    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    batch_size: int = Field(default=64, ge=1, le=65536)


Recovery = RecalibrateStep | ReconstructStep | FinetuneStep

RecoveryStep = Annotated[Recovery, Field(discriminator="step")]
"""What may follow a prune step, or stand between its rounds."""
