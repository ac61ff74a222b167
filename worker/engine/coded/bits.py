"""Codes of few bits in bytes, and back; as tensors, and as calls in a graph."""

import torch
from torch import Tensor
from torch.fx import Graph, Node

aten = torch.ops.aten


def packed_bits(codes: Tensor, bits: int) -> Tensor:
    """Codes behind each other, the first in the lowest bits of the first byte.

    Args:
        codes: uint8, each less than ``2 ** bits``; flat, in order.
        bits: 1 to 8.

    Returns:
        uint8, ``(bytes,)``: as few as hold them in words of a byte where 8 is a multiple of
        ``bits``, else of ``bits`` bytes for 8 codes.
    """
    flat = codes.flatten()
    if bits == 8:
        return flat
    per_word = 8 // bits if 8 % bits == 0 else 8
    count = -(-len(flat) // per_word) * per_word
    filled = flat.new_zeros(count)
    filled[: len(flat)] = flat
    each = (filled[:, None] >> torch.arange(bits, dtype=torch.uint8)) & 1
    powers = 2 ** torch.arange(8, dtype=torch.uint8)
    return (each.view(-1, 8) * powers).sum(1, dtype=torch.uint8)


def unpacked_bits(graph: Graph, packed: Node, *, bits: int, count: int) -> Node:
    """Calls that give codes back: uint8, ``(count,)``, of what :func:`packed_bits` made.

    Args:
        graph: Where to insert, at its insertion point.
        packed: uint8, flat.
        bits: 1 to 7.
        count: How many codes there are.
    """
    call = graph.call_function
    if 8 % bits == 0:
        per_word = 8 // bits
        parts = [_part(graph, packed, at * bits, bits) for at in range(per_word)]
        found = call(aten.stack.default, (parts, 1))
    else:
        per_word = 8
        single = [_part(graph, packed, at, 1) for at in range(8)]
        every = call(aten.view.default, (call(aten.stack.default, (single, 1)), [-1, bits]))
        found = call(aten.select.int, (every, 1, 0))
        for at in range(1, bits):
            bit = call(aten.select.int, (every, 1, at))
            shifted = call(aten.bitwise_left_shift.Tensor_Scalar, (bit, at))
            found = call(aten.bitwise_or.Tensor, (found, shifted))
    flat = call(aten.view.default, (found, [-1]))
    if count % per_word:
        flat = call(aten.slice.Tensor, (flat, 0, 0, count))
    return flat


def _part(graph: Graph, packed: Node, start: int, bits: int) -> Node:
    """A few bits of every byte."""
    shifted = packed
    if start:
        shifted = graph.call_function(aten.bitwise_right_shift.Tensor_Scalar, (packed, start))
    return graph.call_function(aten.bitwise_and.Scalar, (shifted, 2**bits - 1))
