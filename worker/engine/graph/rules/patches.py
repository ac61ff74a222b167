"""Patches of images as columns, and back."""

from math import prod

import torch

from worker.engine.graph.labels import Value
from worker.engine.graph.registry import Call, rule

aten = torch.ops.aten


@rule(aten.im2col.default)
def unfolded(call: Call) -> Value:
    """Couple ``im2col``: each channel becomes a run of as many as a patch has pixels."""
    return call.coupler.equate(
        "... c * * -> ... (c k) *",
        call.value("self"),
        output=call.output,
        sizes={"k": prod(call.argument("kernel_size"))},
        whole=("k",),
    )


@rule(aten.col2im.default)
def folded(call: Call) -> Value:
    """Couple ``col2im``: the run that makes one channel goes whole."""
    return call.coupler.equate(
        "... (c k) * -> ... c * *",
        call.value("self"),
        output=call.output,
        sizes={"k": prod(call.argument("kernel_size"))},
        whole=("k",),
    )
