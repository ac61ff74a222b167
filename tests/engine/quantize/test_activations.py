"""Rounding in the graph is what ONNX computes, and what a range promises."""

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import Tensor, nn

from tests.engine.quantize.networks import (
    SETTING,
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
from tests.zoo.exported import export, randomized
from worker.engine.data import Rows
from worker.engine.graph.weights import weight_calls
from worker.engine.program import Program, attribute
from worker.engine.quantize.activations import LEAST_SCALE, with_dynamic, with_static
from worker.engine.quantize.calibrate import Range, calibrated
from worker.engine.quantize.fold import folded
from worker.engine.quantize.points import Point, points_of


class Through(nn.Module):
    """What a call reads comes out as the call reads it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, self.eye)

    def __init__(self):
        super().__init__()
        self.eye = nn.Parameter(torch.eye(4))


def _through() -> Program:
    return Program.from_exported(export(Through(), torch.randn(2, 4)))


def _rounded(found: Range, values: Tensor) -> Tensor:
    """What becomes of values in a program that rounds them to a range."""
    original = _THROUGH
    static, names = with_static(original, points_of(original, [*weight_calls(original)]), [found])
    assert names == ("eye_input",)
    with torch.no_grad():
        return static.run([values])[0]


_THROUGH = _through()
_STATIC, _ = with_static(
    _THROUGH, points_of(_THROUGH, [*weight_calls(_THROUGH)]), [Range.of(-1.0, 1.0)]
)
_DYNAMIC, _ = with_dynamic(_THROUGH, [*weight_calls(_THROUGH)])

_ends = st.tuples(st.floats(-1e4, 0, width=32), st.floats(0, 1e4, width=32)).filter(
    lambda ends: ends[1] - ends[0] > 1e-3
)
_numbers = st.lists(st.floats(-2e4, 2e4, width=32), min_size=8, max_size=8)


def _round_to(found: Range, values: Tensor) -> Tensor:
    """The same, with one program for all ranges."""
    numbers = {"eye_input_scale": found.scale, "eye_input_zero_point": float(found.zero_point)}
    held = {name: torch.tensor(number) for name, number in numbers.items()}
    with torch.no_grad(), _STATIC.holding(held):
        return _STATIC.run([values.view(-1, 4)])[0].flatten()


@given(ends=_ends, numbers=_numbers)
def test_within_the_range_rounding_moves_by_half_a_step_at_most(ends, numbers):
    found = Range.of(*ends)
    values = torch.tensor(numbers).clamp(*ends)
    error = (_round_to(found, values).double() - values.double()).abs()
    assert (error <= found.scale / 2 + 1e-6 * (ends[1] - ends[0])).all()


@given(ends=_ends, numbers=_numbers)
def test_rounding_is_monotone_and_idempotent_and_keeps_zero_and_its_bounds(ends, numbers):
    found = Range.of(*ends)
    values = torch.tensor(numbers).sort().values
    once = _round_to(found, values)
    assert (once.diff() >= 0).all()
    assert torch.equal(_round_to(found, once), once)
    assert (_round_to(found, torch.zeros(8)) == 0).all()
    low = (-128 - found.zero_point) * found.scale
    high = (127 - found.zero_point) * found.scale
    assert once.min() >= low - 1e-6 * abs(low)
    assert once.max() <= high + 1e-6 * abs(high)
    far = _round_to(found, torch.tensor([-1e9, 1e9] * 4))
    assert far[0] == pytest.approx(low, rel=1e-6)
    assert far[1] == pytest.approx(high, rel=1e-6)


def _session(nodes, constants=()):
    graph = helper.make_graph(
        nodes,
        "rounding",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        list(constants),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    # As written: a pair of both would be optimized away.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


@pytest.mark.parametrize("ends", [(-1.0, 3.0), (0.0, 6.0), (-7.3, 0.0), (-1e-3, 2e-3)])
def test_static_rounding_is_that_of_onnx(ends):
    found = Range.of(*ends)
    session = _session(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ],
        [
            helper.make_tensor("scale", TensorProto.FLOAT, [], [found.scale]),
            helper.make_tensor("zero", TensorProto.INT8, [], [found.zero_point]),
        ],
    )
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(500, 4, generator=draw) * max(map(abs, ends)) * 1.5
    halves = (torch.arange(-300, 300) + 0.5).view(-1, 4) * found.scale
    for each in (values, halves):
        (expected,) = session.run(None, {"x": each.numpy()})
        assert torch.equal(_rounded(found, each), torch.from_numpy(expected))


@pytest.mark.parametrize(("low", "high"), [(-1, 3), (0.5, 6), (-7.3, -1), (-1e-3, 2e-3)])
def test_dynamic_rounding_is_that_of_onnx(low, high):
    session = _session(
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ]
    )
    draw = torch.Generator().manual_seed(0)
    values = torch.rand(500, 4, generator=draw) * (high - low) + low
    (expected,) = session.run(None, {"x": values.numpy()})
    with torch.no_grad():
        found = _DYNAMIC.run([values])[0]
    assert torch.equal(found, torch.from_numpy(expected))
    assert not torch.equal(found, values)


def test_nothing_but_zeros_is_rounded_to_zeros():
    with torch.no_grad():
        assert torch.equal(_DYNAMIC.run([torch.zeros(3, 4)])[0], torch.zeros(3, 4))
    assert float(_DYNAMIC.module.eye_input_least) == pytest.approx(LEAST_SCALE)


def _static(original: Program, rows: Rows) -> tuple[Program, list[Point], tuple[str, ...]]:
    points = points_of(original, list(weight_calls(original)))
    ranges = calibrated(original, points, config(), rows, SETTING)
    return *with_static(original, points, ranges), points


_NETWORKS = {
    "residual": (lambda: folded(residual()), (3, 8, 8)),
    "residual_in_place": (lambda: folded(residual(inplace=True)), (3, 8, 8)),
    "encoder": (lambda: program(encoder(), 5, 16, dims=(0, 1)), (5, 16)),
    "mlp": (lambda: program(mlp(), 6), (6,)),
}


@pytest.mark.parametrize("name", _NETWORKS)
@pytest.mark.parametrize("how", ["static", "dynamic"])
def test_a_network_computes_nearly_the_same(name, how):
    make, shape = _NETWORKS[name]
    original, rows = make(), normal(*shape)
    before = tensors(original)
    calls = list(weight_calls(original))
    found, names = _static(original, rows)[:2] if how == "static" else with_dynamic(original, calls)
    error = distance(found, original, rows)
    assert 0 < error < 1e-3
    assert found.input_sizes == original.input_sizes
    endings = ("_scale", "_zero_point") if how == "static" else ("_least",)
    added = {name + ending for name in names for ending in endings}
    assert tensors(found).keys() == before.keys() | added
    assert tensors(original).keys() == before.keys()
    again = Program.from_exported(found.export())
    assert all(map(torch.equal, outputs(again, rows), outputs(found, rows)))


def test_buffers_are_read_as_their_description_says():
    original = folded(residual())
    found, names, _ = _static(original, normal(3, 8, 8))
    assert names[0] == "stem.input"
    for name in names:
        scale, zero_point = (attribute(found.module, name + e) for e in ("_scale", "_zero_point"))
        assert isinstance(scale, Tensor)
        assert isinstance(zero_point, Tensor)
        assert scale.shape == zero_point.shape == ()
        assert scale.dtype == zero_point.dtype == torch.float32
        nodes = [n for n in found.graph.find_nodes(op="get_attr") if n.target == f"{name}_scale"]
        users = [user for node in nodes for user in node.users]
        assert [str(user.target) for user in users] == ["aten.div.Tensor", "aten.mul.Tensor"]


def test_an_output_that_calls_read_as_well_is_itself_and_rounded_to_them():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            made = self.first(x)
            return made, self.second(made)

    original, rows = program(Both(), 6), normal(6)
    points = [p for p in points_of(original, [*weight_calls(original)]) if p.name == "second.input"]
    found, _ = with_static(original, points, [Range.of(-1.0, 1.0)])
    expected, given_out = outputs(original, rows), outputs(found, rows)
    assert torch.equal(given_out[0], expected[0])
    assert not torch.equal(given_out[1], expected[1])


def test_calls_share_what_is_rounded_unless_it_is_written_in_between():
    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = (nn.Linear(6, 6) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            x = x.tanh()
            first, second = self.one(x), self.two(x)
            x.mul_(3.0)
            return first + second + self.three(x)

    original = program(Written(), 6)
    found, names = with_dynamic(original, list(weight_calls(original)))
    assert names == ("one.input", "three.input")
    assert distance(found, original, normal(6)) < 1e-4


def test_what_is_rounded_is_there_before_the_first_call_that_reads_it():
    class Late(nn.Module):
        """Holds its layers in another order than it calls them in, as Whisper does."""

        def __init__(self):
            super().__init__()
            self.key, self.query = nn.Linear(6, 8), nn.Linear(6, 8)

        def forward(self, x: Tensor) -> Tensor:
            query = self.query(x) * 0.5
            return query + self.key(x)

    original, rows = program(Late(), 6), normal(6)
    calls = sorted(weight_calls(original), key=lambda call: call.parameter)
    found, names = with_dynamic(original, calls)
    assert len(names) == 1
    assert 0 < distance(found, original, rows) < 1e-3


def test_a_bound_that_is_computed_is_not_left_out():
    class Sized(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).clamp(0, x.shape[0] / 32))

    original, rows = program(Sized(), 6), normal(6, count=32)
    found, _, _ = _static(original, rows)
    # Of fewer rows than those that it was calibrated with the bound cuts off more than codes do.
    few = Rows((rows.inputs[0][:4],), None)
    assert 0 < distance(found, original, few) < 1e-2


def test_convolutions_are_not_rounded_by_the_moment():
    original = folded(residual())
    _, names = with_dynamic(original, list(weight_calls(original)))
    assert names == ("head.input",)


def test_a_recurrent_classifier_has_its_head_rounded():
    tokens = np.random.default_rng(0).integers(0, 11, (48, 5))
    exported = export(randomized(Sequence()), torch.from_numpy(tokens[:2]))
    original, rows = Program.from_exported(exported), Rows((tokens,), None)
    found, names, _ = _static(original, rows)
    assert names == ("head.input",)
    assert 0 < distance(found, original, rows) < 1e-3


def test_nothing_to_round_changes_nothing():
    original = program(nn.Tanh(), 6)
    assert with_static(original, [], []) == (original, ())
    assert with_dynamic(original, []) == (original, ())


class Clamped(nn.Module):
    """A layer, a clamp behind it, and a layer that reads what is left."""

    def __init__(self, clamp: nn.Module):
        super().__init__()
        self.first, self.clamp, self.last = nn.Linear(6, 8), clamp, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.clamp(self.first(x) * 4))


def _by_hand(module: Clamped, values: Tensor, found: Range) -> Tensor:
    clamped = module.clamp(module.first(values) * 4)
    codes = (torch.round(clamped / found.scale) + found.zero_point).clamp(-128, 127)
    return module.last((codes - found.zero_point) * found.scale)


@pytest.mark.parametrize(
    ("clamp", "high", "is_left_out"),
    [
        (nn.ReLU(), 3.0, True),
        (nn.ReLU(inplace=True), 3.0, True),
        (nn.ReLU6(), 6.0, True),
        (nn.ReLU6(inplace=True), 2.5, True),
        (nn.ReLU6(), 8.0, False),
        (nn.Hardtanh(-1.0, 1.0), 1.0, True),
        (nn.Hardtanh(-1.0, 1.0), 2.0, False),
        (nn.Hardtanh(-np.inf, np.inf), 3.0, True),
        (nn.Hardtanh(-1e30, 3e38), 1e-4, True),
        (nn.Sequential(nn.ReLU(), nn.Dropout()), 3.0, True),
        (nn.LeakyReLU(), 3.0, False),
    ],
    ids=str,
)
def test_a_clamp_that_codes_make_superfluous_is_left_out(clamp, high, is_left_out):
    module = randomized(Clamped(clamp))
    original = program(module, 6)
    point = points_of(original, list(weight_calls(original)))[1]
    found = Range.of(0.0, high)
    rounded, _ = with_static(original, [point], [found])
    values = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = _by_hand(module, values, found)
        torch.testing.assert_close(rounded.run([values])[0], expected, rtol=1e-5, atol=1e-5)
    left = {str(node.target) for node in rounded.graph.nodes}
    kept = {"aten.relu.default", "aten.relu_.default", "aten.hardtanh.default",
            "aten.hardtanh_.default", "aten.relu6.default", "aten.leaky_relu.default"}  # fmt: skip
    assert bool(left & kept) is not is_left_out


def test_a_clamp_that_is_an_output_too_stays():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            made = self.first(x).relu_()
            return made, self.last(made)

    original, rows = program(Both(), 6), normal(6)
    found, _, _ = _static(original, rows)
    made, read = outputs(found, rows)
    assert made.min() == 0
    assert 0 < (read - outputs(original, rows)[1]).abs().max() < 0.1


def test_a_clamp_in_place_stays_where_others_see_what_it_writes():
    class Seen(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            made = self.first(x)
            halves = made.view(-1, 2, 4).relu_()
            return self.last(halves), made * 2

    original, rows = program(Seen(), 6), normal(6)
    found, _, _ = _static(original, rows)
    for made, expected in zip(outputs(found, rows), outputs(original, rows), strict=True):
        assert 0 < (made - expected).abs().max() < 0.1
    assert outputs(found, rows)[1].min() == 0
