"""Casting any program: it runs, it is near, it is small, and its casts are few."""

from functools import cache

import pytest
import torch
from torch import nn

from tests.engine.precision.nets import changed, program_of
from tests.zoo.exported import pattern_program
from tests.zoo.patterns import PATTERNS
from worker.engine.changed import KEPT
from worker.engine.difference import LOW_PRECISION, relative_error
from worker.engine.graph.counts import MACS, count
from worker.engine.graph.coupling import couple
from worker.engine.precision import rewrite
from worker.engine.program import Program

aten = torch.ops.aten
# Half of them: each takes a third of a second, and its type is one of three.
NAMES = sorted(PATTERNS)[::2]
DTYPES = ("float16", "bfloat16", "float8_e4m3fn")
COMPUTED = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float8_e4m3fn": torch.bfloat16}


def dtype_for(name: str) -> str:
    """Each pattern has one of the types: all with all would take a minute."""
    return DTYPES[NAMES.index(name) % len(DTYPES)]


@cache
def cast_pattern(name: str):
    return changed(pattern_program(name), dtype_for(name))


def run(program: Program, leaves=None):
    with torch.no_grad():
        return program.run(program.example_leaves if leaves is None else leaves)


def near(program: Program, original: Program, leaves=None, *, limit: float) -> bool:
    expected = run(original, leaves)
    found = [one.to(other.dtype) for one, other in zip(run(program, leaves), expected, strict=True)]
    return relative_error(found, expected) <= limit


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_near_and_of_the_type_that_they_were(name):
    original, low = pattern_program(name), COMPUTED[dtype_for(name)]
    limit = 0.2 if dtype_for(name) == "float8_e4m3fn" else LOW_PRECISION[low]
    program = cast_pattern(name).program
    assert near(program, original, limit=limit)
    assert [each.dtype for each in run(program)] == [each.dtype for each in run(original)]


@pytest.mark.parametrize("name", NAMES)
def test_products_compute_in_few_bits(name):
    low = COMPUTED[dtype_for(name)]
    found = {
        node.name: node.meta["val"].dtype
        for node in cast_pattern(name).program.graph.nodes
        if node.target in MACS and isinstance(node.meta["val"], torch.Tensor)
    }
    # What multiplies angles of whole numbers alone is exact, and stays so.
    assert low in found.values() or not found
    kept = [line for line in cast_pattern(name).layers if line.became == KEPT]
    assert all("float32" in line.reason for line in kept)


@pytest.mark.parametrize("name", NAMES)
def test_no_cast_is_undone_and_none_is_repeated(name):
    casts = cast_pattern(name).program.graph.find_nodes(op="call_function", target=aten.to.dtype)
    before = pattern_program(name).graph.find_nodes(op="call_function", target=aten.to.dtype)
    own = [node for node in casts if len(casts) > len(before)]
    assert len({(node.args[0], node.args[1]) for node in own}) >= len(own) - len(before)
    undone = [
        node
        for node in own
        if node.args[0].target == aten.to.dtype
        and node.args[0].args[0].meta["val"].dtype == node.args[1]
    ]
    assert not undone


@pytest.mark.parametrize("name", NAMES[::6])
def test_the_program_that_is_given_stays_as_it_is(name):
    original = pattern_program(name)
    code, weights = original.module.code, dict(original.module.state_dict())
    again = changed(original, dtype_for(name))
    assert original.module.code == code
    assert all(each is not None and each.equal(weights[n]) for n, each in weights.items())
    first = cast_pattern(name).program
    assert again.program.module.code == first.module.code
    assert again.layers == cast_pattern(name).layers


@pytest.mark.parametrize("name", NAMES[::6])
def test_it_exports_again_with_its_dynamic_sizes(name):
    program = cast_pattern(name).program
    again = Program.from_exported(program.export())
    assert again.input_sizes == pattern_program(name).input_sizes
    assert all(one.equal(other) for one, other in zip(run(again), run(program), strict=True))
    assert count(couple(again)) == count(couple(program))


def test_parameters_are_as_many_and_bytes_are_half():
    torch.manual_seed(0)
    original = program_of(
        nn.Sequential(nn.Linear(8, 64), nn.LayerNorm(64), nn.Linear(64, 8)), torch.randn(2, 8)
    )
    before = count(couple(original))
    halved = count(couple(changed(original, "float16").program))
    assert halved.parameters == before.parameters
    assert halved.macs == before.macs
    # Those of the norm stay: 2 times 64, in 4 bytes each.
    assert halved.size_bytes == before.size_bytes // 2 + 64 * 4


def test_inputs_and_outputs_are_of_the_type_on_request():
    original = pattern_program("residual")
    program = changed(original, "bfloat16", cast_inputs=True).program
    assert program.example_leaves[0].dtype == torch.bfloat16
    assert run(program)[0].dtype == torch.bfloat16
    # Data stays float32, and is cast on its way in.
    leaves = [torch.randn(3, *original.example_leaves[0].shape[1:])]
    assert near(program, original, leaves, limit=LOW_PRECISION[torch.bfloat16])


def test_norms_and_sums_are_float32_and_so_are_their_parameters():
    program = changed(pattern_program("residual"), "float16").program
    wide = [n for n in program.graph.nodes if n.target == aten.batch_norm.default]
    assert wide
    assert all(node.meta["val"].dtype == torch.float32 for node in wide)
    held = {name: each.dtype for name, each in program.module.state_dict().items()}
    assert {held[f"norm.{each}"] for each in ("weight", "bias", "running_var")} == {torch.float32}


