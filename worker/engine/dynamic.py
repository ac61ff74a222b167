"""The dimensions of a program that are dynamic: their sizes, their bounds, their relations."""

import inspect
from typing import Any

import sympy
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree


def placeholders(module: GraphModule) -> list[Node]:
    return [node for node in module.graph.nodes if node.op == "placeholder"]


def example_sizes(module: GraphModule, leaves: list[Any]) -> dict[sympy.Symbol, int]:
    """The number that each symbol has at the example inputs."""
    sizes: dict[sympy.Symbol, int] = {}
    for node, leaf in zip(placeholders(module), leaves, strict=True):
        made = node.meta.get("val")
        shape = made.shape if isinstance(made, Tensor) else [made]
        actual = leaf.shape if isinstance(leaf, Tensor) else [leaf]
        for size, number in zip(shape, actual, strict=True):
            if isinstance(size, torch.SymInt) and (linear := _linear(size.node.expr)):
                symbol, factor, rest = linear
                sizes[symbol] = (int(number) - rest) // factor
    return sizes


def _linear(size: sympy.Expr) -> tuple[sympy.Symbol, int, int] | None:
    """The parts of ``factor * symbol + rest``, as ``2 * s0 + 1`` is; None for what is not like it.

    Sizes of inputs are: the exporter takes no other relation between them.
    """
    if len(size.free_symbols) != 1:
        return None
    [symbol] = size.free_symbols
    factor, rest = size.coeff(symbol), size.subs(symbol, 0)
    if size != factor * symbol + rest or not (factor.is_Integer and rest.is_Integer):
        return None
    return symbol, int(factor), int(rest)


def row_limits(exported: ExportedProgram, module: GraphModule) -> tuple[int, int | None]:
    """Fewest and most rows of the first input that has rows; a most of None is no limit."""
    for node in placeholders(module):
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or not value.dim():
            continue
        rows: int | torch.SymInt = value.shape[0]
        if isinstance(rows, int):
            return rows, rows
        low, high = _bounds(exported, rows.node.expr)
        return max(low, 1), high
    return 1, None


def dynamic_shapes(exported: ExportedProgram, module: GraphModule) -> Any:
    """The ``dynamic_shapes`` argument that gives an export the same dynamic dimensions."""
    dims: dict[str, Any] = {}

    def dim_of(size: int | torch.SymInt) -> Any:
        if isinstance(size, int):
            return Dim.STATIC
        linear = _linear(size.node.expr)
        if linear is None:
            return Dim.AUTO  # The exporter finds the relation again.
        symbol, factor, rest = linear
        low, high = _bounds(exported, symbol)
        own = dims.setdefault(str(symbol), Dim(str(symbol), min=low, max=high))
        scaled = own if factor == 1 else factor * own
        return scaled if rest == 0 else scaled + rest

    def dims_of(made: Any) -> Any:
        if isinstance(made, Tensor):
            return [dim_of(size) for size in made.shape]
        return Dim.DYNAMIC if isinstance(made, torch.SymInt) else None

    specs = [dims_of(node.meta.get("val")) for node in placeholders(module)]
    if all(dim in (Dim.STATIC, None) for dim in pytree.tree_leaves(specs)):
        return None
    assert exported.call_spec.in_spec is not None
    args, kwargs = pytree.tree_unflatten(specs, exported.call_spec.in_spec)
    names = inspect.signature(module.forward).parameters
    return {**dict(zip(names, args, strict=False)), **kwargs}


def unnamed(dim: Any) -> Any:
    """A dimension that may be any size in its range, and whose relation to others is found anew."""
    if not isinstance(dim, Dim):
        return dim
    is_derived = type(dim) is not Dim
    return Dim.AUTO if is_derived else Dim.DYNAMIC(min=dim.min, max=dim.max)


def _bounds(exported: ExportedProgram, expression: sympy.Expr) -> tuple[int, int | None]:
    bounds = exported.range_constraints.get(expression)
    if bounds is None:
        return 0, None
    return int(bounds.lower), int(bounds.upper) if bounds.upper.is_Integer else None
