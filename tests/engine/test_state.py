"""Tensors under several names, and tensors that a call writes: they stay as the file has them."""

from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from torch import Tensor, nn

from tests.zoo.exported import export, randomized
from worker.engine.config import PruneConfig
from worker.engine.difference import TOLERANCE
from worker.engine.graph.counts import count
from worker.engine.graph.coupling import couple
from worker.engine.load import load_program
from worker.engine.program import Program
from worker.engine.prune.cut import cut
from worker.engine.prune.plan import decide
from worker.engine.prune.verify import verify_cut
from worker.engine.save import save_program

HALF = PruneConfig(scope="local", channel_ratio=0.5)


class TiedVocabulary(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Embedding(50, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.mix(self.embed(tokens)).relu())


class OneLayerOften(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.Linear(16, 16)
        self.stem, self.head = nn.Linear(4, 16), nn.Linear(16, 3)
        self.layers = nn.ModuleList([layer] * 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x)


TIED = [
    (TiedVocabulary(), torch.arange(6).view(2, 3), ("embed.weight", "head.weight")),
    (OneLayerOften(), torch.randn(2, 4), ("layers.0.weight", "layers.3.weight")),
]


def from_file(module: nn.Module, inputs: Tensor, folder: Path) -> Program:
    path = folder / "model.pt2"
    torch.export.save(export(randomized(module), inputs), path)
    return Program.from_exported(load_program(path))


def halved(program: Program, **options) -> Program:
    coupling = couple(program, **options)
    plan = decide(coupling, HALF, seed=0)
    pruned = cut(coupling, plan.keep)
    assert verify_cut(coupling, plan.keep, pruned, seed=0).max_relative_error <= TOLERANCE
    assert count(couple(pruned)) == plan.predicted
    return pruned


@pytest.mark.parametrize(("module", "inputs", "names"), TIED, ids=["vocabulary", "layer"])
class TestTied:
    def test_both_names_lose_the_same_and_are_counted_once(self, module, inputs, names, tmp_path):
        program = from_file(module, inputs, tmp_path)
        assert count(couple(program)).parameters == sum(p.numel() for p in module.parameters())
        pruned = halved(program.copy())
        first, second = (pruned.module.get_parameter(name) for name in names)
        assert first is second
        assert first.shape[-1] == 8

    def test_the_saved_file_holds_them_once(self, module, inputs, names, tmp_path):
        pruned = halved(from_file(module, inputs, tmp_path))
        save_program(pruned, tmp_path / "pruned.pt2")
        loaded = Program.from_exported(load_program(tmp_path / "pruned.pt2")).module
        assert loaded.get_parameter(names[0]) is loaded.get_parameter(names[1])
        with ZipFile(tmp_path / "pruned.pt2") as archive:
            weights = [m for m in archive.infolist() if "/weights/weight_" in m.filename]
        assert sum(member.file_size for member in weights) == count(couple(pruned)).size_bytes

    @pytest.mark.parametrize("which", [0, 1])
    def test_to_exclude_one_name_excludes_the_other(self, module, inputs, names, which, tmp_path):
        program = from_file(module, inputs, tmp_path)
        shape = program.module.get_parameter(names[0]).shape
        found = couple(program, exclude=[names[which]])
        members = {(m.parameter, m.dim) for group in found.groups for m in group.members}
        assert not members & {(name, dim) for name in names for dim in (0, 1)}
        assert program.module.get_parameter(names[0]).shape == shape


class Cache(nn.Module):
    """Writes rows of a cache, counts its calls, and reads both."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 2)
        self.register_buffer("cache", torch.zeros(6, 8))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.cache[:2] = self.stem(x)
        self.calls += 1
        return self.head(self.cache.cumsum(0)) * self.calls


def test_a_cache_is_delivered_as_it_came():
    module = randomized(Cache())
    module.cache.zero_()
    module.calls.zero_()
    program = Program.from_exported(export(module, torch.randn(2, 4), dynamic_dims=()))
    assert program.written.tensors == {"cache", "calls"}
    first, again = program.run(program.example_leaves), program.run(program.example_leaves)
    assert torch.equal(first[0], again[0])
    pruned = halved(program)
    assert pruned.module.get_buffer("cache").shape == (6, 4)
    for held in (program.module, pruned.module, module):
        assert not held.get_buffer("cache").any()
        assert not held.get_buffer("calls").any()


class InPlace(nn.Module):
    """Changes what it is given."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x.sub_(1).div_(2)).relu())


def test_an_input_that_is_written_is_given_anew_to_every_call():
    program = Program.from_exported(export(randomized(InPlace()), torch.randn(2, 4)))
    before = program.args[0].clone()
    pruned = halved(program)
    assert torch.equal(program.args[0], before)
    assert torch.equal(pruned.args[0], before)
