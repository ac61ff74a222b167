"""What each channel costs: how many MACs and parameters go with it alone."""

from collections.abc import Iterator

import torch
from torch import Tensor

from worker.engine.graph.counts import Counts, count
from worker.engine.graph.coupling import Coupling


def costs(coupling: Coupling) -> tuple[Tensor, Tensor]:
    """MACs and parameters that go when one channel goes and all others stay.

    Returns:
        Two float64, ``(channel_count,)``, at least 1 each.
    """
    macs = torch.ones(coupling.channel_count, dtype=torch.float64)
    parameters = torch.ones_like(macs)
    before = count(coupling)
    for channels in _alike(coupling):
        keep = coupling.everything()
        keep[channels[0]] = False
        after: Counts = count(coupling, keep)
        macs[channels] = max(1.0, before.macs - after.macs)
        parameters[channels] = max(1.0, before.parameters - after.parameters)
    return macs, parameters


def _alike(coupling: Coupling) -> Iterator[Tensor]:
    """Channels that have as many indices as each other in every line: they cost the same."""
    if coupling.blocks:
        yield from torch.arange(coupling.channel_count)[:, None]
        return
    generator = torch.Generator().manual_seed(0)
    signature = torch.zeros(coupling.channel_count, dtype=torch.int64)
    for line in coupling.all_lines:
        # A number of its own for each line: sums of them tell which lines, and how often.
        number = torch.randint(2**62, (1,), generator=generator)
        own = line.channels[line.channels >= 0]
        signature.index_add_(0, own, number.expand(len(own)))
    _, kind = torch.unique(signature, return_inverse=True)
    order = kind.argsort(stable=True)
    yield from torch.split(order, torch.bincount(kind).tolist())
