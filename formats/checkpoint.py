"""Weights with the name of the architecture that they are for: a zip of a few files.

* weights: one or more ``.safetensors`` files, with or without the index of a sharded checkpoint; or
  one pickled state dict (``.bin``, ``.pt``, ``.pth``), which a worker reads by torch's restricted
  loader alone;
* ``config.json`` of transformers, or ``architecture.json``, which names a builder of a library.

Everything else that such folders hold, as tokenizers and read-me files, is left where it is.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from formats import strict_json
from formats.archive import Archive, open_archive
from formats.errors import ArchitectureInvalid, NotACheckpoint, UnsafeFile, shown
from formats.safetensors import read_header
from formats.sniff import describe, describe_archive
from formats.tensors import ModelFacts, TensorInfo

ARCHITECTURE = "architecture.json"
CONFIG = "config.json"
BUILDERS = ("torchvision", "timm", "transformers")
_INDEX = ".safetensors.index.json"
_WEIGHTS = ".safetensors"
_PICKLES = (".bin", ".pt", ".pth")
_ZIP = b"PK\x03\x04"
_HEAD_BYTES = 512
_MOST_SHARDS = 1000
_MOST_CONFIG_BYTES = 2**22
_INPUT_DTYPES = ("float32", "int64", "bool")
_MOST_INPUTS = 32
_MOST_ELEMENTS = 2**26

# What makes transformers, or the libraries under it, look for code or files elsewhere.
_FORBIDDEN_KEYS = frozenset(
    {
        "adapter_kwargs",
        "auto_map",
        "backbone",
        "backbone_kwargs",
        "custom_pipelines",
        "model_args",
        "trust_remote_code",
        "use_pretrained_backbone",
        "use_timm_backbone",
    }
)
_FORBIDDEN_TYPES = ("timm_backbone", "timm_wrapper")


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the weights are for.

    Attributes:
        builder: The library.
        name: Of the model in it: a builder's name, or a class of transformers; empty is the class
            that ``config`` names.
        arguments: Of the builder, by keyword: numbers, texts, and lists of them.
        inputs: What the model reads, by the names of its arguments; None is what its builder says.
            Their first dimension counts rows.
        config: Of transformers.
    """

    builder: str
    name: str
    arguments: Mapping[str, Any]
    inputs: tuple[TensorInfo, ...] | None
    config: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class CheckedCheckpoint:
    """An archive whose parts have been checked, still open.

    ``weights`` are the members that hold tensors, ``tensors`` what safetensors files say of them;
    ``is_pickled`` says that the one member of weights is a pickled state dict.
    """

    architecture: Architecture
    weights: tuple[str, ...]
    tensors: tuple[TensorInfo, ...]
    is_pickled: bool
    archive: Archive

    def extract(self, member: str, path: Path) -> None:
        """Write one member of the weights to a new file."""
        with path.open("xb") as file:
            for chunk in self.archive.chunks(member):
                file.write(chunk)


def inspect_checkpoint(path: Path) -> ModelFacts:
    """Check an archive of weights, and say what is in it.

    The count is that of all floating-point tensors in the file, buffers included; None for a
    pickle, which is not looked into.

    Raises:
        FormatError: It is no such archive, or not to be read.
    """
    with open_checkpoint(path) as checked:
        count = sum(_elements(tensor) for tensor in checked.tensors if "float" in tensor.dtype)
        inputs = checked.architecture.inputs
        is_pickled = checked.is_pickled
    return ModelFacts(inputs, outputs=None, parameter_count=None if is_pickled else count)


