"""Keras's own files: what is allowed, and what is left of it for Keras to read.

A ``.keras`` file is a zip archive of a configuration and an HDF5 file of weights; an ``.h5`` file
of Keras 2 holds both in one. The configuration is checked here and written anew, and the layout of
the HDF5 is checked; the worker, which has a library for it, copies the arrays into a new file.
"""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from formats.archive import Archive, Limits, open_archive
from formats.errors import KerasFileUnreadable, UnsafeFile, UnsupportedKerasModel, shown
from formats.keras.config import CheckedConfig, check_config
from formats.keras.findings import Finding, Unsupported
from formats.keras.hdf5 import MAGIC, Hdf5
from formats.sniff import describe, describe_archive, refuse_pickles
from formats.strict_json import MAX_BYTES, JsonError, loads
from formats.tensors import ModelFacts

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
H5 = "model.h5"
_OPTIMIZERS = frozenset({"optimizer", "optimizer_weights"})
_LIMITS = Limits(member_count=64)
_ZIP = b"PK\x03\x04"
_HEAD_BYTES = 512
_MAX_METADATA_BYTES = 65536
_MAX_METADATA_DEPTH = 8


@dataclass(frozen=True)
class CheckedKeras:
    """A file of Keras: its configuration, checked, and its weights, of which the layout was.

    Attributes:
        checked: The configuration.
        parameter_count: Elements of all weights; how the optimizer stood is not among them.
        archive: Holds the weights; None where they are the file itself.
    """

    checked: CheckedConfig
    parameter_count: int
    archive: Archive | None = None

    def weights(self) -> Iterator[bytes]:
        """The bytes of the HDF5 file of a ``.keras`` file, piece by piece."""
        assert self.archive is not None
        return self.archive.chunks(WEIGHTS)


def inspect_keras(path: Path) -> ModelFacts:
    """Check a ``.keras`` file, and say what is in it.

    Raises:
        FormatError: It is none, or Keras should not read it.
    """
    with open_keras(path) as model:
        return _facts(model)


def inspect_h5(path: Path) -> ModelFacts:
    """Check an ``.h5`` file of a whole model, and say what is in it.

    Raises:
        FormatError: It is none, or Keras should not read it.
    """
    return _facts(check_h5(path))


def _facts(model: CheckedKeras) -> ModelFacts:
    return ModelFacts(
        inputs=model.checked.inputs, outputs=None, parameter_count=model.parameter_count
    )


def check_h5(path: Path) -> CheckedKeras:
    """Check an ``.h5`` file of a whole model, as Keras 2 wrote them.

    Raises:
        FormatError: It is none, or Keras should not read it.
    """
    head = _head(path)
    if not head.startswith(MAGIC):
        refuse_pickles(head)
        raise KerasFileUnreadable(
            f"an .h5 file is HDF5, and this looks like {_looks_like(path, head)}"
        )
    with path.open("rb") as file:
        part = _Part(file, 0, path.stat().st_size)
        count = _parameter_count(part, H5)
        try:
            text = Hdf5(file, offset=0, size_bytes=part.size_bytes).text_attribute("model_config")
        except Finding as finding:
            raise UnsafeFile(H5, str(finding)) from None
    if text is None:
        raise UnsupportedKerasModel(
            "the .h5 file holds weights without a model: save the whole model with "
            "model.save('model.keras')"
        )
    return CheckedKeras(checked=checked_config(text, "model_config"), parameter_count=count)


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
        checked = checked_config(archive.read(CONFIG, max_bytes=MAX_BYTES), CONFIG)
        with _seekable(path, archive) as part:
            count = _parameter_count(part, WEIGHTS)
        yield CheckedKeras(checked=checked, parameter_count=count, archive=archive)


@dataclass(frozen=True)
class _Part:
    """A part of a file."""

    file: IO[bytes]
    offset: int
    size_bytes: int


@contextmanager
def _seekable(path: Path, archive: Archive) -> Iterator[_Part]:
    """The weights, to be read at any place: where they are, or unpacked into a temporary file."""
    member = archive.members[WEIGHTS]
    if member.is_stored:
        with path.open("rb") as file:
            yield _Part(file, member.offset, member.size_bytes)
    else:
        with tempfile.TemporaryFile() as file:
            file.writelines(archive.chunks(WEIGHTS))
            yield _Part(file, 0, member.size_bytes)


def _parameter_count(part: _Part, where: str) -> int:
    try:
        hdf5 = Hdf5(part.file, offset=part.offset, size_bytes=part.size_bytes)
        return sum(
            math.prod(array.shape)
            for array in hdf5.arrays()
            if array.is_float and array.path.partition("/")[0] not in _OPTIMIZERS
        )
    except Finding as finding:
        raise UnsafeFile(where, str(finding)) from None


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
    "check_h5",
    "checked_config",
    "inspect_h5",
    "inspect_keras",
    "open_keras",
]
