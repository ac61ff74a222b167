"""Importance by how much the weights of a channel differ from each other."""

from worker.engine.criteria.filters import filters
from worker.engine.criteria.subject import Slice, Subject


def weight_variance(subject: Subject) -> list[Slice]:
    """Score each channel by the variance of the weights that make it, biases among them.

    Where a channel has several producers, over all of their weights together; what a producer
    lacks counts as zeros, as in :func:`worker.engine.criteria.filters.filters`.

    Returns:
        One slice for each group; non-negative, higher is more important, in units of weight ** 2.
    """
    found = []
    for group in subject.groups:
        rows = filters(subject, group)
        if rows.shape[1]:
            found.append(Slice(group.channels, rows.var(1, correction=0)))
    return found
