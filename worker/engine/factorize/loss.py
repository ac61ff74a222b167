"""What a layer loses when parts take its place."""

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor

from worker.engine.changed import relative_change
from worker.engine.factorize.layers import Layer
from worker.engine.factorize.moments import Moments, View
from worker.engine.factorize.parts import Part, product
from worker.engine.graph.weights import bias_of
from worker.engine.program import attribute


def weight_error(layer: Layer, parts: Sequence[Part]) -> float:
    """Root of the mean square of the weight's change, over that of the weight."""
    found = relative_change(product(parts), layer.weight)
    assert found is not None, "a weight with NaN or infinity is not taken apart"
    return found


def free_offset(layer: Layer, parts: Sequence[Part], moments: Moments | None) -> Tensor | None:
    """What the outputs lack in the mean: float64, ``(outputs,)``.

    None where nothing can be added, or the mean is not known.
    """
    if moments is None or moments.mean is None or layer.offset is None:
        return None
    return (layer.weight - product(parts)).flatten(1) @ moments.mean


def output_error(layer: Layer, parts: Sequence[Part], moments: Moments | None) -> float | None:
    """Root of the mean square of the output's change over that of the output, on rows.

    Exact from the moments, an offset that is free included. None where they are not known.
    """
    if moments is None or moments.mean is None:
        return None
    matrix = layer.weight.flatten(1)
    given = matrix @ moments.mean
    if moments.view is View.OUTPUTS:
        power = moments.second.trace()
        # The parts project what the layer gave onto the columns of the last.
        basis = torch.linalg.qr(parts[-1].weight.flatten(1))[0]
        lost = power - ((moments.second @ basis) * basis).sum()
    else:
        power = ((matrix @ moments.second) * matrix).sum()
        change = matrix - product(parts).flatten(1)
        lost = ((change @ moments.second) * change).sum()
    offset = free_offset(layer, parts, moments)
    if offset is not None:
        lost = lost - offset.square().sum()
    bias = bias_of(layer.node)
    if bias is not None and bias.op == "get_attr":
        held = attribute(layer.program.module, str(bias.target))
        assert isinstance(held, Tensor)
        added = held.detach().double().cpu()
        power = power + (2 * added * given + added.square()).sum()
    return sqrt(max(float(lost), 0.0) / float(power)) if float(power) > 0 else None
