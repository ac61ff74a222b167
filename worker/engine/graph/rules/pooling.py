"""Pooling and resampling: space changes, channels pass."""

import torch

from worker.engine.arguments import operator_of
from worker.engine.graph.labels import Value
from worker.engine.graph.registry import Call, rule

aten = torch.ops.aten

SPATIAL_RANK = {
    aten.adaptive_avg_pool1d.default: 1,
    aten.adaptive_avg_pool2d.default: 2,
    aten.adaptive_avg_pool3d.default: 3,
    aten._upsample_bicubic2d_aa.vec: 2,
    aten._upsample_bilinear2d_aa.vec: 2,
    aten._upsample_nearest_exact1d.vec: 1,
    aten._upsample_nearest_exact2d.vec: 2,
    aten._upsample_nearest_exact3d.vec: 3,
    aten.adaptive_max_pool1d.default: 1,
    aten.adaptive_max_pool2d.default: 2,
    aten.adaptive_max_pool3d.default: 3,
    aten.avg_pool1d.default: 1,
    aten.avg_pool2d.default: 2,
    aten.avg_pool3d.default: 3,
    aten.max_pool1d.default: 1,
    aten.max_pool1d_with_indices.default: 1,
    aten.max_pool2d_with_indices.default: 2,
    aten.max_pool3d_with_indices.default: 3,
    aten.max_pool2d.default: 2,
    aten.max_pool3d.default: 3,
    aten.upsample_bicubic2d.vec: 2,
    aten.upsample_bilinear2d.vec: 2,
    aten.upsample_linear1d.vec: 1,
    aten.upsample_nearest1d.vec: 1,
    aten.upsample_nearest2d.vec: 2,
    aten.upsample_nearest3d.vec: 3,
    aten.upsample_trilinear3d.vec: 3,
}
"""How many trailing dimensions each operator mixes."""


@rule(aten.pixel_shuffle.default)
def pixel_shuffle(call: Call) -> Value:
    """Couple a shuffle of channels into pixels: all that make one channel go together."""
    factor = call.argument("upscale_factor")
    return call.coupler.equate(
        "... (c r s) h w -> ... c (h r) (w s)",
        call.value("self"),
        output=call.output,
        sizes={"r": factor, "s": factor},
        fixed=("r", "s", "h", "w"),
    )


@rule(aten.pixel_unshuffle.default)
def pixel_unshuffle(call: Call) -> Value:
    """Couple a shuffle of pixels into channels: all that came from one channel go together."""
    factor = call.argument("downscale_factor")
    return call.coupler.equate(
        "... c (h r) (w s) -> ... (c r s) h w",
        call.value("self"),
        output=call.output,
        sizes={"r": factor, "s": factor},
        fixed=("r", "s", "h", "w"),
    )


@rule(*(operator for operator in SPATIAL_RANK if len(operator._schema.returns) == 1))
def pooling(call: Call) -> Value:
    """Couple an operator that works on each channel's space alone."""
    return _pooled(call)


@rule(*(operator for operator in SPATIAL_RANK if len(operator._schema.returns) == 2))
def pooling_with_places(call: Call) -> list[Value]:
    """Couple a pooling that also says where in space it found what it returns."""
    value = _pooled(call)
    return [value, value]


@rule(aten.grid_sampler.default)
def sampled(call: Call) -> Value:
    """Couple a sampling of each channel's space at the places of a grid."""
    source, grid = call.value("input"), call.value("grid")
    stars = " *" * (len(source.shape) - 2)
    equation = f"n c{stars}, n{stars} * -> n c{stars}"
    return call.coupler.equate(equation, source, grid, output=call.output)


def _pooled(call: Call) -> Value:
    source = call.tensors()[0]
    stars = " *" * SPATIAL_RANK[operator_of(call.node)]
    return call.coupler.equate(f"...{stars} -> ...{stars}", source, output=call.first_output)
