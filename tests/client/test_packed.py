"""Weights of few bits, read into a module of one's own."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import secateur
from secateur.errors import WeightsFileInvalid
from tests.engine.quantize.networks import SETTING, Sequence, config
from tests.zoo.exported import export
from worker.engine.config import QuantizeConfig
from worker.engine.program import Program
from worker.engine.quantize import quantize
from worker.engine.save import save_weights


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.sequence = Sequence()
        self.up = nn.ConvTranspose1d(3, 5, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.up(self.sequence(tokens)[..., None])


KINDS = {
    "int8": config(),
    "int8 around anything": config(symmetric=False, granularity="per_tensor"),
    "int4": config(weights="int4", granularity="per_group", symmetric=False, group_size=10),
    "int4 around zero": config(weights="int4"),
    "int2": config(weights="int2", granularity="per_group", group_size=6, symmetric=False),
    "ternary": config(weights="ternary"),
    "codebook of 6": config(weights="codebook", codebook_size=6),
    "codebook of 256": config(weights="codebook", codebook_size=30, granularity="per_tensor"),
}


def saved(path: Path, kind: QuantizeConfig) -> Program:
    net = Program.from_exported(export(Net().eval(), torch.randint(11, (2, 6))))
    changed = quantize(net, kind, None, SETTING)
    save_weights(changed.program, path, changed.packed)
    return changed.program


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_computes_what_the_program_does(kind: str, tmp_path: Path):
    torch.manual_seed(0)
    program = saved(tmp_path / "model.safetensors", KINDS[kind])
    module = Net().eval()
    module.load_state_dict(secateur.load_packed(tmp_path / "model.safetensors"))
    tokens = torch.randint(11, (5, 6))
    with torch.no_grad():
        torch.testing.assert_close(module(tokens), program.run([tokens])[0], rtol=1e-5, atol=1e-6)


def test_another_file_is_refused_with_what_reads_it(tmp_path: Path):
    save_file({"a": torch.ones(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(WeightsFileInvalid, match=r"safetensors\.torch\.load_file"):
        secateur.load_packed(tmp_path / "plain.safetensors")


CHANGES = {
    "no list": lambda _: 3,
    "no axis": lambda about: [{**about[0], "axis": 9}],
    "a negative size": lambda about: [{**about[0], "shape": [-3, 4]}],
    "an enormous size": lambda about: [{**about[0], "shape": [2**40, 2**40]}],
    "another shape": lambda about: [{**about[0], "shape": [7, 9]}],
    "no bits": lambda about: [{**about[0], "bits": 0}],
    "another format": lambda about: [{**about[0], "format": "int3"}],
    "a type that is none": lambda about: [{**about[0], "dtype": "__class__"}],
    "groups of nothing": lambda about: [{**about[0], "granularity": "per_group"}],
    "names that are none": lambda about: [{**about[0], "names": [3]}],
    "a weight that is not there": lambda about: [{**about[0], "names": ["nobody"]}],
    "half of it": lambda about: [{"names": about[0]["names"]}],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_lies_is_refused(change: str, tmp_path: Path):
    path = tmp_path / "model.safetensors"
    program = saved(path, config())
    about = [each.as_json() for each in program.packed.weights]
    metadata = {"format": "secateur-packed-1", "packed": json.dumps(CHANGES[change](about))}
    save_file(load_file(path), path, metadata=metadata)
    with pytest.raises(WeightsFileInvalid):
        secateur.load_packed(path)


def test_codes_beyond_the_codebook_are_refused(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    program = saved(path, config(weights="codebook", codebook_size=6))
    tensors = load_file(path)
    name = program.packed.weights[0].scale
    tensors[name] = tensors[name][:, :2].contiguous()
    about = json.dumps([each.as_json() for each in program.packed.weights])
    save_file(tensors, path, metadata={"format": "secateur-packed-1", "packed": about})
    with pytest.raises(WeightsFileInvalid, match="are not those of shape"):
        secateur.load_packed(path)
