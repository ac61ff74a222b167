"""Keras's own files: what is allowed, and what is left of it for Keras to read.

A ``.keras`` file is a zip archive of a configuration and an HDF5 file of weights; an ``.h5`` file
of Keras 2 holds both in one. The configuration is checked here and written anew. The HDF5 is
checked where it is read, in the worker: its layout needs a library.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from formats.archive import Archive, Limits, open_archive
from formats.errors import KerasFileUnreadable, UnsafeFile, UnsupportedKerasModel, shown
from formats.keras.config import CheckedConfig, check_config
from formats.keras.findings import Finding, Unsupported
from formats.sniff import describe, describe_archive, refuse_pickles
from formats.strict_json import JsonError, loads
from formats.tensors import ModelFacts

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_LIMITS = Limits(member_count=64)
_ZIP = b"PK\x03\x04"
_HEAD_BYTES = 512
_MAX_METADATA_BYTES = 65536
_MAX_METADATA_DEPTH = 8


@dataclass(frozen=True)
class CheckedKeras:
    """A ``.keras`` file whose configuration has been checked."""

    checked: CheckedConfig
    archive: Archive

    def weights(self) -> Iterator[bytes]:
        """The bytes of the HDF5 file, piece by piece. They have not been checked."""
        return self.archive.chunks(WEIGHTS)


def inspect_keras(path: Path) -> ModelFacts:
    """Check a ``.keras`` file, and say what is in it.

    Raises:
        FormatError: It is none, or Keras should not read it.
    """
    with open_keras(path) as model:
        return ModelFacts(inputs=model.checked.inputs, outputs=None, parameter_count=0)


def inspect_h5(path: Path) -> ModelFacts:
    """Check that a file is HDF5. What is in it is checked where it is read.

    Raises:
        FormatError: It is something else.
    """
    head = _head(path)
    if not head.startswith(HDF5_MAGIC):
        refuse_pickles(head)
        raise KerasFileUnreadable(
            f"an .h5 file is HDF5, and this looks like {_looks_like(path, head)}"
        )
    return ModelFacts(inputs=None, outputs=None, parameter_count=0)


@contextmanager
def open_keras(path: Path) -> Iterator[CheckedKeras]:
    """Open a ``.keras`` file whose configuration holds nothing but what is known.

    Raises:
        FormatError: It is none, or Keras should not read it.
    """
    head = _head(path)
    if not head.startswith(_ZIP):
        refuse_pickles(head)
        raise KerasFileUnreadable(
            f"a .keras file is a zip archive, and this looks like {_looks_like(path, head)}"
        )
    with open_archive(path, limits=_LIMITS) as archive:
        _check_members(archive)
        text = archive.read(CONFIG, max_bytes=2**25)
        yield CheckedKeras(checked=checked_config(text, CONFIG), archive=archive)


def checked_config(text: str | bytes, where: str) -> CheckedConfig:
    """Check the JSON of a model's configuration.

    Raises:
        FormatError: It is none, or Keras should not read it.
    """
    try:
        return check_config(loads(text))
    except JsonError as error:
        raise UnsafeFile(where, str(error)) from None
    except Finding as finding:
        raise UnsafeFile(where, str(finding)) from None
    except Unsupported as reason:
        raise UnsupportedKerasModel(str(reason)) from None


def _check_members(archive: Archive) -> None:
    names = set(archive.members)
    if not {CONFIG, WEIGHTS} <= names:
        inner = {name.removeprefix(archive.root) for name in names}
        if "data.pkl" in inner:
            refuse_pickles(b"\x80\x02")
        if CONFIG in names and any("weights" in name for name in names):
            raise UnsupportedKerasModel(
                f"its weights are not in {WEIGHTS}: save it with model.save('model.keras')"
            )
        raise KerasFileUnreadable(
            f"a .keras file holds {CONFIG} and {WEIGHTS}, and this looks like "
            f"{describe_archive(inner)}"
        )
    for name in sorted(names - {CONFIG, METADATA, WEIGHTS}):
        if name.startswith("assets/"):
            raise UnsupportedKerasModel(
                f"it has a file of its own, {shown(name)}, as layers with a vocabulary have; take "
                "numbers in place of texts as inputs"
            )
        raise UnsafeFile(name, "a .keras file has no such member")
    if METADATA in names:
        metadata = archive.read(METADATA, max_bytes=_MAX_METADATA_BYTES)
        try:
            loads(metadata, max_depth=_MAX_METADATA_DEPTH)
        except JsonError as error:
            raise UnsafeFile(METADATA, str(error)) from None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def _looks_like(path: Path, head: bytes) -> str:
    if not head.startswith(_ZIP):
        return describe(head)
    with open_archive(path, limits=_LIMITS) as archive:
        return describe_archive({name.removeprefix(archive.root) for name in archive.members})


__all__ = [
    "CheckedConfig",
    "CheckedKeras",
    "checked_config",
    "inspect_h5",
    "inspect_keras",
    "open_keras",
]
