"""Equations: an operator's dimensions, written in factors.

``n (g c) * *, (g k) c * *, (g k) -> n (g k) * *`` is a grouped convolution. A name is a factor;
``(g k)`` is one dimension made of two, ``g`` the slower; ``*`` is one dimension that couples
nothing and never shrinks; ``...`` stands for any number of leading dimensions, matched from the
right, as broadcasting does. A factor without a place behind the arrow is contracted.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

STAR = "*"
ELLIPSIS = "..."

Dimension = tuple[str, ...]
"""The factors of one dimension, slowest first."""


@dataclass(frozen=True)
class Equation:
    """Operands and one output, each a tuple of dimensions."""

    operands: tuple[tuple[Dimension, ...], ...]
    output: tuple[Dimension, ...]

    @classmethod
    def parse(cls, text: str) -> "Equation":
        """Read an equation.

        >>> Equation.parse("m k, k n -> m n").output
        (('m',), ('n',))
        """
        return _parse(text)

    def with_ranks(self, ranks: Sequence[int], output_rank: int) -> "Equation":
        """Replace each ``...`` and ``*`` by names of their own, for operands of these ranks."""
        operands = tuple(
            _named(dims, rank, place)
            for place, (dims, rank) in enumerate(zip(self.operands, ranks, strict=True))
        )
        return Equation(operands, _named(self.output, output_rank, -1))

    def factor_sizes(
        self, shapes: Sequence[Sequence[int]], known: Mapping[str, int]
    ) -> dict[str, int]:
        """The size of each factor; a dimension of size 1 may be broadcast and decides nothing."""
        sizes = dict(known)
        single = {dim[0] for dims in self.operands for dim in dims if len(dim) == 1}
        for name in single:
            seen = [
                shape[at]
                for dims, shape in zip(self.operands, shapes, strict=True)
                for at, dim in enumerate(dims)
                if dim == (name,)
            ]
            sizes[name] = max(seen) if name not in sizes else sizes[name]
        for dims, shape in zip(self.operands, shapes, strict=True):
            for dim, size in zip(dims, shape, strict=True):
                _solve(dim, size, sizes)
        return sizes


@lru_cache(maxsize=4096)
def ranked(text: str, ranks: tuple[int, ...], output_rank: int) -> Equation:
    """An equation read and given ranks, once for all calls that are alike."""
    return Equation.parse(text).with_ranks(ranks, output_rank)


def _solve(dim: Dimension, size: int, sizes: dict[str, int]) -> None:
    unknown = [name for name in dim if name not in sizes]
    known = prod(sizes[name] for name in dim if name in sizes)
    if len(unknown) == 1 and size % known == 0:
        sizes[unknown[0]] = size // known
    elif unknown or (size != known and not (len(dim) == 1 and size == 1)):
        raise ValueError(f"a dimension of size {size} is not {' x '.join(dim)} with {sizes}")


@lru_cache(maxsize=4096)
def _parse(text: str) -> Equation:
    left, arrow, right = text.partition("->")
    if not arrow:
        raise ValueError(f"an equation needs '->': {text!r}")
    return Equation(tuple(_dims(part) for part in left.split(",")), _dims(right))


def _dims(text: str) -> tuple[Dimension, ...]:
    tokens = re.findall(r"\([^()]*\)|\.\.\.|\*|\w+", text)
    return tuple(tuple(token.strip("()").split()) for token in tokens)


def _named(dims: tuple[Dimension, ...], rank: int, place: int) -> tuple[Dimension, ...]:
    extra = rank - (len(dims) - ((ELLIPSIS,) in dims))
    if extra < 0 or (extra and (ELLIPSIS,) not in dims):
        raise ValueError(f"{len(dims)} dimensions written for a tensor of rank {rank}")
    named: list[Dimension] = []
    for at, dim in enumerate(dims):
        if dim == (ELLIPSIS,):
            # Counted from the right, so that operands of different ranks line up.
            named += [(f"...{extra - index}",) for index in range(extra)]
        elif dim == (STAR,):
            named.append((f"*{place}.{at}",))
        else:
            named.append(dim)
    return tuple(named)


def einsum_terms(text: str) -> tuple[list[list[str]], list[str]]:
    """The letters of an einsum's operands, and of its result, written or implied.

    >>> einsum_terms("ij,jk")
    ([['i', 'j'], ['j', 'k']], ['i', 'k'])
    """
    left, arrow, right = text.replace(" ", "").partition("->")
    terms = [re.findall(r"\.\.\.|\w", term) for term in left.split(",")]
    if arrow:
        return terms, re.findall(r"\.\.\.|\w", right)
    letters = [letter for term in terms for letter in term]
    once = sorted(letter for letter in letters if letters.count(letter) == 1 and letter != "...")
    return terms, ["..."] * ("..." in letters) + once
