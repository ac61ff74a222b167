"""Read a program, or arrays, from a file that may have been made by an enemy.

``torch.export.load`` trusts what it reads. So it never reads an uploaded file: ``formats`` checks
every part of the file, what was checked is written to a new file, and torch gets that one. There is
then no byte for which torch's reader and the check's could differ.
"""

import io
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.utils import _pytree as pytree

from formats.archive import open_archive
from formats.npz import inspect_npz
from formats.pt2 import CheckedProgram, open_pt2
from worker.engine.errors import UnreadableModelError


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


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Open the arrays of a data set, by name; read-only.

    Arrays that are not compressed are mapped, not read: a data set may be larger than memory.

    Raises:
        FormatError: The file is not a data set as NumPy writes it.
    """
    info = inspect_npz(path)
    arrays: dict[str, np.ndarray] = {}
    with open_archive(path) as archive:
        for name, location in info.locations.items():
            dtype = info.arrays[name].dtype
            order: Literal["C", "F"] = "F" if location.fortran_order else "C"
            if location.member.is_stored:
                arrays[name] = np.memmap(
                    path,
                    dtype=dtype,
                    mode="r",
                    offset=location.member.offset + location.offset,
                    shape=location.shape,
                    order=order,
                )
                continue
            data = archive.read(location.member.name, max_bytes=location.member.size_bytes)
            flat = np.frombuffer(data, dtype=dtype, offset=location.offset)
            arrays[name] = flat.reshape(location.shape, order=order)
    return arrays


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
