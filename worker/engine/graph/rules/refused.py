"""Operators that can have no rule, and why: what they read keeps its channels."""

from collections.abc import Callable
from typing import Any, NoReturn

import torch

from worker.engine.graph.registry import Call, Refusal, rule

aten = torch.ops.aten

REASONS: dict[Any, str] = {
    aten.bincount.default: "it counts values over all dimensions at once",
    aten.histc.default: "it counts values over all dimensions at once",
    aten.index_put.default: "it writes to places that are computed",
    aten.index_put_.default: "it writes to places that are computed",
    aten.nonzero.default: "how much it returns depends on the values",
    aten.scatter.src: "it writes to places that are computed",
    aten.scatter_add.default: "it writes to places that are computed",
    aten.unique_consecutive.default: "how much it returns depends on the values",
    torch.ops.higher_order.cond: "its branches are programs of their own",
    torch.ops.higher_order.while_loop: "its body is a program of its own",
    torch.ops.higher_order.wrap_with_autocast: "what it wraps runs at another precision",
}


def _refuse(reason: str) -> Callable[[Call], NoReturn]:
    def refuse(call: Call) -> NoReturn:  # noqa: ARG001 (as every rule's)
        raise Refusal(reason)

    return refuse


for _operator, _reason in REASONS.items():
    rule(_operator)(_refuse(_reason))
