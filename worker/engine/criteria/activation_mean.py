"""Importance by how large the activation is."""

from worker.engine.criteria.activations import Sight, averaged, distinct_sources, moments
from worker.engine.criteria.subject import Slice, Subject


def activation_mean(subject: Subject, *, sample_count: int, batch_size: int) -> list[Slice]:
    """Score each channel by its mean absolute activation, as its readers see it.

    Args:
        subject: The program, with training rows; targets are not read.
        sample_count: Rows to measure on.
        batch_size: Rows per batch.

    Returns:
        One slice for each tensor that channels are read from; non-negative, higher is more
        important, in units of the activation.

    Source: Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient
    Inference", ICLR 2017, https://arxiv.org/abs/1611.06440 (its mean-activation baseline).
    """
    reads = distinct_sources(subject.flow.reads)
    sights = [Sight.of(read) for read in reads]
    found = moments(subject, sights, sample_count=sample_count, batch_size=batch_size)
    return [averaged(subject, read.source, found[Sight.of(read)].absolute) for read in reads]
