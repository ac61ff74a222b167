"""What few bits do not hold: masks, large numbers, long sums, and what cannot be helped."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.engine.precision.nets import MASKED, changed, program_of, tokens_of
from tests.engine.precision.test_cast import near, run
from worker.engine.changed import KEPT
from worker.engine.data import Rows
from worker.engine.difference import LOW_PRECISION, relative_error
from worker.engine.errors import DataMismatchError, NotFiniteError
from worker.engine.precision import casting
from worker.engine.precision.look import Seen

aten = torch.ops.aten


@pytest.mark.parametrize("name", sorted(MASKED))
@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16], ids=str)
def test_masks_of_padding_that_no_example_has(name, low):
    torch.manual_seed(0)
    original = program_of(MASKED[name](), tokens_of())
    program = changed(original, str(low).removeprefix("torch.")).program
    tokens = tokens_of(3)
    tokens[0, 4:] = 0
    tokens[1] = 0  # All of it: equal shares, and not NaN.
    expected, found = run(original, [tokens]), run(program, [tokens])
    assert bool(expected[0].isfinite().all())
    assert relative_error(found, expected) <= LOW_PRECISION[low]


def test_scores_are_multiplied_in_few_bits_though_their_mask_is_float32():
    torch.manual_seed(0)
    program = changed(program_of(MASKED["WrittenMask"](), tokens_of()), "float16").program
    products = program.graph.find_nodes(op="call_function", target=aten.matmul.default)
    assert {node.meta["val"].dtype for node in products} == {torch.float16}


class Scaled(nn.Module):
    """The middle layer gives numbers of about ``size``."""

    def __init__(self, size: float):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.middle = nn.Linear(16, 16)
        self.last = nn.Linear(16, 4)
        with torch.no_grad():
            self.middle.weight.mul_(size)
            self.last.weight.mul_(1 / size)

    def forward(self, x):
        return self.last(self.middle(self.first(x).relu()))


def test_layers_whose_numbers_overflow_are_float32_with_a_reason():
    torch.manual_seed(0)
    original = program_of(Scaled(1e6), torch.randn(4, 16))
    found = changed(original, "float16")
    lines = {line.layer: line for line in found.layers}
    assert lines["first.weight"].became == "float16"
    for name in ("middle.weight", "last.weight"):
        assert lines[name].became == KEPT
        assert "float16 ends at 6.55e+04" in lines[name].reason
    assert near(found.program, original, limit=LOW_PRECISION[torch.float16])
    # The range of bfloat16 is that of float32.
    assert {line.became for line in changed(original, "bfloat16").layers} == {"bfloat16"}


def test_rows_show_what_example_inputs_do_not():
    torch.manual_seed(0)
    original = program_of(Scaled(1e3), torch.randn(4, 16))
    assert {line.became for line in changed(original, "float16").layers} == {"float16"}
    inputs = np.random.default_rng(0).normal(0, 1e3, (40, 16)).astype(np.float32)
    found = changed(original, "float16", Rows((inputs,), None), sample_count=16, batch_size=5)
    assert {line.became for line in found.layers} >= {KEPT}
    leaves = [torch.from_numpy(inputs)]
    assert near(found.program, original, leaves, limit=LOW_PRECISION[torch.float16])


class Cancels(nn.Module):
    """Sums of large numbers that leave a small one."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(400, 4, bias=False)
        self.outer = nn.Linear(4, 4)
        with torch.no_grad():
            self.inner.weight.copy_((torch.arange(400) % 2 * 2.0 - 1.0) * 40)

    def forward(self, x):
        return self.outer(self.inner(x.repeat(1, 400)))


def test_sums_that_overflow_on_the_way_are_float32():
    torch.manual_seed(0)
    found = changed(program_of(Cancels(), torch.full((2, 1), 8.0)), "float16")
    [line] = [line for line in found.layers if line.layer == "inner.weight"]
    assert line.became == KEPT
    assert "sums reach 1.28e+05" in line.reason


class Differs(nn.Module):
    """Two layers whose large outputs are nearly the same: rounding is all that is left."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)
        self.second.load_state_dict(self.first.state_dict())
        with torch.no_grad():
            self.second.weight.add_(1e-3 * torch.randn(16, 16))

    def forward(self, x):
        return self.first(x) - self.second(x)


def test_layers_are_kept_until_outputs_are_near():
    torch.manual_seed(0)
    original = program_of(Differs(), torch.randn(4, 16))
    found = changed(original, "bfloat16")
    assert not found.warnings
    kept = [line for line in found.layers if line.became == KEPT]
    assert kept
    assert all("too far" in line.reason for line in kept)
    assert near(found.program, original, limit=4 * LOW_PRECISION[torch.bfloat16])


def test_the_first_call_that_is_not_finite_is_found_and_so_is_the_next(monkeypatch):
    """Whatever looking at the layers one by one has missed."""
    monkeypatch.setattr(casting, "look", lambda *_: Seen())
    torch.manual_seed(0)
    original = program_of(Scaled(1e6), torch.randn(4, 16))
    found = changed(original, "float16")
    lines = {line.layer: line for line in found.layers}
    assert lines["first.weight"].became == "float16"
    assert lines["middle.weight"].reason == "it gives NaN or infinity in that type"
    assert near(found.program, original, limit=4 * LOW_PRECISION[torch.float16])


def test_what_is_never_finite_is_refused_with_what_to_do(monkeypatch):
    original = program_of(nn.Linear(4, 4), torch.randn(2, 4))
    monkeypatch.setattr(casting, "_difference", lambda *_: float("inf"))
    with pytest.raises(NotFiniteError, match="ask for bfloat16") as caught:
        changed(original, "float16")
    assert caught.value.pointer == "/dtype"


def test_rows_that_the_model_does_not_run_on_are_the_data_s_fault():
    original = program_of(
        nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)), torch.ones(2, 1).long()
    )
    with pytest.raises(DataMismatchError, match="vocabulary"):
        changed(original, "float16", Rows((np.full((4, 1), 99),), None))
