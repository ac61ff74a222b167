"""Weights with the name of an architecture: the library builds it, its weights are filled in.

No code of a user runs: builders and classes are those that the libraries themselves list.
"""

import tempfile
from pathlib import Path

import torch

from formats.checkpoint import open_checkpoint
from worker.engine.errors import UnsupportedModelError
from worker.engine.readers.architecture.builders import BUILDERS, missing_library
from worker.engine.readers.architecture.export import exported
from worker.engine.readers.source import Source


def read_architecture(path: Path) -> Source:
    """Read an archive of weights and of what they are for.

    Raises:
        FormatError: It is no such archive, or names what is not allowed.
        UnreadableModelError: The weights are not those of the architecture.
        UnsupportedModelError: The library is not installed here, or the model does not export.
    """
    with open_checkpoint(path) as checked, tempfile.TemporaryDirectory() as folder:
        builder = BUILDERS[checked.architecture.builder]
        if missing := missing_library(checked.architecture.builder):
            raise UnsupportedModelError(
                f"this worker has no {missing}: install it (pip install 'secateur[architectures]'),"
                " or export the model with torch.export and upload the .pt2"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # What a file does not hold is drawn, the same each time.
            built = builder(checked, Path(folder))
        return exported(built)
