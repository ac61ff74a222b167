"""Importance by how much the activation varies."""

from worker.engine.criteria.activations import Sight, averaged, distinct_sources, moments
from worker.engine.criteria.subject import Slice, Subject


def activation_variance(subject: Subject, *, sample_count: int, batch_size: int) -> list[Slice]:
    """Score each channel by the variance of its activation, as its readers see it.

    A channel that hardly varies can be replaced by a constant: minimum-variance pruning.

    Args:
        subject: The program, with training rows; targets are not read.
        sample_count: Rows to measure on.
        batch_size: Rows per batch.

    Returns:
        One slice for each tensor that channels are read from: the mean of the variances of a
        channel's indices, over rows and positions; non-negative, higher is more important, in units
        of the activation squared.

    Source: Molchanov et al., as for the mean (its baseline by standard deviation).
    """
    reads = distinct_sources(subject.flow.reads)
    sights = [Sight.of(read) for read in reads]
    found = moments(subject, sights, sample_count=sample_count, batch_size=batch_size)
    return [averaged(subject, read.source, found[Sight.of(read)].variance) for read in reads]
