"""A ``.pt2`` file as a whole: which members it may have, and what it says about itself.

Members are a list of names, each with a check. What torch would do with others is why: any further
file in ``models/`` is loaded too, libraries in ``data/aotinductor/`` are linked into the process,
custom and opaque objects are unpickled, and ``data/weights/model.pt`` replaces checked weights by a
pickle.
"""

import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formats import strict_json
from formats.archive import Archive, open_archive
from formats.errors import FormatError, UnsafeFile, UnsupportedProgram, shown
from formats.pt2 import payloads, schema
from formats.pt2.checks import Check
from formats.pt2.example_inputs import read_example_inputs
from formats.pt2.expressions import readable
from formats.pt2.findings import Finding
from formats.pt2.payloads import Payload, read_payloads
from formats.sniff import refuse_other_archives, refuse_what_is_no_program
from formats.tensors import TensorInfo

_PROGRAM = "models/model.json"
_EXAMPLES = "data/sample_inputs/model.pt"
_WEIGHTS = "data/weights/"
_CONSTANTS = "data/constants/"
_WEIGHTS_CONFIG = f"{_WEIGHTS}model_weights_config.json"
_CONSTANTS_CONFIG = f"{_CONSTANTS}model_constants_config.json"
_EXTRA = "extra/"
_FIXED = {"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little"}
_REQUIRED = ("archive_format", "archive_version", _PROGRAM, _WEIGHTS_CONFIG, _CONSTANTS_CONFIG)
_IGNORED = frozenset((".data/version", ".data/serialization_id", "version"))

# Members that honest files have and that cannot be taken, with what to do.
_UNSUPPORTED = (
    ("data/aotinductor/", "it holds compiled code (AOTInductor); export the program alone"),
    ("data/executorch/", "it holds an ExecuTorch program; export the program alone"),
    (f"{_CONSTANTS}custom_obj_", "it holds custom objects (ScriptObject), which are pickles"),
    (f"{_CONSTANTS}opaque_obj_", "it holds opaque objects, which are pickles"),
    (f"{_WEIGHTS}model.pt", "its weights are a pickle; save it again with a current torch"),
    (f"{_CONSTANTS}model.pt", "its constants are a pickle; save it again with a current torch"),
    ("models/", "it holds more than one program, or one not called 'model'"),
)
_MAX_EXAMPLE_BYTES = 2**28
_CLEAN_ROOT = "model/"
_ZIP64_FROM_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What a ``.pt2`` file says about its program.

    ``parameter_count`` and ``buffer_count`` count elements, those of a shared tensor once.
    ``weight_bytes`` is the size of all parameters, buffers and constants in the file.
    ``operators`` says how often each operator is called, subgraphs included.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    parameter_count: int
    buffer_count: int
    weight_bytes: int
    operators: Mapping[str, int]
    torch_version: str | None
    schema_version: str
    has_example_inputs: bool


class CheckedProgram:
    """A ``.pt2`` file in which nothing can run code, still open so that it cannot be exchanged.

    Attributes:
        info: What the file says about its program.
        example_inputs: The bytes of the member with the example inputs; empty where there are none.
    """

    def __init__(self, archive: Archive) -> None:
        refuse_other_archives(archive)
        self._archive = archive
        self._root = archive.root
        self._sizes = {
            name.removeprefix(self._root): member.size_bytes
            for name, member in archive.members.items()
        }
        self._check_members()
        self._program = self._read_json(_PROGRAM, schema.exported_program)
        self._weights_config = self._read_json(_WEIGHTS_CONFIG, payloads.config)
        self._constants_config = self._read_json(_CONSTANTS_CONFIG, payloads.config)
        weights = self._read_payloads(_WEIGHTS, self._weights_config)
        constants = self._read_payloads(_CONSTANTS, self._constants_config)
        self._payload_members = sorted(
            {_WEIGHTS + payload.member for payload in weights.values()}
            | {_CONSTANTS + payload.member for payload in constants.values()}
        )
        self.example_inputs = self._read_examples()
        self.info = self._describe(weights, constants)

    def write_clean(self, target: Path, *, example_inputs: bytes) -> None:
        """Write a new file with what was checked, and with nothing else from the old one.

        JSON is written from the checked tree. The bytes of the weights are copied, and compared
        with their checksums on the way.

        Args:
            target: Where to; must not exist.
            example_inputs: The member that takes the place of the old example inputs.
        """
        texts = {
            **_FIXED,
            _PROGRAM: json.dumps(self._program).encode(),
            _WEIGHTS_CONFIG: json.dumps(self._weights_config).encode(),
            _CONSTANTS_CONFIG: json.dumps(self._constants_config).encode(),
            _EXAMPLES: example_inputs,
            ".data/version": b"6\n",
        }
        with zipfile.ZipFile(target, "x", zipfile.ZIP_STORED) as clean:
            for name, text in texts.items():
                clean.writestr(zipfile.ZipInfo(_CLEAN_ROOT + name), text)
            for name in self._payload_members:
                is_large = self._sizes[name] >= _ZIP64_FROM_BYTES
                entry = zipfile.ZipInfo(_CLEAN_ROOT + name)
                with clean.open(entry, "w", force_zip64=is_large) as stream:
                    for piece in self._archive.chunks(self._root + name):
                        stream.write(piece)

    def _check_members(self) -> None:
        for name in self._sizes:
            for start, reason in _UNSUPPORTED:
                if name.startswith(start) and name != _PROGRAM:
                    raise UnsupportedProgram(f"{reason} (member {shown(name)})")
            if name in _FIXED:
                if self._read(name, max_bytes=64) != _FIXED[name]:
                    raise UnsafeFile(name, f"it does not say {_FIXED[name].decode()}")
            elif not _is_known(name):
                raise UnsafeFile(name, "no exported program has such a member")
        for name in _REQUIRED:
            if name not in self._sizes:
                raise UnsafeFile(name, "it is missing")

    def _read(self, name: str, *, max_bytes: int) -> bytes:
        return self._archive.read(self._root + name, max_bytes=max_bytes)

    def _read_json(self, name: str, check: Check) -> dict[str, Any]:
        text = self._read(name, max_bytes=strict_json.MAX_BYTES)
        try:
            clean = check(strict_json.loads(text))
        except strict_json.JsonError as error:
            raise UnsafeFile(name, str(error)) from None
        except Finding as finding:
            raise _refusal(name, finding) from None
        assert isinstance(clean, dict)
        return clean

    def _read_payloads(self, folder: str, config: Mapping[str, Any]) -> dict[str, Payload]:
        sizes = {
            name.removeprefix(folder): size
            for name, size in self._sizes.items()
            if name.startswith(folder)
        }
        try:
            return read_payloads(config, sizes)
        except Finding as finding:
            raise _refusal(folder, finding) from None

    def _read_examples(self) -> bytes:
        if _EXAMPLES not in self._sizes:
            return b""
        member = self._read(_EXAMPLES, max_bytes=_MAX_EXAMPLE_BYTES)
        try:
            read_example_inputs(member)
        except Finding as finding:
            raise _refusal(_EXAMPLES, finding) from None
        except FormatError as error:
            raise UnsafeFile(_EXAMPLES, error.detail) from None
        return member

    def _describe(
        self, weights: Mapping[str, Payload], constants: Mapping[str, Payload]
    ) -> ProgramInfo:
        module = self._program["graph_module"]
        signature = module["signature"]
        held = {**constants, **weights}
        version = self._program["schema_version"]
        return ProgramInfo(
            inputs=tuple(_tensors(module["graph"], signature["input_specs"], "user_input")),
            outputs=tuple(_tensors(module["graph"], signature["output_specs"], "user_output")),
            parameter_count=_count(held, signature["input_specs"], "parameter"),
            buffer_count=_count(held, signature["input_specs"], "buffer"),
            weight_bytes=sum(self._sizes[name] for name in self._payload_members),
            operators=dict(sorted(Counter(_operators(module["graph"])).items())),
            torch_version=self._program.get("torch_version"),
            schema_version=f"{version['major']}.{version['minor']}",
            has_example_inputs=bool(self.example_inputs),
        )


