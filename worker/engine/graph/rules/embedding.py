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


@rule(aten.embedding_bag.default, aten.embedding_bag.padding_idx)
def embedding_bag(call: Call) -> list[Value]:
    """Couple sums, means or maxima of rows: every row may be asked for, so rows stay.

    The other results are for training: which bag each row was in, and where maxima were found.
    """
    weight, *places = call.tensors()
    stars = "".join(f", {'* ' * len(place.shape)}" for place in places)
    value = call.coupler.equate(
        f"r d{stars} -> * d", weight, *places, output=call.first_output, fixed=("r",)
    )
    shapes = [tuple(map(call.program.size, part.shape)) for part in call.node.meta["val"]]
    return [value if shape == value.shape else Value(shape) for shape in shapes]
