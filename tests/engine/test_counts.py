"""MACs against torch's own counter, parameters and bytes against a sum."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.zoo.exported import example, pattern_coupling, pattern_program
from tests.zoo.patterns import PATTERNS
from worker.engine.graph.counts import count

# torch's counter knows no fused recurrent operator; they are counted by hand below.
COUNTABLE = sorted(set(PATTERNS) - {"recurrent_stack", "plain_recurrence"})


@pytest.mark.parametrize("name", COUNTABLE)
def test_macs_are_half_of_the_flops_that_torch_counts(name):
    program = pattern_program(name)
    # The fused kernel of the CPU has no entry in torch's table; written out, attention has.
    plain = sdpa_kernel(SDPBackend.MATH)
    with plain, FlopCounterMode(display=False) as counter, torch.no_grad():
        program.run([example(PATTERNS[name])])
    assert count(pattern_coupling(name)).macs * 2 == counter.get_total_flops()


def test_macs_of_recurrent_layers_are_their_matrices_at_every_step():
    rows, steps = 2, 7
    lstm = 2 * (4 * 8 * (5 + 8)) + 2 * (4 * 8 * (16 + 8))
    gru = 3 * 6 * (16 + 6)
    head = 6 * 3
    expected = rows * (steps * (lstm + gru) + head)
    assert count(pattern_coupling("recurrent_stack")).macs == expected


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_parameters_and_bytes_are_those_of_the_module(name):
    module = pattern_program(name).module
    counts = count(pattern_coupling(name))
    assert counts.parameters == sum(p.numel() for p in module.parameters())
    tensors = [*module.parameters(), *module.buffers()]
    if name == "constants":
        tensors.append(torch.ones(4))
    assert counts.size_bytes == sum(t.numel() * t.element_size() for t in tensors)
