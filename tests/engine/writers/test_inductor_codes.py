"""Quantized programs in the operators that Inductor has integer kernels for."""

import numpy as np
import pytest
import torch

from tests.engine.quantize.networks import (
    SETTING,
    Residual,
    config,
    encoder,
    mlp,
    normal,
    program,
)
from worker.engine.program import Program
from worker.engine.quantize import quantize
from worker.engine.writers.inductor_codes import decomposed

NETWORKS = {
    "convolutions": (Residual, (3, 8, 8)),
    "mlp": (mlp, (6,)),
    "attention": (encoder, (6, 16)),
}


def names(found: Program) -> list[str]:
    return [str(node.target) for node in found.graph.nodes]


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_computes_what_the_program_does(name: str, granularity: str):
    make, shape = NETWORKS[name]
    rows = normal(*shape)
    asked = config(activations="static", granularity=granularity)
    changed = quantize(program(make(), *shape), asked, rows, SETTING).program
    found = decomposed(changed)
    x = torch.from_numpy(np.asarray(rows.inputs[0])[:5])
    with torch.no_grad():
        torch.testing.assert_close(found.run([x]), changed.run([x]), rtol=1e-4, atol=1e-4)
    rounded = sum("quantized_decomposed.quantize_per_tensor" in each for each in names(found))
    assert rounded == len(changed.packed.static)
    weights = sum(
        "dequantize_per_channel" in each or "dequantize_per_tensor" in each for each in names(found)
    )
    assert weights > rounded
    assert found.export() is not None


def test_weights_alone_stay_as_they_are():
    changed = quantize(program(mlp(), 6), config(weights="int4"), None, SETTING).program
    found = decomposed(changed)
    assert not any("quantized_decomposed" in each for each in names(found))
    x = torch.randn(3, 6)
    with torch.no_grad():
        assert torch.equal(found.run([x])[0], changed.run([x])[0])
