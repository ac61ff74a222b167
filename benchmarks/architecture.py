"""One architecture: how to build it, and what to call it with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional inputs, and inputs by keyword."""


@dataclass(frozen=True)
class Architecture:
    """A network with random weights.

    Attributes:
        name: Its library and its name there: ``tv/``, ``timm/``, ``hf/`` or ``own/``.
        family: What is particular about it, in a word or two.
        build: Makes the module. Imports its library only then.
        inputs: Makes inputs for one call; the first dimension of each tensor is the batch.
    """

    name: str
    family: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]


def image(size: int, *, channels: int = 3, batch: int = 2) -> Callable[[], Inputs]:
    """Inputs of a network that takes one square picture."""
    return floats(channels, size, size, batch=batch)


def floats(*shape: int, batch: int = 2) -> Callable[[], Inputs]:
    """Inputs of a network that takes one tensor of normal floats."""
    return lambda: ((_normal(batch, *shape),), {})


def named_floats(batch: int = 2, **shapes: tuple[int, ...]) -> Callable[[], Inputs]:
    """Normal floats by keyword."""
    return lambda: ((), {name: _normal(batch, *shape) for name, shape in shapes.items()})


def tokens(*names: str, length: int = 16, vocabulary: int = 199) -> Callable[[], Inputs]:
    """Token numbers by keyword: ``input_ids`` unless other names are given."""

    def make() -> Inputs:
        generator = torch.Generator().manual_seed(1)
        shape = (2, length)
        return (), {
            name: torch.randint(3, vocabulary, shape, generator=generator)
            for name in names or ("input_ids",)
        }

    return make


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))
