"""Weights made from codes: the program computes what it would with the weights they stand for."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.zoo.exported import export
from worker.engine.coded.chain import Coded, in_sets, made_at, placed, read_back, with_codes
from worker.engine.config import QuantizeConfig
from worker.engine.graph.counts import count, with_packed
from worker.engine.graph.coupling import couple
from worker.engine.graph.weights import weight_calls
from worker.engine.packed import Packed, PackedWeight
from worker.engine.program import Program
from worker.engine.quantize.codes import Scheme, about_weight, coded


class Several(nn.Module):
    """Weights of every kind: of convolutions both ways, recurrent, tied, transposed."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, groups=1)
        self.grouped = nn.Conv2d(8, 8, 3, groups=4)
        self.up = nn.ConvTranspose2d(8, 5, 3)
        self.lstm = nn.LSTM(5, 12, batch_first=True)
        self.head = nn.Linear(12, 12, bias=False)
        self.tied = nn.Linear(12, 12)
        self.tied.weight = self.head.weight
        self.plain = nn.Parameter(torch.randn(12, 7))

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.grouped(self.conv(x).relu())).flatten(2).mT
        x = self.tied(self.head(self.lstm(x)[0][:, -1]))
        return x @ self.plain


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return Program.from_exported(export(Several(), torch.randn(2, 3, 8, 8)))


def scheme(**options: object) -> Scheme:
    return Scheme.of(QuantizeConfig(**options))


def names_of(program: Program) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    for name, weight in program.module.named_parameters():
        if weight.dim() > 1:
            names = (name, "tied.weight") if name == "head.weight" else (name,)
            yield names, weight.detach()


def all_coded(program: Program, how: Scheme) -> dict[str, Coded]:
    found = {}
    for names, weight in names_of(program):
        axis = 1 if names[0] in ("up.weight", "plain") else 0
        found[names[0]] = coded(weight, about_weight(names, weight, how, axis=axis), how)
    return found


SCHEMES = {
    "int8": scheme(),
    "int8 around anything, per tensor": scheme(granularity="per_tensor", symmetric=False),
    "int4 in ragged groups": scheme(
        weights="int4", granularity="per_group", symmetric=False, group_size=7
    ),
    "int4 per channel": scheme(weights="int4"),
    "int2": scheme(weights="int2", granularity="per_group", symmetric=False, group_size=16),
    "ternary": scheme(weights="ternary"),
    "codebook of 2": scheme(weights="codebook", granularity="per_tensor", codebook_size=2),
    "codebook of 6": scheme(weights="codebook", granularity="per_channel", codebook_size=6),
    "codebook of 16 in groups": scheme(weights="codebook", granularity="per_group", group_size=9),
    "codebook of 100": scheme(weights="codebook", granularity="per_tensor", codebook_size=100),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_it_computes_with_the_weights_that_codes_stand_for(program: Program, name: str):
    weights = all_coded(program, SCHEMES[name])
    found = with_codes(program, weights)
    expected = program.copy()
    with torch.no_grad():
        for weight in weights.values():
            expected.module.get_parameter(weight.about.name).copy_(weight.weight)
    x = torch.randn(5, 3, 8, 8)  # Another batch: it is dynamic still.
    torch.testing.assert_close(found.run([x])[0], expected.run([x])[0], rtol=1e-5, atol=1e-5)
    assert found.input_sizes == program.input_sizes
    left = {name for name, each in found.module.named_parameters() if each.dim() > 1}
    assert not left


@pytest.mark.parametrize("name", SCHEMES)
def test_codes_are_read_back_from_a_program(program: Program, name: str):
    for weight in all_coded(program, SCHEMES[name]).values():
        found = read_back(with_codes(program, {weight.about.name: weight}), weight.about)
        assert torch.equal(found.codes, weight.codes)
        assert torch.equal(found.weight, weight.weight)
        assert found.grid.most == weight.grid.most
        again = found.grid.encode(in_sets(weight.weight, weight.about).nan_to_num(0.0))
        is_filling = in_sets(weight.weight, weight.about).isnan()
        restored = found.grid.decode(again).masked_fill(is_filling, 0.0)
        known = weight.grid.decode(weight.codes).masked_fill(is_filling, 0.0)
        assert torch.equal(restored, known)


@pytest.mark.parametrize("name", SCHEMES)
def test_the_node_that_takes_a_weights_place_is_found(program: Program, name: str):
    weights = all_coded(program, SCHEMES[name])
    found = with_codes(program, weights)
    made = {made_at(found, each.about): key for key, each in weights.items()}
    names = {call.parameter for call in weight_calls(found, made)}
    assert names == {"conv.weight", "grouped.weight", "head.weight", "plain"}


def test_bytes_are_what_was_said_they_would_be(program: Program):
    for how in SCHEMES.values():
        for weight in all_coded(program, how).values():
            stored = sum(buffer.nbytes for buffer in weight.buffers().values())
            said = weight.about.size_bytes(how.entries)
            # Words of several codes are filled up.
            assert 0 <= stored - said < 8


def test_counts_are_those_of_the_model(program: Program):
    weights = all_coded(program, SCHEMES["int8"])
    packed = Packed(weights=tuple(each.about for each in weights.values()))
    before, after = count(couple(program)), count(couple(with_codes(program, weights)))
    after = with_packed(after, packed)
    assert (after.parameters, after.macs) == (before.parameters, before.macs)
    assert after.size_bytes < 0.45 * before.size_bytes
    assert Packed.from_json(packed.as_json()) == packed


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=4),
    st.integers(0, 1),
    st.sampled_from(["per_tensor", "per_channel", "per_group"]),
    st.integers(2, 6),
)
def test_sets_are_put_back_in_their_places(
    shape: list[int], axis: int, granularity: str, group_size: int
):
    size = group_size if granularity == "per_group" else 0
    about = PackedWeight(("w",), tuple(shape), "float32", "int8", 8, axis, granularity, True, size)
    weight = torch.randn(shape)
    sets = in_sets(weight, about)
    assert sets.shape == about.sets
    assert torch.equal(placed(sets, about), weight)
