"""Packages that AOTInductor compiled."""

import shutil

import pytest
import torch
from torch import nn

from worker.engine.deliver import delivered
from worker.engine.program import Program
from worker.engine.writers import aotinductor

pytestmark = pytest.mark.filterwarnings("ignore")  # Of the compiler.

HAS_COMPILER = any(map(shutil.which, ("g++", "c++", "clang++")))


class ByName(nn.Module):
    """Takes its inputs by keyword, as models of transformers do."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, *, left, right):
        return {"sum": self.left(left) + self.right(right)}


def program():
    torch.manual_seed(0)
    batch = {0: torch.export.Dim("batch")}
    inputs = {"left": torch.randn(2, 4), "right": torch.randn(2, 5)}
    shapes = {"left": batch, "right": batch}
    exported = torch.export.export(ByName().eval(), (), inputs, dynamic_shapes=shapes)
    return Program.from_exported(exported)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_COMPILER, reason="there is no C++ compiler here")
def test_a_package_runs_in_a_process_of_its_own_on_any_number_of_rows(tmp_path):
    done = []
    [found] = delivered(
        ["aotinductor"], program(), None, tmp_path, lambda *counts: done.append(counts)
    )
    assert found.reason is None
    assert found.file == "model.aotinductor.pt2"
    assert found.size_bytes == (tmp_path / found.file).stat().st_size
    assert found.max_relative_error < 1e-5
    assert found.runtime == f"torch {torch.__version__}"
    assert done == [(1, 1)]


def test_a_worker_without_a_compiler_gives_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(aotinductor.shutil, "which", lambda _: None)
    [found] = delivered(["aotinductor"], program(), None, tmp_path, lambda *_: None)
    assert found.file is None
    assert "no C++ compiler" in found.reason


def test_a_format_of_another_upload_has_a_reason(tmp_path):
    [found] = delivered(["transformers"], program(), None, tmp_path, lambda *_: None)
    assert "none that can be given back as transformers" in found.reason
