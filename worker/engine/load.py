"""Read a program, or arrays, from a file that may have been made by an enemy.

``torch.export.load`` trusts what it reads. So it never reads an uploaded file: ``formats`` checks
every part of the file, what was checked is written to a new file, and torch gets that one. There is
then no byte for which torch's reader and the check's could differ.
"""

import io
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.utils import _pytree as pytree

from formats.archive import Archive, open_archive
from formats.npz import ArrayLocation, inspect_npz
from formats.pt2 import CheckedProgram, open_pt2
from worker.engine.arrays import RowArray, StoredArray, rows_first, unpacked
from worker.engine.errors import UnreadableModelError

_SMALL_BYTES = 2**24


def load_program(path: Path) -> torch.export.ExportedProgram:
    """Read an exported program onto the CPU, wherever it was exported.

    Needs as much room in the folder for temporary files as the file itself takes.

    Raises:
        FormatError: The file is not one that torch should see.
        UnreadableModelError: The file is harmless, and torch cannot make a program of it.
    """
    with tempfile.TemporaryDirectory(prefix="secateur-load-") as folder:
        clean = Path(folder) / "model.pt2"
        with open_pt2(path) as checked:
            checked.write_clean(clean, example_inputs=_saved_again(checked))
        # torch has no base class for what it raises on a program that it does not understand.
        try:
            return torch.export.load(clean)  # noqa: TID251 - here is where it is made safe
        except Exception as error:
            raise UnreadableModelError(_explain(checked, error)) from error


def load_arrays(path: Path) -> dict[str, RowArray]:
    """Open the arrays of a data set, by name. Their rows are read when they are asked for.

    Small arrays, as labels often are, are read at once: a read for each row takes longer.

    What is compressed, or lies columns first, is written once more into a temporary file: it needs
    as much room in the folder for temporary files as the array takes when it is unpacked.

    Raises:
        FormatError: The file is not a data set as NumPy writes it.
        UnreadableDataError: There is no room for temporary files.
    """
    info = inspect_npz(path)
    with open_archive(path) as archive:
        arrays = {
            name: _stored(path, archive, location, np.dtype(info.arrays[name].dtype))
            for name, location in info.locations.items()
        }
    return {
        name: array[np.arange(len(array))] if array.size_bytes <= _SMALL_BYTES else array
        for name, array in arrays.items()
    }


def _stored(path: Path, archive: Archive, location: ArrayLocation, dtype: np.dtype) -> StoredArray:
    """An array whose rows lie one after another: where it is, or in a file made for it."""
    member, offset, shape = location.member, location.offset, location.shape
    if member.is_stored:
        descriptor, offset = os.open(path, os.O_RDONLY), member.offset + offset
    else:
        descriptor = unpacked(archive.chunks(member.name))
    if location.fortran_order:
        columns_first = descriptor
        try:
            pieces = rows_first(columns_first, offset=offset, shape=shape, dtype=dtype)
            descriptor, offset = unpacked(pieces), 0
        finally:
            os.close(columns_first)
    return StoredArray(descriptor, offset=offset, shape=shape, dtype=dtype)


def _saved_again(checked: CheckedProgram) -> bytes:
    """Read the example inputs as weights alone, and write them as torch itself would."""
    if not checked.example_inputs:
        return b""
    try:
        inputs = torch.load(  # noqa: TID251 - the check allowed tensors and containers alone
            io.BytesIO(checked.example_inputs), map_location="cpu", weights_only=True
        )
    except Exception as error:
        raise UnreadableModelError(
            "the example inputs in the file cannot be read; export the model again"
        ) from error
    # Copies: what a tensor wears besides its numbers, such as the exporter's marks, stays behind.
    inputs = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.detach().clone(), inputs)
    buffer = io.BytesIO()
    torch.save(inputs, buffer)  # noqa: TID251 - a part of the file that torch reads next
    return buffer.getvalue()


def _explain(checked: CheckedProgram, error: Exception) -> str:
    return (
        f"torch {torch.__version__} cannot read this program, which torch "
        f"{checked.info.torch_version or '(unknown)'} wrote ({type(error).__name__}); "
        "export it again with the same version of torch, and upload it again"
    )
