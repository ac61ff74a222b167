"""The quantize step as a whole: what it changes, what it keeps, and what it says."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.engine.quantize.networks import (
    SETTING,
    Residual,
    Sequence,
    config,
    distance,
    encoder,
    mlp,
    normal,
    outputs,
    program,
    residual,
    tensors,
)
from tests.zoo.exported import export, pattern_program
from tests.zoo.patterns import PATTERNS
from worker.engine.changed import KEPT
from worker.engine.coded.chain import made_at, read_back
from worker.engine.coded.rounding import rounded_activations
from worker.engine.data import Rows
from worker.engine.errors import DataMismatchError, NothingToChangeError
from worker.engine.program import Program
from worker.engine.quantize import quantize
from worker.engine.recovery.setting import Setting


def tokens() -> Rows:
    return Rows((np.random.default_rng(0).integers(0, 11, (48, 6)),), None)


def sequence() -> Program:
    exported = export(Sequence().eval(), torch.randint(11, (2, 6)))
    return Program.from_exported(exported)


NETWORKS = {
    "convolutions": (lambda: residual(), lambda: normal(3, 8, 8)),
    "recurrent": (sequence, tokens),
    "attention": (lambda: program(encoder(), 6, 16), lambda: normal(6, 16)),
    "mlp": (lambda: program(mlp(), 6), lambda: normal(6)),
}

ASKED = {
    "int8": {},
    "static int8": {"activations": "static"},
    "dynamic int8": {"activations": "dynamic"},
    "all that prepares": {
        "activations": "static",
        "equalize": True,
        "bias_correction": True,
        "smooth": 0.5,
    },
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("name", NETWORKS)
def test_eight_bits_change_outputs_little(name: str, asked: str):
    make, make_rows = NETWORKS[name]
    before, rows = make(), make_rows()
    held = tensors(before)
    changed = quantize(before, config(**ASKED[asked]), rows, SETTING)
    assert distance(changed.program, before, rows) < 2e-3
    assert changed.program.packed.weights
    assert changed.program.input_sizes == before.input_sizes
    # The step leaves what it was given alone.
    assert all(torch.equal(held[key], each) for key, each in tensors(before).items())


@pytest.mark.parametrize("name", NETWORKS)
def test_what_it_says_of_itself_is_found_in_the_graph(name: str):
    make, make_rows = NETWORKS[name]
    for activations in ("static", "dynamic"):
        changed = quantize(make(), config(activations=activations), make_rows(), SETTING)
        found = list(rounded_activations(changed.program))
        assert (
            len(found)
            == len(changed.program.packed.static) + len(changed.program.packed.dynamic)
            > 0
        )
        assert all(each.is_dynamic == (activations == "dynamic") for each in found)
        for about in changed.program.packed.weights:
            assert changed.program.shape(made_at(changed.program, about)) == about.shape
            assert read_back(changed.program, about).weight.shape == about.shape


@pytest.mark.parametrize("name", sorted(PATTERNS)[::4])
def test_whatever_a_model_is_made_of_is_quantized_or_kept_with_a_reason(name: str):
    before = pattern_program(name)
    try:
        changed = quantize(before, config(weights="int4"), None, SETTING)
    except NothingToChangeError:
        return  # All of it is too small, or of another kind.
    assert all((line.reason is None) == (line.became != KEPT) for line in changed.layers)
    names = {line.layer for line in changed.layers}
    large = {
        name
        for name, each in before.module.named_parameters()
        if each.dim() > 1 and each.is_floating_point()
    }
    assert names == large
    expected, found = (each.run(each.example_leaves) for each in (before, changed.program))
    assert [each.shape for each in found] == [each.shape for each in expected]


def test_a_line_says_what_a_layer_became():
    changed = quantize(residual(), config(weights="int4"), normal(3, 8, 8), SETTING)
    lines = {line.layer: line for line in changed.layers}
    first = lines["first.weight"]
    assert first.became == "int4 per_channel"
    assert (first.bytes_before, first.bytes_after) == (8 * 72 * 4, 8 * 72 // 2 + 8 * 4)
    assert first.reason is None
    assert first.weight_error is not None
    assert 0 < first.weight_error < 0.2
    assert first.output_error is not None
    assert 0 < first.output_error < 0.5


def test_without_data_nothing_is_said_of_outputs():
    changed = quantize(residual(), config(), None, SETTING)
    assert all(line.output_error is None for line in changed.layers)


def test_layers_are_kept_by_name_and_by_sensitivity():
    before, rows = residual(), normal(3, 8, 8)
    by_name = quantize(before, config(keep_float=("head.*", "nothing.*")), rows, SETTING)
    kept = {line.layer: line.reason for line in by_name.layers if line.became == KEPT}
    assert kept == {"head.weight": "keep_float has 'head.*'"}
    assert by_name.warnings == ("keep_float: nothing matches 'nothing.*'",)
    assert "head.weight" in dict(by_name.program.module.named_parameters())
    asked = config(weights="int2", float_layers=2)
    by_change = quantize(before, asked, rows, SETTING)
    kept_lines = [line for line in by_change.layers if line.became == KEPT]
    assert len(kept_lines) == 2
    whole = quantize(before, config(weights="int2"), rows, SETTING)
    assert distance(by_change.program, before, rows) < distance(whole.program, before, rows)


def test_weights_that_are_no_products_stay():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 64)
            self.scale = nn.Parameter(torch.rand(4, 16))
            self.tiny = nn.Linear(64, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.tiny(self.layer(x) * self.scale.flatten())

    changed = quantize(
        program(Scaled(), 16),
        config(weights="codebook", granularity="per_tensor", codebook_size=64),
        None,
        SETTING,
    )
    reasons = {line.layer: line.reason for line in changed.layers}
    assert reasons["layer.weight"] is None
    assert "no product with a weight" in str(reasons["scale"])
    assert "no less room" in str(reasons["tiny.weight"])


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_weight_that_holds_no_numbers_stays(number: float):
    net = program(mlp(), 6).copy()
    with torch.no_grad():
        net.module.get_parameter("2.weight")[3, 1] = number
    changed = quantize(net, config(equalize=True), normal(6), SETTING)
    lines = {line.layer: line for line in changed.layers}
    assert "NaN or infinity" in str(lines["2.weight"].reason)
    numbers = [lines[name].weight_error for name in ("0.weight", "4.weight")]
    assert all(each is not None and each < 0.01 for each in numbers)
    assert lines["4.weight"].output_error is None
    before, after = outputs(net, normal(6)), outputs(changed.program, normal(6))
    assert torch.equal(before[0].isfinite(), after[0].isfinite())


@pytest.mark.parametrize("rounding", ["nearest", "compensated"])
def test_each_weight_is_told_once(rounding: str):
    told: list[tuple[int, int]] = []
    setting = Setting(seed=0, on_progress=lambda done, total: told.append((done, total)))
    asked = config(rounding=rounding)
    weights = quantize(sequence(), asked, tokens(), setting).program.packed.weights
    assert told == [(done, len(weights)) for done in range(1, len(weights) + 1)]


def test_a_tied_weight_is_stored_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(11, 16)
            self.head = nn.Linear(16, 11, bias=False)
            self.head.weight = self.table.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.table(x))

    net = Program.from_exported(export(Tied().eval(), torch.randint(11, (2, 5))))
    changed = quantize(net, config(), tokens(), SETTING)
    [about] = changed.program.packed.weights
    assert set(about.names) == {"table.weight", "head.weight"}
    assert sum("codes" in name for name in changed.program.module.state_dict()) == 1


@pytest.mark.parametrize("rounding", ["nearest", "compensated"])
def test_zeros_that_were_made_on_purpose_stay_zero(rounding: str):
    net = program(mlp(), 6).copy()
    with torch.no_grad():
        net.module.get_parameter("2.weight")[:, ::2] = 0.0
    setting = Setting(seed=0, sparse=frozenset({"2.weight"}))
    for weights in ("int8", "int4", "ternary", "codebook"):
        asked = config(weights=weights, codebook_size=4, rounding=rounding)
        changed = quantize(net, asked, normal(6), setting)
        [about] = [each for each in changed.program.packed.weights if each.name == "2.weight"]
        assert bool((read_back(changed.program, about).weight[:, ::2] == 0).all())


def test_nothing_to_quantize_is_refused_with_reasons():
    with pytest.raises(NothingToChangeError, match=r"stem\.weight: keep_float has '\*'"):
        quantize(program(Residual(), 3, 8, 8), config(keep_float=("*",)), None, SETTING)


def test_a_calibration_of_too_few_rows_is_refused():
    with pytest.raises(DataMismatchError, match="at least 16"):
        quantize(residual(), config(activations="static"), normal(3, 8, 8, count=7), SETTING)
    with pytest.raises(DataMismatchError, match="sample_count of 3") as error:
        quantize(residual(), config(activations="static", sample_count=3), normal(3, 8, 8), SETTING)
    assert error.value.pointer == "/sample_count"
