"""Criteria: how important each channel, or each weight, is. One file and one row each."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from worker.engine.criteria.activation_mean import activation_mean
from worker.engine.criteria.activation_variance import activation_variance
from worker.engine.criteria.batch_norm_scale import batch_norm_scale
from worker.engine.criteria.cosine_similarity import cosine_similarity
from worker.engine.criteria.fisher import fisher, fisher_of_weights
from worker.engine.criteria.geometric_median import geometric_median
from worker.engine.criteria.hessian import hessian, hessian_of_weights
from worker.engine.criteria.lamp import lamp, lamp_of_weights
from worker.engine.criteria.magnitude import magnitude, magnitude_of_weights
from worker.engine.criteria.random import random, random_weights
from worker.engine.criteria.reconstruction import reconstruction
from worker.engine.criteria.sensitivity import sensitivity
from worker.engine.criteria.snip import snip, snip_of_weights
from worker.engine.criteria.subject import Slice
from worker.engine.criteria.synflow import synflow, synflow_of_weights
from worker.engine.criteria.taylor import taylor
from worker.engine.criteria.wanda import wanda, wanda_of_weights
from worker.engine.criteria.weight_variance import weight_variance


@dataclass(frozen=True)
class Criterion:
    """A way to score.

    Attributes:
        channels: Gives the scores of every slice of channels, from a subject and the options.
        weights: Gives a score for every weight, by name, in its shape; None where single weights
            cannot be scored.
        normalization: What makes scores of different groups comparable, where nobody says.
    """

    channels: Callable[..., list[Slice]]
    weights: Callable[..., dict[str, Tensor]] | None = None
    normalization: str = "none"


CRITERIA: dict[str, Criterion] = {
    "magnitude": Criterion(magnitude, magnitude_of_weights, "mean"),
    "weight_variance": Criterion(weight_variance, normalization="mean"),
    "cosine_similarity": Criterion(cosine_similarity),
    "geometric_median": Criterion(geometric_median, normalization="mean"),
    "batch_norm_scale": Criterion(batch_norm_scale),
    "lamp": Criterion(lamp, lamp_of_weights),
    "synflow": Criterion(synflow, synflow_of_weights),
    "random": Criterion(random, random_weights),
    "activation_mean": Criterion(activation_mean, normalization="mean"),
    "activation_variance": Criterion(activation_variance, normalization="mean"),
    "wanda": Criterion(wanda, wanda_of_weights, "mean"),
    "reconstruction": Criterion(reconstruction),
    "taylor": Criterion(taylor, fisher_of_weights),
    "fisher": Criterion(fisher, fisher_of_weights),
    "hessian": Criterion(hessian, hessian_of_weights),
    "snip": Criterion(snip, snip_of_weights),
    "sensitivity": Criterion(sensitivity),
}
"""By the name that a spec gives. Scores are float32; higher is kept."""
