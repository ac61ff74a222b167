"""Training through the rounding of weights and activations."""

import numpy as np
import pytest
import torch

from tests.engine.quantize.networks import SETTING, config, mlp, normal, outputs, program, residual
from worker.engine.coded.chain import made_at, read_back
from worker.engine.config import DistillConfig, FinetuneConfig
from worker.engine.data import Rows
from worker.engine.program import Program
from worker.engine.quantize import quantize
from worker.engine.quantize.learning import learner, relearned
from worker.engine.recovery.recover import Sources
from worker.engine.recovery.setting import Setting
from worker.engine.transform import recovered

KINDS = {
    "static int8": {"activations": "static"},
    "int4 in ragged groups": {"weights": "int4", "granularity": "per_group", "group_size": 7},
    "ternary": {"weights": "ternary"},
    "codebook": {"weights": "codebook", "granularity": "per_tensor", "codebook_size": 5},
}


@pytest.fixture(params=KINDS)
def quantized(request: pytest.FixtureRequest) -> Program:
    return quantize(residual(), config(**KINDS[request.param]), normal(3, 8, 8), SETTING).program


def test_a_learner_computes_what_the_program_does(quantized: Program):
    taught, rows = learner(quantized), normal(3, 8, 8)
    for one, other in zip(outputs(taught, rows), outputs(quantized, rows), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    names = set(dict(taught.module.named_parameters()))
    assert {"stem.weight", "first.weight", "head.weight"} <= names


def test_nothing_learned_is_nothing_changed(quantized: Program):
    found = relearned(quantized, learner(quantized))
    before, after = quantized.module.state_dict(), found.module.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name


def test_gradients_pass_the_rounding(quantized: Program):
    taught = learner(quantized)
    x = torch.randn(4, 3, 8, 8)
    [output] = taught.run([x])
    output.square().sum().backward()
    for name in ("stem.weight", "first.weight", "head.weight"):
        gradient = taught.module.get_parameter(name).grad
        assert gradient is not None
        assert bool(gradient.isfinite().all())
        assert float(gradient.abs().sum()) > 0


def test_the_learners_weights_are_its_own(quantized: Program):
    taught = learner(quantized)
    with torch.no_grad():
        for parameter in taught.module.parameters():
            parameter.add_(1.0)
    before = learner(quantized)
    assert not torch.equal(
        before.module.get_parameter("head.weight"), taught.module.get_parameter("head.weight")
    )


def test_what_is_learned_are_codes_of_the_same_grid(quantized: Program):
    taught = learner(quantized)
    with torch.no_grad():
        for name in ("first.weight", "head.weight"):
            parameter = taught.module.get_parameter(name)
            parameter.add_(0.5 * torch.randn(parameter.shape))
        taught.module.get_parameter("head.bias").add_(2.0)
    found = relearned(quantized, taught)
    for about in quantized.packed.weights:
        old, new = read_back(quantized, about), read_back(found, about)
        assert found.shape(made_at(found, about)) == about.shape
        if about.name in ("first.weight", "head.weight"):
            assert not torch.equal(old.codes, new.codes)
    rows = normal(3, 8, 8)
    for one, other in zip(outputs(found, rows), outputs(taught, rows), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_distillation_brings_a_coarse_model_nearer_to_its_original():
    original, rows = program(mlp(), 6), normal(6, count=128)
    coarse = quantize(original, config(weights="int2"), rows, SETTING).program
    step = DistillConfig(epochs=20, learning_rate=1e-3, loss="mse", keep="last", batch_size=16)
    sources = Sources(rows, original, None)
    taught = recovered(coarse, step, sources, Setting(seed=0))
    x = torch.from_numpy(np.asarray(rows.inputs[0]))

    @torch.no_grad()
    def error(each: Program) -> float:
        return float((each.run([x])[0] - original.run([x])[0]).square().mean())

    assert taught.packed == coarse.packed
    assert error(taught) < 0.7 * error(coarse)


def test_a_program_without_codes_is_trained_in_place():
    net = program(torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Linear(8, 3)), 6)
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(32, 6)).astype(np.float32)
    rows = Rows((inputs,), draw.integers(0, 3, 32))
    found = recovered(
        net, FinetuneConfig(epochs=1, keep="last"), Sources(rows, net, None), Setting(seed=0)
    )
    assert found is net
