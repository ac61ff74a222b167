"""What a program is taken as, and what it is not taken with."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.zoo.exported import export, randomized
from worker.engine.config import PruneConfig
from worker.engine.difference import TOLERANCE
from worker.engine.errors import UnreadableModelError
from worker.engine.graph.counts import count
from worker.engine.graph.coupling import couple
from worker.engine.program import Program
from worker.engine.prune.cut import cut
from worker.engine.prune.plan import decide
from worker.engine.prune.verify import verify_cut


def test_a_size_that_depends_on_values_is_refused():
    class Chosen(nn.Module):
        def forward(self, x):
            return x[x > 0]

    program = Program.from_exported(export(Chosen(), torch.ones(2, 3)))
    with pytest.raises(UnreadableModelError, match="depends on the values"):
        couple(program)


def test_nothing_nests_with_every_export_as_many_rounds_need_many():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    program = Program.from_exported(export(randomized(net), torch.ones(2, 3)))
    for _ in range(2):
        program = Program.from_exported(program.export())
        assert not any("from_node" in node.meta for node in program.graph.nodes)


def test_a_model_that_draws_is_verified_with_the_same_draws():
    class Variational(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean, self.spread = nn.Linear(6, 4), nn.Linear(6, 4)
            self.decode = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

        def forward(self, x):
            spread = self.spread(x).exp()
            return self.decode(self.mean(x) + torch.randn_like(spread) * spread)

    coupling = couple(Program.from_exported(export(randomized(Variational()), torch.ones(2, 6))))
    plan = decide(coupling, PruneConfig(channel_ratio=0.5), seed=0)
    proof = verify_cut(coupling, plan.keep, cut(coupling, plan.keep), seed=0)
    assert proof.max_relative_error <= TOLERANCE


def test_a_table_cut_to_a_dynamic_length_stays_dynamic():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 3)
            self.register_buffer("table", torch.rand(1, 20, 8))

        def forward(self, tokens):
            return self.head(self.embed(tokens) + self.table[:, : tokens.shape[1]])

    tokens, auto = torch.zeros(2, 7, dtype=torch.int64), torch.export.Dim.AUTO
    exported = torch.export.export(
        randomized(Positions()), (tokens,), dynamic_shapes=({0: auto, 1: auto},)
    )
    coupling = couple(Program.from_exported(exported))
    plan = decide(coupling, PruneConfig(channel_ratio=0.5), seed=0)
    pruned = cut(coupling, plan.keep)
    verify_cut(coupling, plan.keep, pruned, seed=0)
    with torch.no_grad():
        assert pruned.run([tokens[:, :3].repeat(2, 1)])[0].shape == (4, 3, 3)


# torch 2.13 asks its own fake tensors for an address when it copies a module.
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor:UserWarning")
@pytest.mark.parametrize("granularity", ["channels", "layers"])
def test_a_program_is_analyzed_without_its_weights(granularity):
    def build() -> nn.Module:
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=True)
        encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        # Twins of one shape, and one weight in two places: storage tells which is which.
        module = nn.Sequential(nn.Linear(5, 16), encoder, nn.Linear(16, 16), nn.Linear(16, 16))
        module[3].weight = module[2].weight
        return module.eval()

    real = couple(
        Program.from_exported(export(build(), torch.ones(2, 7, 5))), granularity=granularity
    )
    with FakeTensorMode():
        exported = torch.export.export(build(), (torch.ones(2, 7, 5),))
    fake = couple(Program.from_exported(exported), granularity=granularity)

    assert [(g.name, len(g)) for g in fake.groups] == [(g.name, len(g)) for g in real.groups]
    assert count(fake) == count(real)
    keep = real.everything()
    keep[real.groups[0].channels[1:]] = False
    assert count(fake, keep) == count(real, keep)


class Counted(nn.Module):
    """Takes a number beside a tensor."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x, n):
        return self.head(self.stem(x[:n]).relu())


class Halving(nn.Module):
    """Takes pictures of an even size."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 3, 2, 2)

    def forward(self, x):
        return self.up(self.down(x).relu()) + x


def _cut_again(exported):
    coupling = couple(Program.from_exported(exported))
    plan = decide(coupling, PruneConfig(scope="local", channel_ratio=0.5), seed=0)
    pruned = cut(coupling, plan.keep)
    assert verify_cut(coupling, plan.keep, pruned, seed=0).max_relative_error <= TOLERANCE
    return pruned.export().module()


def test_a_dynamic_number_among_the_inputs_stays_dynamic():
    any_size = torch.export.Dim.DYNAMIC
    exported = torch.export.export(
        randomized(Counted()), (torch.randn(6, 4), 3), dynamic_shapes=({0: any_size}, any_size)
    )
    module = _cut_again(exported)
    for rows, number in ((6, 3), (9, 7), (5, 2)):
        assert module(torch.randn(rows, 4), number).shape == (number, 2)


def test_a_size_that_is_twice_another_stays_dynamic():
    height, width = torch.export.Dim("height", max=64), torch.export.Dim("width", max=64)
    exported = torch.export.export(
        randomized(Halving()),
        (torch.randn(1, 3, 8, 12),),
        dynamic_shapes=({2: 2 * height, 3: 2 * width},),
    )
    module = _cut_again(exported)
    for size in ((8, 12), (20, 6), (128, 64)):
        assert module(torch.randn(1, 3, *size)).shape[2:] == size
    for size in ((7, 12), (130, 12)):
        with pytest.raises(AssertionError, match="Guard failed"):
            module(torch.randn(1, 3, *size))


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 8)
        self.register_buffer("graph", torch.ones(8))

    def forward(self, x):
        return self.stem(x) + self.graph


def test_a_buffer_named_as_what_modules_have_themselves_is_told_so():
    exported = torch.export.export(Named(), (torch.randn(2, 4),))
    with pytest.raises(UnreadableModelError, match=r"'graph'.*rename"):
        Program.from_exported(exported)
