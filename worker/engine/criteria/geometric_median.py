"""Importance by the distance to all other channels (FPGM)."""

import torch

from worker.engine.criteria.filters import filters
from worker.engine.criteria.subject import Slice, Subject


def geometric_median(subject: Subject) -> list[Slice]:
    """Score each channel by the sum of the distances of its filter to all others of its group.

    What is near to all others is near their geometric median, so that the others stand in for it.

    Returns:
        One slice for each group; non-negative, higher is more important, in units of weight.

    Source: He et al., "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
    Acceleration", CVPR 2019, https://arxiv.org/abs/1811.00250.
    """
    found = []
    for group in subject.groups:
        rows = filters(subject, group)
        if rows.shape[1]:
            # Without the shortcut by inner products, in which equal filters are a little apart.
            distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
            found.append(Slice(group.channels, distances.sum(1)))
    return found
