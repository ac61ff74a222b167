"""Pooling and resampling: space changes, channels pass."""

import torch

from worker.engine.graph.arguments import operator_of
from worker.engine.graph.labels import Value
from worker.engine.graph.registry import Call, rule

aten = torch.ops.aten

SPATIAL_RANK = {
    aten.adaptive_avg_pool1d.default: 1,
    aten.adaptive_avg_pool2d.default: 2,
    aten.adaptive_avg_pool3d.default: 3,
    aten.avg_pool1d.default: 1,
    aten.avg_pool2d.default: 2,
    aten.avg_pool3d.default: 3,
    aten.max_pool1d.default: 1,
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


@rule(*SPATIAL_RANK)
def pooling(call: Call) -> Value:
    """Couple an operator that works on each channel's space alone."""
    (source,) = call.tensors()
    stars = " *" * SPATIAL_RANK[operator_of(call.node)]
    return call.coupler.equate(f"...{stars} -> ...{stars}", source, output=call.output)
