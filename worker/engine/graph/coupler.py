"""Apply an equation to labels: the one algorithm that every mixing operator shares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from worker.engine.graph.direct import couple_directly, is_bare
from worker.engine.graph.equation import ELLIPSIS, Equation, ranked
from worker.engine.graph.labels import Labels, Value, compressed


@dataclass(frozen=True)
class _Spread:
    """A plane of one operand, spread over all factors of the equation: 1 or the factor's size."""

    operand: int
    labels: Tensor

    def varies(self, factor: int) -> bool:
        return self.labels.shape[factor] > 1


class Coupler:
    """Unifies labels as equations say. Remembers which planes must end up rectangular."""

    def __init__(self, labels: Labels, *, within_heads: bool = False) -> None:
        self.labels = labels
        self.within_heads = within_heads
        self.attended: list[tuple[Value, frozenset[int]]] = []

    def equate(
        self,
        equation: str,
        *operands: Value,
        output: Sequence[int],
        sizes: Mapping[str, int] | None = None,
        whole: Sequence[str] = (),
        fixed: Sequence[str] = (),
        heads: Sequence[str] = (),
    ) -> Value:
        """Couple the operands' dimensions and return the output's planes.

        Args:
            equation: In the notation of :mod:`worker.engine.graph.equation`.
            operands: One value per operand written.
            output: Shape of the result.
            sizes: Factors that shapes alone do not tell, such as the number of conv groups.
            whole: Factors whose indices are kept or removed together: all channels of a conv
                group, the four gates of a cell.
            fixed: Factors that may not shrink at all: what a softmax runs over.
            heads: Factors that number the products of which an attention is made, one a head;
                ``...`` stands for all of its dimensions.
        """
        shapes = tuple(tuple(operand.shape) for operand in operands)
        named = ranked(equation, tuple(map(len, shapes)), len(output))
        factor_sizes = named.factor_sizes(shapes, sizes or {})
        if heads:
            numbering = self._attend(named, operands, heads)
            whole = [*whole, *(numbering if self.within_heads else ())]
        direct = couple_directly(
            self.labels,
            named,
            operands,
            factor_sizes,
            output,
            whole=set(whole),
            fixed=set(fixed),
        )
        if direct is not None:
            return direct
        solver = _Solver(
            self.labels,
            named,
            operands,
            factor_sizes,
            whole=set(whole),
            fixed=set(fixed),
            within_heads=self.within_heads,
        )
        return self.labels.settled(output, solver.output_planes())

    def _attend(
        self, equation: Equation, operands: Sequence[Value], heads: Sequence[str]
    ) -> set[str]:
        """Remember which dimensions number heads: those that several operands have."""
        seen = [{name for dim in dims for name in dim} for dims in equation.operands]
        names = {
            name
            for name in set().union(*seen)
            if name in heads or (name.startswith(ELLIPSIS) and ELLIPSIS in heads)
            if sum(name in part for part in seen) > 1
        }
        for dims, operand in zip(equation.operands, operands, strict=True):
            numbering = frozenset(at for at, dim in enumerate(dims) if names & set(dim))
            if numbering:
                self.attended.append((operand, numbering))
        return names

    def broadcast(self, *operands: Value, output: Sequence[int]) -> Value:
        """Couple an elementwise operator: what is in the same place is one."""
        equation = ", ".join(["..."] * len(operands)) + " -> ..."
        return self.equate(equation, *operands, output=output)

    def concatenate(self, *operands: Value, dim: int) -> Value:
        """Couple a concatenation along ``dim``: labels follow each other, the rest is one."""
        rank = len(operands[0].shape)
        dim %= rank
        parts = [self._along(operand, dim) for operand in operands]
        common = [max(part.shape[at] for part in parts) for at in range(rank)]
        plane = torch.cat(
            [part.expand(_resized(common, dim, part.shape[dim])) for part in parts], dim=dim
        )
        rests = [
            Value(
                _resized(operand.shape, dim, 1),
                tuple(plane for plane in operand.planes if plane.shape[dim] == 1),
            )
            for operand in operands
        ]
        rest = self.broadcast(*rests, output=rests[0].shape)
        output = _resized(operands[0].shape, dim, plane.shape[dim])
        return self.labels.settled(output, (plane, *rest.planes))

    def _along(self, operand: Value, dim: int) -> Tensor:
        """The plane of an operand along ``dim``, in full there; fixed labels where it has none."""
        planes = operand.along(dim)
        if len(planes) == 1:
            return planes[0]
        for plane in planes:
            self.labels.fix(plane)
        shape = _resized([1] * len(operand.shape), dim, operand.shape[dim])
        return torch.zeros(shape, dtype=torch.int64)


def _resized(shape: Sequence[int], dim: int, size: int) -> tuple[int, ...]:
    return (*shape[:dim], size, *shape[dim + 1 :])


