"""Weights in 8 bits, a scale for each output channel."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import nn

from secateur import load_sparse
from tests.engine.precision.nets import changed, program_of
from tests.engine.precision.test_cast import run
from worker.engine.changed import KEPT
from worker.engine.load import load_program
from worker.engine.measure.sparsity import sparsity
from worker.engine.precision.float8 import FLOAT8, scaled
from worker.engine.program import Program
from worker.engine.save import save_program, save_sparse

WEIGHTS = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=4, max_side=5),
    elements=st.floats(-1e4, 1e4, width=32).map(lambda x: 0.0 if abs(x) < 1e-20 else x),
)


@given(weight=WEIGHTS, dim=st.integers(0, 1))
@settings(deadline=None)
def test_each_number_is_as_near_as_three_bits_of_mantissa_allow(weight, dim):
    weight = torch.from_numpy(weight)
    found = scaled(weight, dim, "scale")
    others = [at for at in range(weight.dim()) if at != dim]
    most = weight.abs().amax(others, keepdim=True)
    assert found.codes.dtype == FLOAT8
    assert found.scale.shape == most.shape
    # Half a unit in the last place of a number, and of the least ones: 2^-9 / 2 of a scale.
    allowed = torch.maximum(weight.abs() * 2.0**-4, most / 448 * 2.0**-10) * (1 + 1e-5)
    assert bool(((found.weight - weight).abs() <= allowed).all())
    assert torch.allclose(found.weight.abs().amax(others, keepdim=True), most, rtol=1e-6)


def test_channels_of_very_different_size_lose_alike():
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    weight *= 10.0 ** torch.arange(-6, 0)[:, None]
    error = (scaled(weight, 0, "scale").weight - weight).norm(dim=1) / weight.norm(dim=1)
    assert float(error.max()) < 0.04


def test_a_weight_without_elements_is_left_alone():
    class Empty(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 6)
            self.empty = nn.Parameter(torch.zeros(6, 0))

        def forward(self, x):
            return self.layer(x) + nn.functional.linear(x[:, :0], self.empty)

    done = changed(program_of(Empty(), torch.randn(2, 8)), "float8_e4m3fn")
    lines = {line.layer: line.became for line in done.layers}
    assert lines["layer.weight"] == "float8_e4m3fn"


def test_nothing_is_said_of_errors_that_are_no_numbers():
    module = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 4))
    with torch.no_grad():
        module[1].weight[1, 2] = float("nan")
    done = changed(program_of(module, torch.randn(2, 8)), "bfloat16")
    [first, second] = done.layers
    assert 0 < first.weight_error < 0.01
    assert second.weight_error is None


class Mixed(nn.Module):
    """Products of all orders of dimensions, a weight that is tied, and one that is infinite."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 8)
        self.linear = nn.Linear(8, 6)
        self.matrix = nn.Parameter(torch.randn(6, 8))
        self.up = nn.ConvTranspose1d(1, 3, 2)
        self.bad = nn.Parameter(torch.zeros(3, 3))

    def forward(self, tokens):
        x = self.linear(self.embed(tokens)) @ self.matrix
        x = self.up(x[:, :1]).mT @ self.bad
        return x, nn.functional.linear(self.embed(tokens), self.embed.weight)


@pytest.fixture(scope="module")
def mixed():
    torch.manual_seed(0)
    module = Mixed()
    with torch.no_grad():
        module.bad[0, 0] = float("inf")
    original = program_of(module, torch.randint(9, (2, 4)))
    return original, changed(original, "float8_e4m3fn")


def test_products_alone_read_8_bits(mixed):
    _, found = mixed
    became = {line.layer: line.became for line in found.layers}
    assert became == {
        "embed.weight": "bfloat16",  # Read by a lookup too.
        "linear.weight": "float8_e4m3fn",
        "matrix": "float8_e4m3fn",
        "up.weight": "float8_e4m3fn",
        "bad": became["bad"],
    }
    assert became["bad"] in ("bfloat16", KEPT)
    module = found.program.module
    assert module.get_parameter("linear.weight").dtype == FLOAT8
    assert module.get_buffer("linear.weight_scale").shape == (6, 1)
    assert module.get_buffer("matrix_scale").shape == (1, 8)
    assert module.get_buffer("up.weight_scale").shape == (1, 3, 1)


def test_bytes_are_those_of_codes_and_scales(mixed):
    _, found = mixed
    [line] = [line for line in found.layers if line.layer == "linear.weight"]
    assert (line.bytes_before, line.bytes_after) == (8 * 6 * 4, 8 * 6 + 6 * 4)
    assert 0.005 < line.weight_error < 0.05


def test_a_saved_file_of_8_bits_gives_the_same(tmp_path):
    program = _small()
    save_program(program, tmp_path / "model.pt2")
    loaded = Program.from_exported(load_program(tmp_path / "model.pt2"))
    assert loaded.module.get_parameter("0.weight").dtype == FLOAT8
    assert all(one.equal(other) for one, other in zip(run(loaded), run(program), strict=True))


def _small() -> Program:
    torch.manual_seed(0)
    original = program_of(
        nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), torch.ones(2, 8)
    )
    return changed(original, "float8_e4m3fn").program


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn"])
def test_zeros_are_stored_in_a_bit_whatever_the_type(tmp_path, dtype):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    with torch.no_grad():
        module[0].weight[torch.rand(64, 64) < 0.9] = 0.0
        module[0].weight[0, 0] = -0.0
    program = changed(program_of(module, torch.ones(2, 64)), dtype).program
    assert sparsity(program) > 0.8
    save_sparse(program, tmp_path / "sparse.safetensors")
    found = load_sparse(tmp_path / "sparse.safetensors")
    for name, tensor in program.module.state_dict().items():
        assert found[name].dtype == tensor.dtype
        # As bytes: minus zero is another number.
        assert found[name].view(torch.uint8).equal(tensor.contiguous().view(torch.uint8))
    assert (tmp_path / "sparse.safetensors").stat().st_size < 64 * 64
