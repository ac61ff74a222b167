"""Look-ups of rows."""

import torch

from worker.engine.graph.labels import Value
from worker.engine.graph.registry import Call, rule

aten = torch.ops.aten


@rule(aten.embedding.default)
def embedding(call: Call) -> Value:
    """Couple ``embedding(weight, indices)``: every row may be asked for, so rows stay."""
    return call.coupler.equate(
        "r d, ... -> ... d",
        call.value("weight"),
        call.value("indices"),
        output=call.output,
        fixed=("r",),
    )
