"""Models from files: one reader for each format, and one table of them.

A reader is a function from a path to a :class:`Source`. It is imported when a file of its format
comes: some bring libraries along that take seconds to import.
"""

from pathlib import Path
from pkgutil import resolve_name

from worker.engine.readers.source import Source

READERS: dict[str, str] = {
    "h5": "worker.engine.readers.keras:read_h5",
    "keras": "worker.engine.readers.keras:read_keras",
    "onnx": "worker.engine.readers.onnx:read_onnx",
    "pt2": "worker.engine.readers.pt2:read_pt2",
    "saved_model": "worker.engine.readers.saved_model:read_saved_model",
    "safetensors": "worker.engine.readers.architecture:read_architecture",
}


def read_model(path: Path, file_format: str) -> Source:
    """Read an uploaded model, which may have been made by an enemy.

    Raises:
        FormatError: The file is not one that a library should see.
        UnreadableModelError: The file is harmless, and no program can be made of it.
        UnsupportedModelError: It needs what the reader of its format does not have.
    """
    source: Source = resolve_name(READERS[file_format])(path)
    return source


__all__ = ["READERS", "Source", "read_model"]
