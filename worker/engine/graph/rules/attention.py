"""Fused attention."""

from math import sqrt

import torch

from worker.engine.graph.arguments import argument, set_argument
from worker.engine.graph.labels import Value
from worker.engine.graph.registry import Call, Refusal, Resizing, resize, rule

aten = torch.ops.aten


@rule(aten.scaled_dot_product_attention.default)
def attention(call: Call) -> Value:
    """Couple ``scaled_dot_product_attention(query, key, value, attn_mask?)``.

    Leading dimensions (batch, heads) are shared; ``e`` is contracted between query and key; the
    softmax runs over ``s``, which keeps its size.
    """
    query, key, value = (call.value(name) for name in ("query", "key", "value"))
    if query.shape[:-2] != key.shape[:-2]:
        raise Refusal("query and key have different numbers of heads")
    mask = call.optional("attn_mask")
    equation = f"... l e, ... s e, ... s v{', ... l s' * len(mask)} -> ... l v"
    return call.coupler.equate(equation, query, key, value, *mask, output=call.output, fixed=("s",))


@resize(aten.scaled_dot_product_attention.default)
def scale_of_old_width(resizing: Resizing) -> None:
    """Keep the scale that the model was trained with when head_dim shrinks."""
    node = resizing.node
    query = argument(node, "query")
    old, new = resizing.before[query][-1], resizing.after[query][-1]
    if old != new and argument(node, "scale") is None:
        set_argument(node, "scale", 1 / sqrt(old))
