"""Compressed models as files: one writer for each format, and one table of them.

A writer is a module with three functions, imported when they are needed. ``write(program, origin,
path)`` writes the file, or raises :class:`InexpressibleError`. ``serve(path)`` loads it in the
runtime that it is for, with as many threads as torch has, and gives what runs it: a function from
the flat tensors that go in to those that come out. ``run(path, calls)`` does so in a fresh process,
and gives the outputs of all calls, flat.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from torch import Tensor

from worker.engine.program import Program
from worker.engine.writers.inexpressible import InexpressibleError

Call = Callable[[Sequence[Tensor]], list[Tensor]]
"""A loaded file: flat tensors in, flat tensors out."""


@dataclass(frozen=True)
class Writer:
    """A row of the table.

    Attributes:
        module: Where ``write``, ``serve`` and ``run`` are.
        file: The name of the file.
        libraries: Distributions whose versions say what ran it.
        origin: The class of the origins that it can write, as ``module:name``; None for any.
        has_codes: Whether the format has a place for weights of few bits.
    """

    module: str
    file: str
    libraries: tuple[str, ...]
    origin: str | None = None
    has_codes: bool = False

    @property
    def runner(self) -> str:
        """What :mod:`worker.engine.reload` runs the file with."""
        return f"{self.module}:run"

    @property
    def runtime(self) -> str:
        """What ran it, with versions."""
        return ", ".join(f"{each} {version(each)}" for each in self.libraries)

    def can_write(self, origin: object) -> bool:
        """Whether what the reader left is what this writer needs."""
        return self.origin is None or isinstance(origin, resolve_name(self.origin))

    def write(self, program: Program, origin: object, path: Path) -> None:
        """Write the file.

        Raises:
            InexpressibleError: The format has no way to say what the program computes.
        """
        write: Callable[[Program, Any, Path], None] = resolve_name(f"{self.module}:write")
        write(program, origin, path)

    def serve(self, path: Path) -> Call:
        """Load a file in its runtime, in this process and on its CPU."""
        serve: Callable[[Path], Call] = resolve_name(f"{self.module}:serve")
        return serve(path)


_PRETRAINED = "worker.engine.readers.architecture.pretrained:PretrainedOrigin"

WRITERS: dict[str, Writer] = {
    "onnx": Writer("worker.engine.writers.onnx", "model.onnx", ("onnxruntime",), has_codes=True),
    "keras": Writer(
        "worker.engine.writers.keras",
        "model.keras",
        ("keras", "torch"),
        "worker.engine.readers.keras.origin:KerasOrigin",
    ),
    "transformers": Writer(
        "worker.engine.writers.pretrained",
        "model.transformers.zip",
        ("transformers", "torch"),
        _PRETRAINED,
    ),
    "aotinductor": Writer(
        "worker.engine.writers.aotinductor", "model.aotinductor.pt2", ("torch",), has_codes=True
    ),
}

OWN: dict[str, str] = {
    "onnx": "onnx",
    "keras": "keras",
    "h5": "keras",
    "saved_model": "onnx",
    "safetensors": "transformers",
}
"""What an upload is given back as, where nobody says it."""

__all__ = ["OWN", "WRITERS", "Call", "InexpressibleError", "Writer"]
