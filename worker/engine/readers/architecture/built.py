"""A model that was built, and what it reads."""

from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True)
class Input:
    """One argument of a model: an example, and which dimensions may have any size.

    The first dimension, which counts rows, is always one of them.
    """

    name: str
    example: Tensor
    dynamic: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Built:
    """A model with its weights, in evaluation mode.

    Attributes:
        module: The model.
        inputs: What it reads, by the names of its arguments.
        optional: Names of inputs that are left out if it does not export with them.
        warnings: What users should know.
        origin: What its writer needs.
    """

    module: nn.Module
    inputs: tuple[Input, ...]
    optional: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = field(default=())
    origin: object = None
