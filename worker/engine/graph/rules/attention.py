"""Fused attention."""

from math import sqrt

import torch

from worker.engine.arguments import argument, set_argument
from worker.engine.graph.labels import Value
from worker.engine.graph.registry import Call, Resizing, resize, rule

aten = torch.ops.aten


@rule(aten.scaled_dot_product_attention.default)
def attention(call: Call) -> Value:
    """Couple ``scaled_dot_product_attention(query, key, value, attn_mask?)``.

    Leading dimensions (batch, heads) are shared; ``e`` is contracted between query and key; the
    softmax runs over ``s``, which keeps its size. Where ``g`` heads of the query share one of the
    key and the value, they go with it.
    """
    query, key, value = (call.value(name) for name in ("query", "key", "value"))
    mask = call.optional("attn_mask")
    if len(query.shape) < 3 or query.shape[-3] == key.shape[-3]:
        equation = f"... l e, ... s e, ... s v{', ... l s' * len(mask)} -> ... l v"
        return call.coupler.equate(
            equation,
            query,
            key,
            value,
            *mask,
            output=call.output,
            fixed=("s",),
            heads=("...",),
        )
    masked = [", " + _mask_dims(part) for part in mask]
    return call.coupler.equate(
        f"... (h g) l e, ... h s e, ... h s v{''.join(masked)} -> ... (h g) l v",
        query,
        key,
        value,
        *mask,
        output=call.output,
        sizes={"h": key.shape[-3]},
        # All queries on one key: the one stays, and each of them may go.
        whole=("g",) if key.shape[-3] > 1 else (),
        fixed=("s",),
        heads=("...", "h", "g"),
    )


def _mask_dims(mask: Value) -> str:
    """A mask over all heads has one, or none; one of its own has as many as the query."""
    if len(mask.shape) < 3 or mask.shape[-3] == 1:
        return "... l s" if len(mask.shape) < 3 else "... one l s"
    return "... (h g) l s"


@resize(aten.scaled_dot_product_attention.default)
def scale_of_old_width(resizing: Resizing) -> None:
    """Keep the scale that the model was trained with when head_dim shrinks."""
    node = resizing.node
    query = argument(node, "query")
    old, new = resizing.before[query][-1], resizing.after[query][-1]
    if old != new and argument(node, "scale") is None:
        set_argument(node, "scale", 1 / sqrt(old))
