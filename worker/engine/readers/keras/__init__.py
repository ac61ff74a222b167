"""Models of Keras: ``.keras`` files, and the ``.h5`` files of whole models before them."""

import tempfile
from pathlib import Path

from formats.keras import check_h5, open_keras
from formats.keras.config import CheckedConfig
from worker.engine.readers.keras.build import built, load_weights
from worker.engine.readers.keras.origin import KerasOrigin, KerasVariable
from worker.engine.readers.keras.trace import traced
from worker.engine.readers.keras.weights import copy_checked
from worker.engine.readers.source import Source


def read_keras(path: Path) -> Source:
    """Read a ``.keras`` file: its configuration checked and written anew, its weights copied.

    Raises:
        FormatError: Keras should not read the file.
        UnreadableModelError: The file is harmless, and Keras cannot make a model of it.
        UnsupportedModelError: A part of it is not taken.
        ExportError: torch cannot export the model.
    """
    with tempfile.TemporaryDirectory(prefix="secateur-keras-") as folder:
        raw, clean = Path(folder) / "raw.h5", Path(folder) / "clean.weights.h5"
        with open_keras(path) as model:
            with raw.open("wb") as file:
                file.writelines(model.weights())
            checked = model.checked
        size_bytes = copy_checked(raw, clean, where="model.weights.h5")
        return _source(checked, clean, size_bytes, is_whole_model=False)


def read_h5(path: Path) -> Source:
    """Read an ``.h5`` file of a whole model, as Keras 2 wrote them; the same is checked.

    Raises:
        FormatError: Keras should not read the file.
        UnreadableModelError: The file is harmless, and Keras cannot make a model of it.
        UnsupportedModelError: A part of it is not taken.
        ExportError: torch cannot export the model.
    """
    with tempfile.TemporaryDirectory(prefix="secateur-keras-") as folder:
        clean = Path(folder) / "clean.weights.h5"
        checked = check_h5(path).checked
        size_bytes = copy_checked(path, clean, where="model.h5")
        return _source(checked, clean, size_bytes, is_whole_model=True)


def _source(
    checked: CheckedConfig, weights: Path, size_bytes: int, *, is_whole_model: bool
) -> Source:
    # Each weight has a byte at least; seeds of random numbers, which old files lack, have a few.
    model = built(checked.config, max_elements=size_bytes + 65536)
    load_weights(model, weights, is_whole_model=is_whole_model)
    found = traced(model)
    return Source(
        exported=found.exported,
        warnings=found.warnings,
        origin=KerasOrigin(config=checked.config, variables=found.variables),
    )


__all__ = ["KerasOrigin", "KerasVariable", "read_h5", "read_keras"]