@contextmanager
def open_pt2(path: Path) -> Iterator[CheckedProgram]:
    """Check a ``.pt2`` file, and keep it open as long as what was checked is used.

    Raises:
        FormatError: It is no exported program, or something in it is not as torch writes it.
    """
    refuse_what_is_no_program(path)
    with open_archive(path) as archive:
        yield CheckedProgram(archive)


def inspect_pt2(path: Path) -> ProgramInfo:
    """Check a ``.pt2`` file, and say what is in it. The weights themselves are not read.

    Raises:
        FormatError: It is no exported program, or something in it is not as torch writes it.
    """
    with open_pt2(path) as program:
        return program.info


def _is_known(name: str) -> bool:
    if name in (_PROGRAM, _EXAMPLES, _WEIGHTS_CONFIG, _CONSTANTS_CONFIG) or name in _IGNORED:
        return True
    # Whatever the user put beside the program: never read, and not written to the clean file.
    if name.startswith(_EXTRA):
        return True
    return re.fullmatch(r"data/(?:weights/weight|constants/tensor)_[0-9]{1,9}", name) is not None


def _refusal(member: str, finding: Finding) -> FormatError:
    if finding.is_unsupported:
        return UnsupportedProgram(f"{finding} (in {member})")
    return UnsafeFile(member, str(finding))


def _tensors(
    graph: Mapping[str, Any], specs: list[dict[str, Any]], kind: str
) -> Iterator[TensorInfo]:
    """Describe the inputs or outputs that are tensors; plain numbers among them are left out."""
    for spec in specs:
        tensor = spec.get(kind, {}).get("arg", {}).get("as_tensor")
        meta = graph["tensor_values"].get(tensor["name"]) if tensor else None
        if meta is not None:
            yield TensorInfo(
                name=tensor["name"],
                dtype=schema.DTYPES[meta["dtype"]][0],
                shape=tuple(_dimension(size) for size in meta["sizes"]),
                example_shape=_example_shape(meta["sizes"]),
            )


def _dimension(size: Mapping[str, Any]) -> int | str:
    if "as_int" in size:
        return int(size["as_int"])
    return readable(size["as_expr"]["expr_str"])


def _example_shape(sizes: list[dict[str, Any]]) -> tuple[int, ...] | None:
    """Put the hints, which are the sizes that the program was exported with, in their places."""
    shape: list[int] = []
    for size in sizes:
        hint = (size.get("as_expr", {}).get("hint") or {}).get("as_int")
        found = size.get("as_int", hint)
        if found is None:
            return None
        shape.append(found)
    return tuple(shape)


def _count(held: Mapping[str, Payload], specs: list[dict[str, Any]], kind: str) -> int:
    names = (spec[kind][f"{kind}_name"] for spec in specs if kind in spec)
    return sum(payload.element_count for payload in {held[name] for name in names if name in held})


def _operators(graph: Mapping[str, Any]) -> Iterator[str]:
    for node in graph["nodes"]:
        yield node["target"]
        for given in node["inputs"]:
            if "as_graph" in given["arg"]:
                yield from _operators(given["arg"]["as_graph"]["graph"])
