"""Equations whose planes vary along one factor each: nearly all, and no arithmetic is needed."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from torch import Tensor

from worker.engine.graph.equation import Dimension, Equation
from worker.engine.graph.labels import Labels, Value

Placed = dict[str, list[tuple[int, Tensor]]]
"""The planes along each factor, with the number of the operand that each is of."""


def couple_directly(
    labels: Labels,
    equation: Equation,
    operands: Sequence[Value],
    sizes: Mapping[str, int],
    output: Sequence[int],
    *,
    whole: AbstractSet[str],
    fixed: AbstractSet[str],
) -> Value | None:
    """Couple one use of an equation; None, and nothing done, where planes are not so simple.

    The outcome is that of the solver in :mod:`worker.engine.graph.coupler`.
    """
    placed = _placed(equation, operands, sizes)
    if placed is None or whole & placed.keys():
        return None
    where = {name: _place_in(equation.output, name, sizes) for name in placed}
    if any(place is None for place in where.values()):
        return None
    planes = []
    for name, found in placed.items():
        in_full = is_bare(equation, operands, name, {operand for operand, _ in found})
        if in_full or name in fixed or name.startswith("*"):
            for _, plane in found:
                labels.hold(plane, run_over=not in_full)
            continue
        (_, first), *others = found
        for _, plane in others:
            labels.tie(first.reshape(-1), plane.reshape(-1))
        if shape := where[name]:
            planes.append(first.reshape(shape))
    return Value(tuple(output), tuple(planes))


def _placed(
    equation: Equation, operands: Sequence[Value], sizes: Mapping[str, int]
) -> Placed | None:
    """The planes by factor; None if one of them varies along several."""
    placed: Placed = {}
    for number, (dims, operand) in enumerate(zip(equation.operands, operands, strict=True)):
        for plane in operand.planes:
            varying = [at for at, size in enumerate(plane.shape) if size > 1]
            names = [name for at in varying for name in dims[at] if sizes[name] > 1]
            if len(names) != 1:
                return None
            placed.setdefault(names[0], []).append((number, plane))
    return placed


def _place_in(
    output: Sequence[Dimension], name: str, sizes: Mapping[str, int]
) -> tuple[int, ...] | None:
    """Shape of a plane along a factor in the output; empty where it is contracted.

    None where it is but a part of a dimension.
    """
    if all(name not in dim for dim in output):
        return ()
    found = [[part for part in dim if sizes.get(part, 1) > 1] for dim in output]
    if sum(dim == [name] for dim in found) != 1 or sum(name in dim for dim in found) != 1:
        return None
    return tuple(sizes[name] if dim == [name] else 1 for dim in found)


def is_bare(
    equation: Equation, operands: Sequence[Value], name: str, covered: AbstractSet[int]
) -> bool:
    """Whether an operand has all of a factor without a plane along it: it cannot shrink then."""
    return any(
        number not in covered
        and any(name in dim and size > 1 for dim, size in zip(dims, operand.shape, strict=True))
        for number, (dims, operand) in enumerate(zip(equation.operands, operands, strict=True))
    )