class _Solver:
    """One use of one equation."""

    def __init__(
        self,
        labels: Labels,
        equation: Equation,
        operands: Sequence[Value],
        sizes: Mapping[str, int],
        *,
        whole: set[str],
        fixed: set[str],
        within_heads: bool,
    ) -> None:
        self.labels = labels
        self.within_heads = within_heads
        self.equation = equation
        self.operands = operands
        dims = [dim for dims in (*equation.operands, equation.output) for dim in dims]
        names = dict.fromkeys(name for dim in dims for name in dim)
        self.factors = [name for name in names if sizes.get(name, 1) > 1]
        self.sizes = sizes
        self.place = {name: at for at, name in enumerate(self.factors)}
        self.retained = {name for dim in equation.output for name in dim}
        self.immovable = {name for name in self.factors if name in fixed or name.startswith("*")}
        self.spreads = [
            self._one_of(spread, whole)
            for at, operand in enumerate(operands)
            for plane in operand.planes
            for spread in self._spread(at, plane)
        ]

    def output_planes(self) -> list[Tensor]:
        """Unify, and lay what is retained over the output's dimensions."""
        planes = []
        for component in self._components():
            joint = self._unified(component)
            if joint is not None:
                planes.append(self._gathered(joint))
        return [plane for plane in planes if plane.numel() > 1]

    def _spread(self, operand: int, plane: Tensor) -> list[_Spread]:
        """A plane over factors; nothing for one that varies twice along the same factor."""
        names: list[str] = []
        shape: list[int] = []
        for dim, size in zip(self.equation.operands[operand], plane.shape, strict=True):
            names += dim
            shape += [1] * len(dim) if size == 1 else [self.sizes[name] for name in dim]
        labels = compressed(plane.reshape(shape))
        varying = [name for name, size in zip(names, labels.shape, strict=True) if size > 1]
        if len(set(varying)) < len(varying):
            self.labels.fix(plane)
            return []
        spread = [1] * len(self.factors)
        order = sorted(
            (at for at, size in enumerate(labels.shape) if size > 1),
            key=lambda at: self.place[names[at]],
        )
        for at in order:
            spread[self.place[names[at]]] = labels.shape[at]
        rest = [at for at in range(labels.dim()) if at not in order]
        return [_Spread(operand, labels.permute(*order, *rest).reshape(spread))]

    def _one_of(self, spread: _Spread, whole: set[str]) -> _Spread:
        labels = spread.labels
        for name in whole:
            if name in self.place:
                labels = self.labels.tie_along(labels, self.place[name])
        return _Spread(spread.operand, labels)

    def _components(self) -> list[list[int]]:
        """Factors that some plane varies along together."""
        group = list(range(len(self.factors)))
        for spread in self.spreads:
            varying = [at for at in range(len(self.factors)) if spread.varies(at)]
            roots = {group[at] for at in varying}
            if len(roots) > 1:
                lowest = min(roots)
                group = [lowest if root in roots else root for root in group]
        return [[at for at in range(len(self.factors)) if group[at] == root] for root in set(group)]

    def _unified(self, component: list[int]) -> Tensor | None:
        """Make the planes of a component agree; the plane that the output gets, or None."""
        spreads = [s for s in self.spreads if any(s.varies(at) for at in component)]
        if not spreads:
            return None
        bare = self._bare(component, spreads)
        if len(component) == 1 or bare or not self._fits(component, spreads):
            return self._along_one(component, spreads, bare)
        for spread in spreads[1:]:
            self.labels.tie(spreads[0].labels, spread.labels)
        widest = spreads[0].labels
        return widest if self.factors[component[0]] in self.retained else None

    def _fits(self, component: list[int], spreads: list[_Spread]) -> bool:
        """Whether elements can be matched one by one: all factors stay, or all are contracted."""
        names = {self.factors[at] for at in component}
        if names & self.immovable:
            return False
        if names & self.retained and not names <= self.retained:
            return False
        return all(spread.varies(at) for spread in spreads for at in component)

    def _along_one(
        self, component: list[int], spreads: list[_Spread], bare: set[int]
    ) -> Tensor | None:
        """Choose the factor that may shrink; along the others, everything is one."""
        covered = [at for at in component if at not in bare]
        axis = self._axis(covered)
        chosen: list[_Spread] = []
        for spread in spreads:
            if axis is None or not spread.varies(axis):
                self.labels.hold(spread.labels, run_over=axis is None and bool(covered))
                continue
            labels = spread.labels
            for at in component:
                if at != axis:
                    labels = self.labels.tie_along(labels, at)
            chosen.append(_Spread(spread.operand, labels))
        if axis is None or not chosen:
            return None
        for spread in chosen[1:]:
            self.labels.tie(chosen[0].labels, spread.labels)
        if self._bare([axis], chosen):
            self.labels.hold(chosen[0].labels, run_over=False)
        return chosen[0].labels if self.factors[axis] in self.retained else None

    def _axis(self, component: list[int]) -> int | None:
        """Prefer what the output keeps, then the slowest: heads before head_dim, or after it."""
        movable = [at for at in component if self.factors[at] not in self.immovable]
        found = [at for at in movable if self.factors[at] in self.retained] or movable
        if not found:
            return None
        return found[-1 if self.within_heads else 0]

    def _bare(self, component: list[int], spreads: list[_Spread]) -> set[int]:
        """Factors that some operand has in full without a plane along them: these cannot shrink."""
        found: set[int] = set()
        for at in component:
            covered = {spread.operand for spread in spreads if spread.varies(at)}
            if is_bare(self.equation, self.operands, self.factors[at], covered):
                found.add(at)
        return found

    def _gathered(self, joint: Tensor) -> Tensor:
        """Lay a plane over factors out as a plane over the output's dimensions."""
        order: list[int] = []
        sizes: list[list[int]] = []
        for dim in self.equation.output:
            at = [self.place[name] for name in dim if name in self.place]
            varies = any(joint.shape[factor] > 1 for factor in at)
            order += at
            sizes.append([self.sizes[self.factors[factor]] if varies else 1 for factor in at])
        rest = [at for at in range(joint.dim()) if at not in order]
        ordered = joint.permute(*order, *rest).reshape([joint.shape[at] for at in order])
        full = ordered.expand([size for dim in sizes for size in dim])
        return full.reshape([prod(dim) for dim in sizes])
