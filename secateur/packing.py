"""A model on a disk as one file to upload: which format it is, and a folder packed into a zip.

Nothing is imported, and no weight is read: names and first bytes say what a file is.
"""

import json
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from secateur.errors import UnknownModelFile
from secateur.models import ModelFormat

_SUFFIXES = {
    ".pt2": ModelFormat.PT2,
    ".onnx": ModelFormat.ONNX,
    ".keras": ModelFormat.KERAS,
    ".h5": ModelFormat.H5,
    ".hdf5": ModelFormat.H5,
    ".tar": ModelFormat.SAVED_MODEL,
    ".tgz": ModelFormat.SAVED_MODEL,
    ".gz": ModelFormat.SAVED_MODEL,
}
_PICKLES = (".pt", ".pth", ".bin", ".ckpt")
_WEIGHTS = (".safetensors", *_PICKLES)
_ARCHITECTURE = "architecture.json"

Architecture = str | Mapping[str, Any]
"""`BUILDER/NAME`, such as `torchvision/resnet18`, or the document of architecture.json."""


@contextmanager
def packed(
    path: Path, *, architecture: Architecture | None = None
) -> Iterator[tuple[Path, ModelFormat]]:
    """One file to upload, and its format; a zip that was made for it is gone in the end.

    Args:
        path: A model's file; or a folder: a SavedModel, a checkpoint of transformers, an ONNX model
            with its external data.
        architecture: What weights are for. `path` is then a file of weights, or a folder of them.

    Raises:
        UnknownModelFile: Neither name nor content says what it is.
    """
    if architecture is not None:
        with _zipped(_weights_in(path), _document(architecture)) as archive:
            yield archive, ModelFormat.SAFETENSORS
    elif path.is_dir():
        model_format = _kind_of([each.name for each in path.iterdir()])
        if model_format is None:
            raise UnknownModelFile(path, "the folder holds no model that is known")
        with _zipped([each for each in sorted(path.rglob("*")) if each.is_file()], root=path) as z:
            yield z, model_format
    else:
        yield path, _format_of(path)


def document_of(architecture: Architecture) -> dict[str, Any]:
    """What architecture.json says.

    Raises:
        ValueError: A text without a slash.
    """
    if not isinstance(architecture, str):
        return dict(architecture)
    builder, slash, name = architecture.partition("/")
    if not slash:
        raise ValueError(f"architecture {architecture!r} is to be like torchvision/resnet18")
    return {"builder": builder, "name": name}


def _document(architecture: Architecture) -> bytes:
    return json.dumps(document_of(architecture)).encode()


def _weights_in(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return [
        each
        for each in sorted(path.iterdir())
        if each.suffix in _WEIGHTS or each.name == "config.json" or each.name.endswith("index.json")
    ]


def _format_of(path: Path) -> ModelFormat:
    suffix = path.suffix.lower()
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if suffix == ".zip" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if found := _kind_of([name.rpartition("/")[2] for name in names]):
            return found
    if suffix in _WEIGHTS:
        raise UnknownModelFile(
            path,
            "weights alone are no model: say what they are for with --architecture, such as "
            "torchvision/resnet18, or give the folder with its config.json",
        )
    raise UnknownModelFile(path, "its name does not say which format it is")


def _kind_of(names: list[str]) -> ModelFormat | None:
    """What a folder with files of these names is."""
    if "saved_model.pb" in names:
        return ModelFormat.SAVED_MODEL
    if any(name.endswith(".onnx") for name in names):
        return ModelFormat.ONNX
    if {"config.json", _ARCHITECTURE} & set(names) and any(
        name.endswith(_WEIGHTS) for name in names
    ):
        return ModelFormat.SAFETENSORS
    return None


@contextmanager
def _zipped(
    files: list[Path], document: bytes | None = None, *, root: Path | None = None
) -> Iterator[Path]:
    """A zip of files as they are, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "model.zip"
        # Fixed times: the same files are the same zip, and are not sent twice.
        with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
            for file in files:
                name = file.name if root is None else file.relative_to(root).as_posix()
                member = zipfile.ZipInfo(name)
                with (
                    file.open("rb") as source,
                    archive.open(member, "w", force_zip64=file.stat().st_size >= 2**31) as target,
                ):
                    while chunk := source.read(2**20):
                        target.write(chunk)
            if document is not None:
                archive.writestr(zipfile.ZipInfo(_ARCHITECTURE), document)
        yield made
