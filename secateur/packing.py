"""A model on a disk as one file to upload: which format it is, and a folder packed into a zip.

Nothing is imported, and no weight is read: names say what a file is, and what of a folder is sent.
"""

import json
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
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
    ".tar.gz": ModelFormat.SAVED_MODEL,
    ".tgz": ModelFormat.SAVED_MODEL,
}
_PICKLES = (".pt", ".pth", ".bin", ".ckpt")
_SAFETENSORS = ".safetensors"
_INDEX = ".safetensors.index.json"
_CONFIG, _ARCHITECTURE = "config.json", "architecture.json"
_SAVED_MODEL = "saved_model.pb"
# What of a SavedModel is read.
_PARTS = (_SAVED_MODEL, "fingerprint.pb", "keras_metadata.pb")
_FOLDERS = ("variables/", "assets/", "assets.extra/")

Architecture = str | Mapping[str, Any]
"""`BUILDER/NAME`, such as `torchvision/resnet18`, or the document of architecture.json."""


@contextmanager
def packed(
    path: Path,
    *,
    file_format: ModelFormat | None = None,
    architecture: Architecture | None = None,
) -> Iterator[tuple[Path, ModelFormat]]:
    """One file to upload, and its format; a zip that was made for it is gone in the end.

    Args:
        path: A model's file; or a folder: a SavedModel, a checkpoint of transformers, an ONNX model
            with its external data.
        file_format: What it is, where names do not say it.
        architecture: What weights are for. `path` is then a file of weights, or a folder of them.

    Raises:
        UnknownModelFile: Neither name nor content says what it is, or they say something else.
    """
    if not path.exists():
        raise UnknownModelFile(path, "there is no such file or folder")
    if architecture is not None:
        if file_format not in (None, ModelFormat.SAFETENSORS):
            raise UnknownModelFile(path, f"weights with an architecture are not {file_format}")
        try:
            document = json.dumps(document_of(architecture)).encode()
        except (TypeError, ValueError) as error:
            raise UnknownModelFile(path, str(error)) from error
        names = _checkpoint(path, _names_in(path)) if path.is_dir() else None
        with _zipped(path, names, document) as archive:
            yield archive, ModelFormat.SAFETENSORS
    elif path.is_dir():
        names = _names_in(path)
        kind = file_format or _kind_of(names)
        if kind is None:
            raise UnknownModelFile(path, "the folder holds no model that is known")
        with _zipped(path, _needed(path, names, kind)) as archive:
            yield archive, kind
    else:
        yield path, file_format or _format_of(path)


def document_of(architecture: Architecture) -> dict[str, Any]:
    """What architecture.json says.

    Raises:
        ValueError: A text without a slash.
    """
    if not isinstance(architecture, str):
        return dict(architecture)
    builder, slash, name = architecture.partition("/")
    if not slash or not builder or not name:
        raise ValueError(f"architecture {architecture!r} is to be like torchvision/resnet18")
    return {"builder": builder, "name": name}


def _names_in(folder: Path) -> list[str]:
    """The files of a folder, without those that are hidden, as a repository's own."""
    names = [each.relative_to(folder) for each in sorted(folder.rglob("*")) if each.is_file()]
    return [
        name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts)
    ]


def _format_of(path: Path) -> ModelFormat:
    """What a file is by its name; of a zip, by the names in it.

    Raises:
        UnknownModelFile: They do not say it.
    """
    suffix = path.suffix.lower()
    for known in ("".join(path.suffixes[-2:]).lower(), suffix):
        if known in _SUFFIXES:
            return _SUFFIXES[known]
    if suffix == ".zip":
        return _format_of_zip(path)
    if suffix in (_SAFETENSORS, *_PICKLES):
        has_config = any((path.parent / name).exists() for name in (_CONFIG, _ARCHITECTURE))
        folder = f", or give the folder that they are in, {path.parent}" if has_config else ""
        raise UnknownModelFile(
            path,
            "weights alone are no model: say what they are for with --architecture, such as "
            f"torchvision/resnet18{folder}",
        )
    raise UnknownModelFile(path, "its name does not say which format it is; say it with --format")


def _format_of_zip(path: Path) -> ModelFormat:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise UnknownModelFile(path, f"the zip is damaged ({error})") from error
    roots = {name.partition("/")[0] if "/" in name else "" for name in names}
    if len(roots) == 1 and "" not in roots:
        names = [name.partition("/")[2] for name in names]
    found = _kind_of(names)
    if found is None:
        raise UnknownModelFile(path, "the zip holds no model that is known; say it with --format")
    return found


def _kind_of(names: Sequence[str]) -> ModelFormat | None:
    """What a folder is, by the files that lie in it and in none of its folders."""
    own = [name for name in names if "/" not in name]
    if _SAVED_MODEL in own:
        return ModelFormat.SAVED_MODEL
    has_weights = any(name.endswith((_SAFETENSORS, *_PICKLES)) for name in own)
    if has_weights and {_CONFIG, _ARCHITECTURE} & set(own):
        return ModelFormat.SAFETENSORS
    if any(name.endswith(".onnx") for name in own):
        return ModelFormat.ONNX
    return None


def _needed(folder: Path, names: list[str], kind: ModelFormat) -> list[str]:
    """The files of a folder that its model is made of."""
    if kind is ModelFormat.SAFETENSORS:
        return _checkpoint(folder, names)
    if kind is ModelFormat.SAVED_MODEL:
        names = [name for name in names if name in _PARTS or name.startswith(_FOLDERS)]
    # A link may lead anywhere; what a model is made of lies in its folder.
    return [name for name in names if not (folder / name).is_symlink()]


def _checkpoint(folder: Path, names: list[str]) -> list[str]:
    """The weights of a folder, in one file or in shards, and what they are for.

    Left out is what trainers keep beside them: optimizers, tokenizers, older formats.
    """
    own = [name for name in names if "/" not in name]
    told = [name for name in own if name in (_CONFIG, _ARCHITECTURE)]
    index = [name for name in own if name.endswith(_INDEX)]
    whole = [name for name in own if name.endswith(_SAFETENSORS)]
    if whole:
        return [*told, *index, *whole]
    pickles = [name for name in own if PurePosixPath(name).suffix in _PICKLES]
    chosen = [name for name in pickles if name.startswith("pytorch_model")] or pickles
    if len(chosen) != 1:
        found = ", ".join(chosen[:5]) or "none"
        raise UnknownModelFile(
            folder, f"the folder is to hold safetensors, or one pickled state dict; it has {found}"
        )
    return [*told, *chosen]


@contextmanager
def _zipped(
    path: Path, names: Sequence[str] | None, document: bytes | None = None
) -> Iterator[Path]:
    """A zip of files of a folder, or of one file, as they are, in a temporary folder."""
    files = {path.name: path} if names is None else {name: path / name for name in names}
    if document is not None:
        files.pop(_ARCHITECTURE, None)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / f"{path.resolve().stem}.zip"
        # Fixed times: the same files are the same zip, and are not sent twice.
        with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
            for name, file in files.items():
                is_large = file.stat().st_size >= 2**31
                member = zipfile.ZipInfo(name)
                with (
                    file.open("rb") as source,
                    archive.open(member, "w", force_zip64=is_large) as target,
                ):
                    while chunk := source.read(2**20):
                        target.write(chunk)
            if document is not None:
                archive.writestr(zipfile.ZipInfo(_ARCHITECTURE), document)
        yield made
