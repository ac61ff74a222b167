"""Compressed models as files: one writer for each format, and one table of them.

A writer is a module with two functions. ``write(program, origin, path)`` writes the file, or raises
:class:`InexpressibleError`. ``run(path, calls)`` loads it in the runtime that it is for, in a fresh
process, and gives the outputs of all calls, flat. Both are imported when they are needed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from worker.engine.program import Program
from worker.engine.writers.inexpressible import InexpressibleError


@dataclass(frozen=True)
class Writer:
    """A row of the table.

    Attributes:
        module: Where ``write`` and ``run`` are.
        file: The name of the file.
        libraries: Distributions whose versions say what ran it.
        origin: The class of the origins that it can write, as ``module:name``; None for any.
    """

    module: str
    file: str
    libraries: tuple[str, ...]
    origin: str | None = None

    @property
    def runner(self) -> str:
        """What :mod:`worker.engine.reload` runs the file with."""
        return f"{self.module}:run"

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


_PRETRAINED = "worker.engine.readers.architecture.pretrained:PretrainedOrigin"

WRITERS: dict[str, Writer] = {
    "onnx": Writer("worker.engine.writers.onnx", "model.onnx", ("onnxruntime",)),
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
    "aotinductor": Writer("worker.engine.writers.aotinductor", "model.aotinductor.pt2", ("torch",)),
}

OWN: dict[str, str] = {
    "onnx": "onnx",
    "keras": "keras",
    "h5": "keras",
    "saved_model": "onnx",
    "safetensors": "transformers",
}
"""What an upload is given back as, where nobody says it."""

__all__ = ["OWN", "WRITERS", "InexpressibleError", "Writer"]
