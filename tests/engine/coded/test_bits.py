"""Codes of few bits in bytes, and back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx import Graph, GraphModule

from worker.engine.coded.bits import packed_bits, unpacked_bits


def unpacked(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    graph = Graph()
    graph.output(unpacked_bits(graph, graph.placeholder("packed"), bits=bits, count=count))
    return GraphModule({}, graph)(packed)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 70), st.integers(0, 2**31))
def test_what_is_packed_comes_back(bits: int, count: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (count,), generator=generator, dtype=torch.uint8)
    packed = packed_bits(codes, bits)
    assert packed.dtype is torch.uint8
    assert torch.equal(unpacked(packed, bits, count), codes)


@pytest.mark.parametrize(("bits", "expected"), [(1, 3), (2, 5), (3, 9), (4, 9), (5, 15), (7, 21)])
def test_seventeen_codes_take_as_many_bytes_as_their_bits_say(bits: int, expected: int):
    assert len(packed_bits(torch.zeros(17, dtype=torch.uint8), bits)) == expected


def test_the_first_code_is_in_the_lowest_bits():
    assert packed_bits(torch.tensor([1, 2, 15, 0], dtype=torch.uint8), 4).tolist() == [0x21, 0x0F]


def test_eight_bits_are_bytes_already():
    codes = torch.arange(5, dtype=torch.uint8)
    assert torch.equal(packed_bits(codes, 8), codes)
