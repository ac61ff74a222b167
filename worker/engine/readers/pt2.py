"""torch.export's own files."""

from pathlib import Path

from worker.engine.load import load_program
from worker.engine.readers.source import Source


def read_pt2(path: Path) -> Source:
    """Read an exported program. Nothing has to be made of it: it is one."""
    return Source(load_program(path))
