"""Inputs that are drawn: what to run a program on where there is no data."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from worker.engine.dynamic import placeholders
from worker.engine.program import Program, tensor_value


def shuffled(examples: list[Any], generator: Generator) -> list[Any]:
    """The numbers of the examples in another order."""

    def draw(example: Any) -> Any:
        if not isinstance(example, Tensor):
            return example
        order = torch.randperm(example.numel(), generator=generator)
        return example.flatten()[order.to(example.device)].view(example.shape)

    return [draw(example) for example in examples]


def normal_like(examples: list[Any], generator: Generator) -> list[Any]:
    """Inputs of the same shapes: normal floats; whole numbers drawn from those of the example."""

    def draw(example: Any) -> Any:
        if not isinstance(example, Tensor) or not example.numel():
            return example
        if example.is_floating_point():
            return torch.randn(example.shape, generator=generator).to(example)
        picks = torch.randint(example.numel(), example.shape, generator=generator)
        return example.flatten()[picks.to(example.device)]

    return [draw(example) for example in examples]


def repeated(program: Program, rows: int) -> list[Any]:
    """The example inputs with another number of rows, as far as the program takes them."""
    wanted = program.rows_per_call(rows)
    return [
        leaf[torch.arange(wanted, device=leaf.device) % leaf.shape[0]]
        if sizes and sizes[0] is None
        else leaf
        for leaf, sizes in zip(program.example_leaves, program.input_sizes, strict=True)
    ]


@torch.no_grad()
def longer(program: Program) -> list[list[Any]]:
    """The example inputs with each dynamic dimension but that of rows twice as long, one by one.

    Those that the program does not take are left out: a size may have to fit others.
    """
    values: list[Any] = [tensor_value(node) for node in placeholders(program.module)]
    symbols: dict[Any, list[tuple[int, int]]] = {}
    for at, value in enumerate(values):
        for dim, size in enumerate([] if value is None else value.shape):
            if isinstance(size, torch.SymInt) and size.node.expr.is_symbol:
                symbols.setdefault(size.node.expr, []).append((at, dim))
    found = []
    for places in symbols.values():
        if any(dim == 0 for _, dim in places):
            continue
        leaves = list(program.example_leaves)
        for at, dim in places:
            leaves[at] = torch.cat([leaves[at], leaves[at]], dim)
        try:
            program.run(leaves)
        except (RuntimeError, AssertionError, ValueError, IndexError):
            continue
        found.append(leaves)
    return found


def drawn(program: Program, generator: Generator, *, rows: int, calls: int) -> Iterator[list[Any]]:
    """The example inputs, and then normal draws in their shape.

    Args:
        program: Not every one takes any number: whoever runs it on the draws has to see to that.
        generator: Of the draws.
        rows: For each call, as far as the program takes them.
        calls: How many of them; the first has the examples.
    """
    examples = repeated(program, rows)
    yield examples
    for _ in range(calls - 1):
        yield normal_like(examples, generator)