def test_a_norm_that_is_written_out_is_float32_with_its_scale():
    program = changed(pattern_program("written_rms_norm"), "float16").program
    assert program.module.get_parameter("scale").dtype == torch.float32
    norm = [node for node in program.graph.nodes if node.target == aten.mul.Tensor]
    assert {node.meta["val"].dtype for node in norm} == {torch.float32}
    products = [node for node in program.graph.nodes if node.target == aten.linear.default]
    assert {node.meta["val"].dtype for node in products} == {torch.float16}


def test_a_pattern_keeps_layers_in_float32_and_one_without_a_match_is_told():
    found = changed(pattern_program("residual"), "float16", keep_float=("inner.*", "nothing*"))
    lines = {line.layer: line for line in found.layers}
    assert lines["inner.weight"].became == KEPT
    assert lines["inner.weight"].reason == "named in keep_float"
    assert lines["outer.weight"].became == "float16"
    assert found.program.module.get_parameter("inner.weight").dtype == torch.float32
    assert [warning for warning in found.warnings if "nothing*" in warning]


def test_the_error_of_a_weight_is_that_of_rounding():
    program = pattern_program("residual")
    for line in changed(program, "float16").layers:
        weight = program.module.get_parameter(line.layer).detach().double()
        rounded = weight.float().half().double()
        expected = (rounded - weight).norm() / weight.norm()
        assert line.weight_error == pytest.approx(float(expected), rel=1e-6)
        assert (line.bytes_before, line.bytes_after) == (weight.numel() * 4, weight.numel() * 2)
        assert 0 < line.output_error < 1e-3


class Writes(nn.Module):
    """Writes into a buffer of its own making, and counts its calls."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls.add_(1.0)
        made = torch.zeros(x.shape[0], 6)
        part = self.first(x)
        made[:, :3] = part[:, :3]
        early = self.second(made)
        made[:, 3:] = part[:, 3:].relu_()
        return early + self.second(made) + part, self.calls


def test_what_is_written_in_place_is_read_as_it_is_by_then():
    torch.manual_seed(0)
    original = program_of(Writes(), torch.randn(2, 6))
    program = changed(original, "float16").program
    assert near(program, original, [torch.randn(5, 6)], limit=LOW_PRECISION[torch.float16])
    assert program.module.get_buffer("calls").dtype == torch.float32
    assert run(program)[1].item() == run(program)[1].item() == 1.0


class SpelledOut(nn.Module):
    """Types are named, made, followed and mixed."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.table = nn.Embedding(9, 6)

    def forward(self, x, places):
        y = self.inner(x.to(torch.float32)).type_as(x)
        y = y + torch.arange(6, dtype=torch.float32) + torch.full((6,), 2.0) + torch.ones_like(y)
        y = torch.cat([y, self.table(places), x.double().float()], 1)
        y = y.to(torch.float32, copy=True) * torch.tensor(0.5) + x.new_zeros(18)
        return y.softmax(-1, dtype=torch.float32), y.double(), (y > 0).float(), y.long()


def test_types_that_are_spelled_out():
    torch.manual_seed(0)
    original = program_of(SpelledOut(), torch.randn(2, 6), torch.tensor([1, 2]))
    for low in (torch.float16, torch.bfloat16):
        program = changed(original, str(low).removeprefix("torch.")).program
        found, expected = run(program), run(original)
        assert [each.dtype for each in found] == [each.dtype for each in expected]
        assert relative_error(found[:2], expected[:2]) <= LOW_PRECISION[low]


class Angles(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.register_buffer("speeds", 1000.0 ** -torch.linspace(0, 1, 8))

    def forward(self, x, places):
        return self.inner(x) * (places[:, None].float() * self.speeds).sin()


def test_positions_and_their_angles_are_exact():
    torch.manual_seed(0)
    places = torch.tensor([2001, 2003])
    original = program_of(Angles(), torch.randn(2, 8), places)
    program = changed(original, "bfloat16").program
    assert program.module.get_buffer("speeds").dtype == torch.float32
    # 2001 is 2000 in bfloat16: with a sine of that, every number would be another.
    assert near(program, original, limit=2e-2)


def test_a_tied_weight_stays_one_tensor():
    program = changed(pattern_program("tied_vocabulary"), "float8_e4m3fn").program
    names = [name for name, _ in program.module.named_parameters(remove_duplicate=False)]
    tensors = {id(each) for _, each in program.module.named_parameters(remove_duplicate=False)}
    assert len(tensors) < len(names)


def test_what_torch_does_not_compute_in_the_type_is_float32(monkeypatch):
    original = pattern_program("residual")
    compute = rewrite._Writer.compute

    def refusing(self, copied, args, kwargs):
        if copied.target == aten.conv2d.default and args[0].dtype == torch.float16:
            raise NotImplementedError("no kernel")
        return compute(self, copied, args, kwargs)

    monkeypatch.setattr(rewrite._Writer, "compute", refusing)
    found = changed(original, "float16")
    lines = {line.layer: line for line in found.layers}
    assert lines["stem.weight"].became == KEPT
    assert "torch does not compute it" in lines["stem.weight"].reason
    assert lines["head.weight"].became == "float16"


def test_a_model_of_few_bits_already_stays_as_it_is():
    original = program_of(nn.Sequential(nn.Linear(4, 4)).half(), torch.randn(2, 4).half())
    found = changed(original, "float16")
    assert [line.reason for line in found.layers] == ["it is float16 already"]
    assert near(found.program, original, limit=0.0)
