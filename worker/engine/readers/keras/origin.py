"""What the writer of Keras's format needs to give a model back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class KerasVariable:
    """Where the program has one variable of the model.

    Attributes:
        path: The variable's own, such as ``conv2d/kernel``.
        names: The program's parameters and buffers that hold it; none where nothing reads it.
        layout: How they hold it: a key of ``worker.engine.readers.keras.layouts.LAYOUTS``.
        permutation: Of its dimensions, as ``torch.permute`` takes it; empty where it is as it was.
        value: What it holds, where the program does not have it.
    """

    path: str
    names: tuple[str, ...]
    layout: str
    permutation: tuple[int, ...]
    value: Tensor | None


@dataclass(frozen=True)
class KerasOrigin:
    """A model of Keras, as it was read.

    Attributes:
        config: The checked configuration.
        variables: In the order of ``model.variables``.
    """

    config: Mapping[str, Any]
    variables: tuple[KerasVariable, ...]
