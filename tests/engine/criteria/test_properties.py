"""What every criterion has to be, whatever it scores."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from secateur.criteria import CRITERIA as DECLARED
from tests.engine.criteria.nets import Small, subject_of
from tests.zoo.exported import example, export, pattern_program, randomized
from tests.zoo.patterns import PATTERNS
from worker.engine.config import PruneConfig
from worker.engine.criteria import CRITERIA
from worker.engine.criteria.subject import Subject
from worker.engine.data import Rows
from worker.engine.errors import CriterionError, DataMismatchError, NotFiniteError
from worker.engine.graph.coupling import couple
from worker.engine.program import Program
from worker.engine.prune.cut import cut
from worker.engine.prune.plan import decide
from worker.engine.prune.scoring import score
from worker.engine.prune.verify import verify_cut


def options_of(name: str, **changes: Any) -> dict[str, Any]:
    """Options for a few rows, of those that a criterion takes."""
    few = {"sample_count": 24, "batch_size": 8, "targets": "labels"} | changes
    return {key: value for key, value in few.items() if key in DECLARED[name].options}


def few_rows() -> dict[str, Any]:
    draw = np.random.default_rng(0)
    return {
        "inputs": draw.normal(size=(24, 2, 6, 6)).astype(np.float32),
        "targets": draw.integers(0, 3, 24),
    }


def scored(module: nn.Module, name: str, **options: Any) -> torch.Tensor:
    subject = subject_of(module, 2, 6, 6, **few_rows())
    (found,) = score(subject, PruneConfig(criterion=name, options=options, normalization="none"))
    return found


# What draws for each channel or weight draws something else for the permuted network.
@pytest.mark.parametrize("name", sorted(CRITERIA.keys() - {"random", "hessian"}))
def test_permuting_channels_permutes_scores(name):
    torch.manual_seed(0)
    module = randomized(Small())
    order = torch.tensor([3, 1, 7, 0, 6, 2, 5, 4])
    here = scored(module, name, **options_of(name))
    there = scored(module.permuted(order), name, **options_of(name))
    torch.testing.assert_close(there, here[order], rtol=1e-3, atol=1e-4 * float(here.abs().max()))
    assert len(set(here.tolist())) > 1


def test_permuting_channels_permutes_curvatures_on_average():
    torch.manual_seed(0)
    module = randomized(Small())
    order = torch.tensor([3, 1, 7, 0, 6, 2, 5, 4])
    options = options_of("hessian", sample_count=24, batch_size=1, targets="outputs")
    draws = {"here": module, "there": module.permuted(order)}
    found = {
        where: sum(
            score(
                subject_of(net, 2, 6, 6, **few_rows(), seed=seed),
                PruneConfig(criterion="hessian", options=options, normalization="none"),
            )[0]
            for seed in range(10)
        )
        for where, net in draws.items()
    }
    torch.testing.assert_close(found["there"], found["here"][order], rtol=0.5, atol=0)


NETWORKS = [
    "residual",
    "concatenation",
    "vision_transformer",
    "recurrent_stack",
    "unrolled_gru",
    "folded_heads",
]


def rows_for(name: str, program: Program, *, labeled: bool) -> Rows:
    inputs = example(PATTERNS[name], 8)
    output = program.run([inputs])[0]
    targets = np.zeros(tuple(output.shape), dtype=np.float32) if labeled else None
    return Rows((inputs.numpy(),), targets)


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
@pytest.mark.parametrize("name", NETWORKS)
def test_every_criterion_scores_every_kind_of_network(name, criterion):
    program = pattern_program(name)
    rows = rows_for(name, program, labeled=True)
    config = PruneConfig(
        criterion=criterion,
        options=options_of(criterion, sample_count=8),
        scope="local",
        channel_ratio=0.4,
    )
    coupling = couple(program)
    plan = decide(coupling, config, seed=0, rows=rows)
    assert plan.scores is not None
    assert all(bool(found.isfinite().all()) for found in plan.scores)
    verify_cut(coupling, plan.keep, cut(coupling, plan.keep), seed=0)


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
def test_the_same_seed_gives_the_same_scores(criterion):
    torch.manual_seed(0)
    module = randomized(Small())
    first, again = (scored(module, criterion, **options_of(criterion)) for _ in range(2))
    assert torch.equal(first, again)


def test_a_group_that_a_criterion_says_nothing_of_is_ranked_by_magnitude_and_told():
    program = pattern_program("mlp")
    subject = Subject(couple(program))
    found = score(subject, PruneConfig(criterion="batch_norm_scale"))
    by_magnitude = score(Subject(couple(program)), PruneConfig(criterion="magnitude"))
    for one, other in zip(found, by_magnitude, strict=True):
        assert torch.equal(one.argsort(), other.argsort())
    assert "'batch_norm_scale' says nothing of 0.weight, 2.weight" in subject.warnings[0]


def test_activations_that_are_not_finite_are_not_ranked():
    module = randomized(Small())
    with torch.no_grad():
        module.first.weight[1] = torch.nan
    subject = subject_of(module, 2, 6, 6, inputs=few_rows()["inputs"])
    config = PruneConfig(criterion="activation_mean", options=options_of("activation_mean"))
    with pytest.raises(NotFiniteError, match=r"first\.weight is NaN"):
        score(subject, config)


@pytest.mark.parametrize("asked", [{"criterion": "reconstruction"}, {"algorithm": "shift"}])
def test_data_that_is_too_large_is_said_to_be_so(asked):
    inputs = few_rows()["inputs"]
    inputs[3, 0, 0, 0] = 3e38
    subject = subject_of(randomized(Small()), 2, 6, 6, inputs=inputs)
    options = options_of(asked.get("criterion", "magnitude"))
    rows, config = Rows((inputs,), None), PruneConfig(channel_ratio=0.5, options=options, **asked)
    with pytest.raises(NotFiniteError, match="check the range of the data"):
        decide(subject.coupling, config, seed=0, rows=rows)


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.first, self.last = nn.Embedding(9, 4), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(self.embed(x)).relu())


@pytest.mark.parametrize(
    "asked",
    [
        *({"criterion": name} for name in sorted(CRITERIA) if DECLARED[name].data),
        {"algorithm": "shift"},
    ],
)
def test_data_that_the_model_does_not_take_is_said_to_be_so(asked):
    coupling = couple(Program.from_exported(export(Words().eval(), torch.tensor([1, 2]))))
    rows = Rows((np.array([1, 2, 3, 99]),), np.array([0, 1, 2, 0]))
    name = asked.get("criterion", "magnitude")
    config = PruneConfig(channel_ratio=0.5, options=options_of(name), **asked)
    with pytest.raises(DataMismatchError, match="within the vocabulary") as caught:
        decide(coupling, config, seed=0, rows=rows)
    assert "\n" not in str(caught.value)


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = randomized(Small())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x).detach()


def test_a_model_without_gradients_says_which_criteria_are_left():
    program = Program.from_exported(export(Detached().eval(), torch.ones(2, 2, 6, 6)))
    rows = few_rows()
    subject = Subject(couple(program), Rows((rows["inputs"],), rows["targets"]))
    config = PruneConfig(criterion="taylor", options=options_of("taylor"))
    with pytest.raises(DataMismatchError, match=r"no gradient .* another criterion"):
        score(subject, config)
    with pytest.raises(CriterionError, match=r"no gradient .* another criterion") as caught:
        score(subject, PruneConfig(criterion="synflow"))
    assert caught.value.pointer == "/criterion"


@pytest.mark.parametrize(
    ("name", "criterion", "said"),
    [
        ("written_in_place", "taylor", "writes in place"),
        ("written_in_place", "synflow", "writes in place"),
        ("summed_rows", "hessian", "has no second derivative"),
    ],
)
def test_a_criterion_that_cannot_score_a_network_says_which_can(name, criterion, said):
    program = pattern_program(name)
    subject = Subject(couple(program), rows_for(name, program, labeled=True))
    with pytest.raises(CriterionError, match=said) as caught:
        score(subject, PruneConfig(criterion=criterion, options=options_of(criterion)))
    assert caught.value.pointer == "/criterion"
