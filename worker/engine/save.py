"""Write what a job delivers: programs and weights, never a pickled module."""

import json
import shutil
import struct
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.export.passes import move_to_device_pass

from worker.engine.coded.bits import packed_bits
from worker.engine.packed import NOTHING_PACKED, Packed
from worker.engine.program import Program

PACKED_FORMAT = "secateur-packed-1"
SPARSE_FORMAT = "secateur-sparse-1"

_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers by their bytes."""


def save_program(program: Program, path: Path) -> None:
    """Write a ``.pt2``, on the CPU whatever device the program is on.

    The graph, which is text, is compressed: torch reads it so, and of a small model it is most.
    """
    exported = program.export()
    if program.device.type != "cpu":
        exported = move_to_device_pass(exported, "cpu")
    plain = path.with_name(f"{path.stem}.plain.pt2")
    try:
        torch.export.save(exported, plain)
        _compress_text(plain, path)
    finally:
        plain.unlink(missing_ok=True)


def _compress_text(plain: Path, path: Path) -> None:
    with ZipFile(plain) as source, ZipFile(path, "w") as target:
        for entry in source.infolist():
            # A date of its own would make another file of the same program.
            copy = ZipInfo(entry.filename)
            copy.compress_type = ZIP_DEFLATED if entry.filename.endswith(".json") else ZIP_STORED
            copy.file_size = entry.file_size
            with source.open(entry) as read, target.open(copy, "w") as written:
                shutil.copyfileobj(read, written, 2**20)


def save_weights(program: Program, path: Path, packed: Packed = NOTHING_PACKED) -> None:
    """Write every parameter and buffer as safetensors under its original name.

    The format has no shared tensors: a tied weight is written once for each of its names.

    A weight ``W`` that the program makes from codes is what it is made from: ``W_codes``, and
    ``W_scale`` with perhaps ``W_zero_point``, or ``W_codebook``. The metadata says under ``packed``
    how; ``secateur.load_packed`` reads it.
    """
    weights = {name: _plain(tensor) for name, tensor in program.module.state_dict().items()}
    metadata = None
    if packed:
        about = [each.as_json() for each in packed.weights]
        metadata = {"format": PACKED_FORMAT, "packed": json.dumps(about)}
    save_file(weights, path, metadata=metadata)
    _order_metadata(path)


def save_sparse(program: Program, path: Path) -> None:
    """Write every parameter and buffer as safetensors, zeros in a bit each.

    A tensor for which that is smaller is two: ``NAME:bits``, uint8, one bit for each element in
    order, lowest bit first, set where it is not zero; and ``NAME:values``, those elements in order.
    The metadata has its shape under ``NAME``. All others are as in :func:`save_weights`.
    ``secateur.load_sparse`` reads it.
    """
    tensors: dict[str, Tensor] = {}
    shapes: dict[str, str] = {"format": SPARSE_FORMAT}
    for name, tensor in program.module.state_dict().items():
        dense = _plain(tensor)
        present = _present(dense)
        values, bits = dense[present], packed_bits(present.to(torch.uint8), 1)
        if values.nbytes + bits.nbytes < dense.nbytes:
            tensors[f"{name}:bits"], tensors[f"{name}:values"] = bits, values
            shapes[name] = json.dumps(list(dense.shape))
        else:
            tensors[name] = dense
    save_file(tensors, path, metadata=shapes)
    _order_metadata(path)


def _order_metadata(path: Path) -> None:
    """Put the metadata in order: safetensors writes it in any, and one job gives one file."""
    with path.open("r+b") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        if "__metadata__" not in header:
            return
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        # Where the tensors begin is said in no other place: the text has to be as long as before.
        assert len(text) <= size
        file.seek(8)
        file.write(text.ljust(size))


def _present(tensor: Tensor) -> Tensor:
    """What is not zero, minus zero included: it is another number, bit for bit."""
    if tensor.is_floating_point():
        # As whole numbers: torch tells no signs of float8.
        tensor = tensor.view(_WHOLE[tensor.element_size()])
    return tensor != 0


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
