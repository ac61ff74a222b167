"""Files to upload: honest ones, and ones that must be refused."""

import io
import zipfile
from functools import cache

import numpy as np
import torch
from torch import nn


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4 * 4 * 4, 3)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).flatten(1))


class _Pair(nn.Module):
    def forward(self, left, right):
        return left + right


@cache
def model_file() -> bytes:
    """A convolution and a linear layer; reads float32 [batch, 1, 6, 6]."""
    return _exported(_Net(), torch.zeros(2, 1, 6, 6))


@cache
def two_input_model_file() -> bytes:
    """Reads two float32 [batch, 3]."""
    return _exported(_Pair(), torch.zeros(2, 3), torch.zeros(2, 3))


@cache
def token_model_file() -> bytes:
    """Reads int64 [batch, 4]."""
    module = nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(8, 3))
    return _exported(module, torch.zeros(2, 4, dtype=torch.int64))


def dataset_file(**arrays: np.ndarray) -> bytes:
    """Arrays as numpy.savez writes them."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def labeled_dataset_file(rows: int = 5) -> bytes:
    """What `model_file` reads, and a class for each row."""
    return dataset_file(
        inputs=np.zeros((rows, 1, 6, 6), np.float32), targets=np.zeros(rows, np.int64)
    )


def pickled_module_file() -> bytes:
    """What users send who have not read the manual: torch.save of a module."""
    file = io.BytesIO()
    torch.save(nn.Linear(2, 2), file)
    return file.getvalue()


def other_zip_file() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("word/document.xml", "<x/>")
    return file.getvalue()


def _exported(module: nn.Module, *inputs: torch.Tensor) -> bytes:
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        module.eval(), inputs, dynamic_shapes=tuple({0: batch} for _ in inputs)
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()
