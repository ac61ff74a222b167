"""Weights of few bits, read into a module of one's own."""

import json
from functools import cache
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


@cache
def quantized(kind: QuantizeConfig) -> Program:
    torch.manual_seed(0)
    net = Program.from_exported(export(Net().eval(), torch.randint(11, (2, 6))))
    return quantize(net, kind, None, SETTING).program


def saved(path: Path, kind: QuantizeConfig) -> Program:
    program = quantized(kind)
    save_weights(program, path, program.packed)
    return program


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_computes_what_the_program_does(kind: str, tmp_path: Path):
    program = saved(tmp_path / "model.safetensors", KINDS[kind])
    torch.manual_seed(0)
    module = Net().eval()
    module.load_state_dict(secateur.load_packed(tmp_path / "model.safetensors"))
    tokens = torch.randint(11, (5, 6))
    with torch.no_grad():
        torch.testing.assert_close(module(tokens), program.run([tokens])[0], rtol=1e-5, atol=1e-6)


def test_the_same_weights_are_the_same_bytes(tmp_path: Path):
    first = tmp_path / "first.safetensors"
    for name in ("first", *"23456789"):  # Metadata of two has an order by chance.
        saved(tmp_path / f"{name}.safetensors", config())
        assert (tmp_path / f"{name}.safetensors").read_bytes() == first.read_bytes()
    assert len(load_file(first)) == len(quantized(config()).module.state_dict())


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
    "names that are no list": lambda about: [{**about[0], "names": {about[0]["names"][0]: 1}}],
    "one weight twice": lambda about: [*about, {**about[0], "names": [*about[0]["names"], "x"]}],
    "a granularity that is none": lambda about: [{**about[0], "granularity": "per_row"}],
    "bits of another format": lambda about: [{**about[0], "bits": 4}],
    "a weight of nothing": lambda about: [{**about[0], "shape": [0, 8]}],
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
    with pytest.raises(WeightsFileInvalid, match="its codebook has 2 entries"):
        secateur.load_packed(path)


PARTS = {
    "codes without dimensions": ("int4", "codes", lambda codes: codes[0].clone()),
    "codes that are floats": ("int8", "codes", lambda codes: codes.float()),
    "too few codes": ("int4", "codes", lambda codes: codes[:-1].clone()),
    "too many codes": ("int4", "codes", lambda codes: torch.cat([codes, codes])),
    "a scale for all": ("int8", "scale", lambda scale: scale[:1].clone()),
    "scales without end": ("int8 around anything", "scale", lambda scale: scale.repeat(999, 1)),
    "zero points without end": ("int8 around anything", "zero_point", lambda z: z.repeat(999, 1)),
    "one codebook for all": ("codebook of 6", "codebook", lambda levels: levels[:1].clone()),
    "a codebook without entries": ("codebook of 6", "codebook", lambda levels: levels[:, :0]),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_tensor_of_another_shape_or_type_is_refused(part: str, tmp_path: Path):
    kind, suffix, change = PARTS[part]
    path = tmp_path / "model.safetensors"
    program = saved(path, KINDS[kind])
    tensors = load_file(path)
    name = f"{program.packed.weights[0].name}_{suffix}"
    tensors[name] = change(tensors[name])
    about = json.dumps([each.as_json() for each in program.packed.weights])
    save_file(tensors, path, metadata={"format": "secateur-packed-1", "packed": about})
    with pytest.raises(WeightsFileInvalid, match=program.packed.weights[0].name):
        secateur.load_packed(path)
