"""MACs against torch's own counter, parameters and bytes against a sum."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from tests.zoo.exported import examples, pattern_coupling, pattern_program
from tests.zoo.patterns import PATTERNS
from worker.engine.graph.counts import count

# torch's counter knows no fused recurrent operator, no mv and no bilinear: by hand below.
BY_HAND = {"recurrent_stack", "plain_recurrence", "spectral_normalized", "bilinear_layer"}
COUNTABLE = sorted(set(PATTERNS) - BY_HAND)


@pytest.mark.parametrize("name", COUNTABLE)
def test_macs_are_half_of_the_flops_that_torch_counts(name):
    program = pattern_program(name)
    # The fused kernel of the CPU has no entry in torch's table; written out, attention has.
    plain = sdpa_kernel(SDPBackend.MATH)
    with plain, FlopCounterMode(display=False) as counter, torch.no_grad():
        program.run(pytree.tree_leaves(examples(PATTERNS[name])))
    assert count(pattern_coupling(name)).macs * 2 == counter.get_total_flops()


def test_macs_of_recurrent_layers_are_their_matrices_at_every_step():
    rows, steps = 2, 7
    lstm = 2 * (4 * 8 * (5 + 8)) + 2 * (4 * 8 * (16 + 8))
    gru = 3 * 6 * (16 + 6)
    head = 6 * 3
    expected = rows * (steps * (lstm + gru) + head)
    assert count(pattern_coupling("recurrent_stack")).macs == expected


def test_macs_of_vectors_and_of_two_inputs_at_once_are_counted():
    rows = 2
    stem, head = 6 * 8, 8 * 3
    # The singular value: u^T (W v), once for all rows.
    assert count(pattern_coupling("spectral_normalized")).macs == rows * (stem + head) + 6 * 8 + 8
    inputs = 6 * 8 + 6 * 4
    assert count(pattern_coupling("bilinear_layer")).macs == rows * (inputs + 3 * (8 * 4 + 4))


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_parameters_and_bytes_are_those_of_the_module(name):
    module = pattern_program(name).module
    counts = count(pattern_coupling(name))
    assert counts.parameters == sum(p.numel() for p in module.parameters())
    tensors = [*module.parameters(), *module.buffers()]
    if name == "constants":
        tensors.append(torch.ones(4))
    if name == "permuted_twice":
        tensors.append(torch.tensor([3, 1, 0, 2]))
    assert counts.size_bytes == sum(t.numel() * t.element_size() for t in tensors)