@contextmanager
def open_checkpoint(path: Path) -> Iterator[CheckedCheckpoint]:
    """Open an archive of weights, check it, and close it in the end.

    Raises:
        FormatError: It is no such archive, or not to be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head.startswith(_ZIP):
        raise NotACheckpoint(describe(head))
    with open_archive(path) as archive:
        files = {
            name.removeprefix(archive.root): name
            for name in archive.members
            if "/" not in name.removeprefix(archive.root)
        }
        architecture = _architecture(archive, files)
        weights = _weights(archive, files)
        tensors: list[TensorInfo] = []
        is_pickled = not weights[0].endswith(_WEIGHTS)
        if is_pickled:
            _check_is_zip(archive, weights[0])
        else:
            for name in weights:
                size = archive.members[name].size_bytes
                tensors += read_header(name, archive.chunks(name), size_bytes=size)
            _check_each_once(tensors)
        yield CheckedCheckpoint(architecture, weights, tuple(tensors), is_pickled, archive)


def _weights(archive: Archive, files: Mapping[str, str]) -> tuple[str, ...]:
    """The members that hold weights: safetensors where there are any."""
    index = [name for name in files if name.endswith(_INDEX)]
    plain = sorted(name for name in files if name.endswith(_WEIGHTS))
    if index and len(index) > 1:
        raise NotACheckpoint(f"an archive of {len(index)} indexes ({', '.join(sorted(index)[:3])})")
    if index:
        plain = _sharded(archive, files[index[0]], plain)
    if plain:
        if len(plain) > _MOST_SHARDS:
            raise NotACheckpoint(f"an archive of {len(plain)} files of weights")
        return tuple(files[name] for name in plain)
    pickles = sorted(name for name in files if PurePosixPath(name).suffix in _PICKLES)
    if len(pickles) == 1:
        return (files[pickles[0]],)
    if pickles:
        raise NotACheckpoint(f"an archive of {len(pickles)} pickled state dicts: zip one of them")
    raise NotACheckpoint("an archive without weights")


def _sharded(archive: Archive, index: str, present: list[str]) -> list[str]:
    """The shards that an index names, which all have to be there."""
    try:
        document = strict_json.loads(archive.read(index, max_bytes=strict_json.MAX_BYTES))
    except strict_json.JsonError as error:
        raise NotACheckpoint(
            f"an archive whose index {shown(index)} is damaged ({error})"
        ) from None
    named = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(named, dict) or not all(isinstance(each, str) for each in named.values()):
        raise NotACheckpoint(f"an archive whose index {shown(index)} has no weight_map")
    shards = sorted(set(named.values()))
    missing = [shard for shard in shards if shard not in present]
    if missing:
        raise NotACheckpoint(
            f"a sharded checkpoint that lacks {', '.join(map(shown, missing[:5]))}: zip all "
            f"{len(shards)} files that its index names"
        )
    return shards


def _check_each_once(tensors: list[TensorInfo]) -> None:
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.name in seen:
            raise NotACheckpoint(f"an archive that holds the tensor {shown(tensor.name)} twice")
        seen.add(tensor.name)


def _check_is_zip(archive: Archive, member: str) -> None:
    """Only the zips that torch.save writes since 1.6 are read by its restricted loader here."""
    head = next(archive.chunks(member), b"")
    if not head.startswith(_ZIP):
        raise UnsafeFile(member, f"it is no state dict of a current torch.save: {describe(head)}")


def _architecture(archive: Archive, files: Mapping[str, str]) -> Architecture:
    config = _document(archive, files, CONFIG)
    named = _document(archive, files, ARCHITECTURE)
    if config is not None:
        _check_config(config)
        if not isinstance(config.get("model_type"), str):
            if named is None and isinstance(config.get("architecture"), str):
                raise ArchitectureInvalid(_of_timm(config["architecture"]))
            config = None  # Another library's: it says nothing here.
    if named is None:
        if config is None:
            names = {name.removeprefix(archive.root) for name in archive.members}
            known = describe_archive(names)
            raise NotACheckpoint(f"{known}, without {ARCHITECTURE} and without {CONFIG}")
        return Architecture("transformers", "", {}, None, config)
    return _named(named, config)


def _check_config(value: Any) -> None:
    """Refuse what has code or files looked for, wherever in a configuration it stands."""
    if isinstance(value, list):
        for each in value:
            _check_config(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key in _FORBIDDEN_KEYS and each:
                raise ArchitectureInvalid(
                    f"{CONFIG} has {shown(key)}, by which code or weights are looked for "
                    "elsewhere; export the model where it runs, and upload the .pt2"
                )
            if key == "model_type" and each in _FORBIDDEN_TYPES:
                raise ArchitectureInvalid(
                    f"{CONFIG} has the model_type {each!r}: name timm's own model in "
                    f'{ARCHITECTURE}, such as {{"builder": "timm", "name": "resnet18"}}'
                )
            _check_config(each)


def _of_timm(name: str) -> str:
    document = json.dumps({"builder": "timm", "name": name[:80].partition(".")[0]})
    return f"{CONFIG} is timm's: add an {ARCHITECTURE} with {document}"


def _named(document: dict[str, Any], config: Mapping[str, Any] | None) -> Architecture:
    if unknown := document.keys() - {"builder", "name", "arguments", "inputs"}:
        raise ArchitectureInvalid(
            f"{ARCHITECTURE} has the key {shown(min(unknown))}; known are builder, name, "
            "arguments, inputs"
        )
    builder, name = document.get("builder"), document.get("name", "")
    if builder not in BUILDERS:
        raise ArchitectureInvalid(f"builder is {shown(builder)}, and may be {', '.join(BUILDERS)}")
    if builder == "transformers" and document.get("arguments"):
        raise ArchitectureInvalid(f"builder 'transformers' gets no arguments: {CONFIG} has them")
    if not isinstance(name, str) or not (name or builder == "transformers"):
        raise ArchitectureInvalid(f"name is {shown(name)}, and is to be one that {builder} knows")
    if builder == "transformers" and config is None:
        raise ArchitectureInvalid(f"builder 'transformers' needs its {CONFIG} in the archive")
    arguments = document.get("arguments", {})
    if not isinstance(arguments, dict) or not all(map(_is_plain, arguments.values())):
        raise ArchitectureInvalid("arguments are to be an object of numbers, texts and lists")
    return Architecture(
        builder,
        name,
        arguments,
        _inputs(document["inputs"]) if "inputs" in document else None,
        config if builder == "transformers" else None,
    )


def _inputs(given: Any) -> tuple[TensorInfo, ...]:
    if not isinstance(given, list) or not 0 < len(given) <= _MOST_INPUTS:
        raise ArchitectureInvalid(
            f"inputs are {shown(given)}, and are to be a list of 1 to {_MOST_INPUTS} objects"
        )
    found: list[TensorInfo] = []
    for each in given:
        match each:
            case {"name": str(name), "shape": [_, *sizes] as shape, **rest} if name.isidentifier():
                dtype = rest.pop("dtype", "float32")
            case _:
                raise ArchitectureInvalid(
                    'each input is like {"name": "x", "shape": ["batch", 3, 32, 32], '
                    '"dtype": "float32"}, with the name of an argument of the model'
                )
        are_sizes = all(type(size) is int and 0 < size <= 2**20 for size in sizes)
        is_batch = isinstance(shape[0], str) or (type(shape[0]) is int and 0 < shape[0] <= 2**20)
        if dtype not in _INPUT_DTYPES or rest or not are_sizes or not is_batch:
            raise ArchitectureInvalid(
                f"input {shown(name)} has the shape {shown(json.dumps(shape))} and the dtype "
                f"{shown(dtype)}: sizes are numbers from 1 to {2**20}, the first may be a text "
                f"such as 'batch', and dtypes are {', '.join(_INPUT_DTYPES)}"
            )
        if math.prod(sizes) > _MOST_ELEMENTS:
            raise ArchitectureInvalid(
                f"input {shown(name)} has {math.prod(sizes)} elements in a row; at most "
                f"{_MOST_ELEMENTS}"
            )
        if any(each.name == name for each in found):
            raise ArchitectureInvalid(f"two inputs are called {shown(name)}")
        found.append(TensorInfo(name, dtype, ("batch", *sizes)))
    return tuple(found)


def _document(archive: Archive, files: Mapping[str, str], name: str) -> dict[str, Any] | None:
    if name not in files:
        return None
    try:
        found = strict_json.loads(archive.read(files[name], max_bytes=_MOST_CONFIG_BYTES))
    except strict_json.JsonError as error:
        raise ArchitectureInvalid(f"{name} is no JSON as it should be ({error})") from None
    if not isinstance(found, dict):
        raise ArchitectureInvalid(f"{name} is {shown(found)}, not an object")
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(each, int | float | str | bool) for each in value)
    return value is None or isinstance(value, int | float | str | bool)


def _elements(tensor: TensorInfo) -> int:
    count = 1
    for size in tensor.shape:
        assert isinstance(size, int)
        count *= size
    return count
