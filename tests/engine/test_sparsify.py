"""Zeros that keep their place: elements, N of M, blocks; and the file that stores them."""

import json
import struct
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from secateur import load_sparse
from secateur.errors import WeightsFileInvalid
from tests.zoo.exported import export, pattern_coupling, randomized
from worker.engine.config import FinetuneConfig, OverrideConfig, PruneConfig
from worker.engine.criteria import CRITERIA
from worker.engine.data import Rows
from worker.engine.errors import CountsDifferError, NothingToPruneError, TargetUnreachableError
from worker.engine.graph.coupling import couple
from worker.engine.program import Program
from worker.engine.prune.cut import cut
from worker.engine.prune.plan import decide
from worker.engine.prune.sparsify import SparsePlan, check_zeros, decide_zeros, zeroed
from worker.engine.recovery.finetune import finetune
from worker.engine.recovery.setting import Setting
from worker.engine.save import save_sparse, save_weights


def program_of(module: nn.Module, *shape: int) -> Program:
    return Program.from_exported(export(module.eval(), torch.ones(2, *shape)))


def zeros(program: Program, **asked) -> tuple[SparsePlan, Program]:
    """A plan of zeros, done and checked."""
    plan = decide_zeros(couple(program), PruneConfig(algorithm="zero", **asked), seed=0)
    result = zeroed(program, plan.masks)
    check_zeros(program, result, plan)
    return plan, result


def layers(*weights: list[list[float]]) -> Program:
    """Linear layers in a row, of these weights, without biases."""
    made = []
    for weight in weights:
        layer = nn.Linear(len(weight[0]), len(weight), bias=False)
        layer.weight.data = torch.tensor(weight)
        made.append(layer)
    return program_of(nn.Sequential(*made), len(weights[0][0]))


def weight_of(program: Program, name: str) -> list[list[float]]:
    return program.module.get_parameter(name).tolist()


SMALL, LARGE = [[1.0, -2.0, 3.0, 4.0], [5.0, 6.0, -7.0, 8.0]], [[10.0, -20.0], [30.0, 40.0]]


# Elements.


def test_a_pattern_that_fits_no_weight_says_of_each_why():
    with pytest.raises(NothingToPruneError, match=r"0\.weight has fewer than 8 inputs"):
        zeros(layers(SMALL, LARGE), pattern="2:8")


def test_global_ranks_all_weights_together_and_local_each_by_itself():
    program = layers(SMALL, LARGE)
    _, both = zeros(program, sparsity=0.5, normalization="none", floor=0.0)
    assert weight_of(both, "0.weight") == [[0, 0, 0, 0], [0, 0, -7, 8]]
    assert weight_of(both, "1.weight") == LARGE
    _, each = zeros(program, sparsity=0.5, scope="local")
    assert weight_of(each, "0.weight") == [[0, 0, 0, 0], [5, 6, -7, 8]]
    assert weight_of(each, "1.weight") == [[0, 0], [30, 40]]


def test_a_floor_holds_and_the_others_give_more():
    # Three of twelve have to go, the lowest of all; the first weight keeps six of its eight.
    _, result = zeros(layers(SMALL, LARGE), sparsity=0.25, normalization="none", floor=0.75)
    assert weight_of(result, "0.weight") == [[0, 0, 3, 4], [5, 6, -7, 8]]
    assert weight_of(result, "1.weight") == [[0, -20], [30, 40]]


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize(("floor", "sparsity"), [(None, 0.95), (0.5, 0.6)])
def test_more_zeros_than_floors_allow_are_refused(scope, floor, sparsity):
    asked = {"sparsity": sparsity, "scope": scope, "floor": floor}
    if floor is None and scope == "local":
        zeros(layers(SMALL, LARGE), **asked)  # No floor there by default.
        return
    with pytest.raises(TargetUnreachableError, match="lower floor") as caught:
        zeros(layers(SMALL, LARGE), **asked)
    assert caught.value.pointer == "/budget/sparsity"


def test_a_threshold_is_of_normalized_scores_and_respects_the_floor():
    # The mean of the second is 25: 10 and 20 are below 0.9 of it.
    _, result = zeros(layers(SMALL, LARGE), threshold=0.9, floor=0.0)
    assert weight_of(result, "0.weight") == [[0, 0, 0, 0], [5, 6, -7, 8]]
    assert weight_of(result, "1.weight") == [[0, 0], [30, 40]]
    _, held = zeros(layers(SMALL, LARGE), threshold=100.0, floor=0.25)
    assert weight_of(held, "0.weight") == [[0, 0, 0, 0], [0, 0, -7, 8]]
    assert weight_of(held, "1.weight") == [[0, 0], [0, 40]]


def test_parameters_count_what_is_not_zero_with_biases_and_overrides():
    net = randomized(nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 10)))
    program = program_of(net, 10)
    half = (OverrideConfig("1.*", sparsity=0.5),)
    plan, result = zeros(program, parameters=0.4, overrides=half, floor=0.0)
    # 430 parameters in all, of which 172 may remain.
    left = sum(int((p != 0).sum()) for p in result.module.parameters())
    assert left == 172
    assert int((~plan.masks["1.weight"]).sum()) == 100


def test_parameters_beyond_the_floor_are_refused_with_what_can_be_reached():
    net = randomized(nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 10)))
    # 400 of 430 may become zero but for a tenth of them: 70 / 430 stay.
    with pytest.raises(TargetUnreachableError, match=r"floor 0\.163 remain") as caught:
        zeros(program_of(net, 10), parameters=0.1)
    assert caught.value.pointer == "/budget/parameters"


def test_the_first_override_that_matches_counts_and_the_others_are_named():
    overrides = (
        OverrideConfig("1.weight", sparsity=0.25),
        OverrideConfig("1.*", sparsity=0.75),
        OverrideConfig("none", threshold=1.0),
    )
    plan, result = zeros(layers(SMALL, LARGE), overrides=overrides)
    assert weight_of(result, "0.weight") == SMALL
    assert weight_of(result, "1.weight") == [[0, -20], [30, 40]]
    assert [warning.split("'")[1] for warning in plan.warnings] == ["1.*", "none"]


def test_what_is_excluded_stays_and_all_of_it_is_nothing_to_prune():
    plan, result = zeros(layers(SMALL, LARGE), sparsity=0.5, exclude=("0.*", "x"), scope="local")
    assert weight_of(result, "0.weight") == SMALL
    assert "'x'" in plan.warnings[0]
    with pytest.raises(NothingToPruneError, match="excluded") as caught:
        zeros(layers(SMALL), sparsity=0.5, exclude=("*",))
    assert caught.value.pointer == "/exclude"


def test_what_is_zero_already_counts():
    program = layers([[0.0, 0.0, 1.0, 2.0], [0.0, 3.0, 4.0, 5.0]])
    plan, result = zeros(program, sparsity=0.5)
    assert weight_of(result, "0.weight") == [[0, 0, 0, 2], [0, 3, 4, 5]]
    assert int((~plan.masks["0.weight"]).sum()) == 4


# N of M.


@pytest.mark.parametrize(("most", "of"), [(2, 4), (1, 4), (1, 2), (4, 8), (3, 5)])
@pytest.mark.parametrize(
    ("module", "shape", "name"),
    [
        (lambda: nn.Linear(20, 6), (20,), "weight"),
        (lambda: nn.Conv2d(11, 6, 3), (11, 5, 5), "weight"),
        (lambda: nn.Sequential(nn.LSTM(9, 7, batch_first=True)), (3, 9), "0.weight_hh_l0"),
    ],
)
def test_of_each_m_inputs_the_n_largest_stay(most, of, module, shape, name):
    net = randomized(module())
    program = program_of(Firsts(net), *shape)
    name = f"net.{name}"
    before = program.module.get_parameter(name).detach()
    plan, result = zeros(program, pattern=f"{most}:{of}")
    after = result.module.get_parameter(name).detach()
    size = before.shape[1]
    if size < of:
        assert torch.equal(after, before)
        assert any(f"{name} has fewer than {of} inputs" in each for each in plan.warnings)
        return
    for start in range(0, size - size % of, of):
        run, kept = before[:, start : start + of], after[:, start : start + of]
        largest = run.abs().sort(1).values[:, -most:]
        torch.testing.assert_close(kept.abs().sort(1).values[:, -most:], largest, rtol=0, atol=0)
        assert int((kept != 0).sum(1).max()) == most
    tail = size % of
    assert torch.equal(after[:, size - tail :], before[:, size - tail :])
    assert any(f"the last {tail} stay whole" in each for each in plan.warnings) == bool(tail)


class Firsts(nn.Module):
    """The first of what a module gives, whatever else it does."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        found = self.net(x)
        return found[0] if isinstance(found, tuple) else found


class Products(nn.Module):
    """Weights that have their inputs first, or behind a permutation."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(8, 6))
        self.kernel = nn.Parameter(torch.zeros(3, 3, 4, 5))
        self.up = nn.ConvTranspose2d(8, 4, 2)
        self.out = nn.Parameter(torch.zeros(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.up((x @ self.matrix @ self.matrix.t()).permute(0, 3, 1, 2))
        x = nn.functional.conv2d(x, self.kernel.permute(3, 2, 0, 1)).mean((2, 3))
        return nn.functional.linear(x, self.out.t())


@pytest.mark.parametrize(
    ("name", "inputs"), [("matrix", 0), ("kernel", 2), ("up.weight", 0), ("out", 0)]
)
def test_inputs_are_what_a_call_sums_over(name, inputs):
    program = program_of(randomized(Products()), 4, 4, 8)
    _, result = zeros(program, pattern="1:2")
    flags = (result.module.get_parameter(name) != 0).movedim(inputs, -1)
    pairs = flags[..., : flags.shape[-1] // 2 * 2].unflatten(-1, (-1, 2)).sum(-1)
    assert int(pairs.min()) == int(pairs.max()) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_two_of_four_is_what_a_gpu_computes_with():
    net = randomized(nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64)))
    _, result = zeros(program_of(net, 128), pattern="2:4")
    weight = result.module.get_parameter("0.weight").detach().half().cuda()
    x = torch.randn(64, 128).half().cuda()
    sparse = torch.sparse.to_sparse_semi_structured(weight)
    expected = nn.functional.linear(x, weight)
    torch.testing.assert_close(nn.functional.linear(x, sparse), expected, rtol=1e-2, atol=1e-2)


# Blocks.


def test_blocks_go_as_one_and_edges_count_as_what_they_are():
    # Three rows by five columns in blocks of 2 x 2: those at the edges have two elements or one.
    weight = [[9.0, 9.0, 1.0, 1.0, 5.0], [9.0, 9.0, 1.0, 1.0, 5.0], [8.0, 8.0, 7.0, 7.0, 0.5]]
    _, result = zeros(layers(weight), pattern="2x2", sparsity=1 / 3)
    # Five of fifteen: the corner alone, and the block of ones.
    assert weight_of(result, "0.weight") == [[9, 9, 0, 0, 5], [9, 9, 0, 0, 5], [8, 8, 7, 7, 0]]


def test_blocks_of_a_convolution_are_outputs_by_inputs_with_their_kernel():
    conv = nn.Conv2d(2, 4, 2, bias=False)
    conv.weight.data = torch.arange(1.0, 33).view(4, 2, 2, 2)
    _, result = zeros(program_of(conv, 2, 3, 3), pattern="2x4", sparsity=0.25)
    after = result.module.get_parameter("weight")
    # The first input of the first two outputs.
    assert bool((after[:2, 0] == 0).all())
    assert int((after == 0).sum()) == 8


def test_blocks_of_a_matrix_with_inputs_first_lie_across():
    program = program_of(randomized(Products()), 4, 4, 8)
    _, result = zeros(program, pattern="1x8", scope="local", sparsity=0.5)
    assert sorted((result.module.get_parameter("matrix") != 0).sum(0).tolist()) == [0] * 3 + [8] * 3


@pytest.mark.parametrize("normalization", ["none", "mean", "standardized"])
def test_a_block_of_zeros_goes_first_under_every_normalization(normalization):
    weight = [[0.0, 0.0, 1.0, 0.0, 2.0, 2.0, 3.0, 3.0]]
    _, result = zeros(
        layers(weight), pattern="1x2", sparsity=0.5, normalization=normalization, floor=0.0
    )
    assert weight_of(result, "0.weight") == [[0, 0, 0, 0, 2, 2, 3, 3]]


# What comes behind.


def labeled(rows: int) -> Rows:
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(rows, 3, 8, 8, generator=draw).numpy()
    return Rows((inputs,), torch.randint(5, (rows,), generator=draw).numpy())


def test_zeros_stay_zero_through_training_and_a_cut():
    program = pattern_coupling("residual").program.copy()
    plan, result = zeros(program, sparsity=0.5)
    finetune(
        result,
        FinetuneConfig(epochs=2, learning_rate=0.01, batch_size=8),
        labeled(32),
        Setting(seed=0, sparse=plan.masks.keys()),
    )
    for name, mask in plan.masks.items():
        weight = result.module.get_parameter(name)
        assert torch.equal(weight == 0, ~mask)
        assert not torch.equal(weight[mask], program.module.get_parameter(name)[mask])
    coupling = couple(result)
    smaller = cut(coupling, decide(coupling, PruneConfig(channel_ratio=0.25), seed=0).keep)
    kept = decide(coupling, PruneConfig(channel_ratio=0.25), seed=0).keep
    [stem] = [g for g in coupling.groups if g.name == "stem.weight"]
    expected = plan.masks["stem.weight"][kept[stem.channels]]
    assert torch.equal(smaller.module.get_parameter("stem.weight") != 0, expected)


def test_rounds_add_zeros_and_end_where_one_shot_does():
    program = layers([[float(at) for at in range(1, 41)]], [[1.0], [2.0]])
    asked = PruneConfig(algorithm="zero", sparsity=0.5, floor=0.0)
    _, once = zeros(program, sparsity=0.5, floor=0.0)
    counts = []
    for progress in ((0.0, 0.5), (0.5, 0.9), (0.9, 1.0)):
        config = replace(asked, progress=progress)
        plan = decide_zeros(couple(program), config, seed=0)
        after = zeroed(program, plan.masks)
        check_zeros(program, after, plan)
        counts.append(sum(int((p == 0).sum()) for p in after.module.parameters()))
        program = after
    assert counts == [11, 19, 21]  # Of 42: 10.5, 18.9, 21.
    assert weight_of(program, "0.weight") == weight_of(once, "0.weight")


def _rows(name: str) -> Rows:
    draw = torch.Generator().manual_seed(0)
    shape = {"residual": (3, 8, 8), "vision_transformer": (7, 5)}[name]
    labels = torch.randint(3, (16,), generator=draw)
    return Rows((torch.randn(16, *shape, generator=draw).numpy(),), labels.numpy())


_OPTIONS = {
    "wanda": {"sample_count": 16, "batch_size": 8},
    **{
        name: {"sample_count": 16, "batch_size": 8, "targets": "labels"}
        for name in ("taylor", "fisher", "hessian", "snip")
    },
}


@pytest.mark.parametrize("criterion", [name for name, each in CRITERIA.items() if each.weights])
@pytest.mark.parametrize("name", ["residual", "vision_transformer"])
def test_every_criterion_of_weights_reaches_its_budget(criterion, name):
    config = PruneConfig(
        algorithm="zero",
        criterion=criterion,
        options=_OPTIONS.get(criterion, {}),
        sparsity=0.5,
    )
    coupling = pattern_coupling(name)
    plan = decide_zeros(coupling, config, seed=0, rows=_rows(name))
    check_zeros(coupling.program, zeroed(coupling.program, plan.masks), plan)
    total = sum(mask.numel() for mask in plan.masks.values())
    assert sum(int((~mask).sum()) for mask in plan.masks.values()) == round(total / 2)


@pytest.mark.parametrize("name", ["tied_weights", "tied_vocabulary", "reused"])
def test_a_tied_weight_has_one_mask_and_stays_tied(name):
    program = pattern_coupling(name).program
    plan, result = zeros(program, sparsity=0.5, scope="local")
    tied = {}
    for each, parameter in result.module.named_parameters(remove_duplicate=False):
        tied.setdefault(id(parameter), []).append(each)
    for names in tied.values():
        assert sum(each in plan.masks for each in names) <= 1
    assert len(tied) == len(list(program.module.parameters()))


@pytest.mark.parametrize("mistake", ["more", "fewer", "changed", "elsewhere"])
def test_zeros_that_are_not_the_planned_ones_are_noticed(mistake):
    program = pattern_coupling("mlp").program
    plan, result = zeros(program, pattern="2:4")
    weight = result.module.get_parameter("0.weight")
    stays = plan.masks["0.weight"].nonzero()[0].tolist()
    goes = (~plan.masks["0.weight"]).nonzero()[0].tolist()
    with torch.no_grad():
        if mistake == "more":
            weight[tuple(stays)] = 0.0
        elif mistake == "fewer":
            weight[tuple(goes)] = 1e-6
        elif mistake == "changed":
            weight[tuple(stays)] += 1e-6
        else:
            result.module.get_parameter("5.bias")[0] = 0.0
    with pytest.raises(CountsDifferError):
        check_zeros(program, result, plan)


# The file.


class Held(nn.Module):
    """Buffers of every kind."""

    def __init__(self):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(64, 64, generator=draw))
        self.weight.data[torch.rand(64, 64, generator=draw) < 0.7] = 0.0
        for dtype in (torch.float16, torch.bfloat16, torch.float64):
            self.register_buffer(f"of_{str(dtype)[6:]}", self.weight.detach().to(dtype))
        self.register_buffer("whole", (self.weight.detach() * 100).long())
        self.register_buffer("bytes", (self.weight.detach() * 100).to(torch.int8))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("scalar", torch.tensor(0.0))
        self.register_buffer("nothing", torch.zeros(5, 7))
        self.register_buffer("flags", torch.zeros(100, dtype=torch.bool))
        self.register_buffer("special", torch.tensor([torch.nan, torch.inf, -0.0] + [0.0] * 61))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def test_every_tensor_comes_back_bit_for_bit_and_small(tmp_path):
    program = program_of(Held(), 64)
    save_sparse(program, tmp_path / "sparse")
    save_weights(program, tmp_path / "dense")
    found = load_sparse(tmp_path / "sparse")
    expected = program.module.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        raw = [each.contiguous().view(-1).view(torch.uint8) for each in (found[name], tensor)]
        assert torch.equal(*raw), name
    sizes = [(tmp_path / name).stat().st_size for name in ("sparse", "dense")]
    assert sizes[0] < sizes[1] / 2
    names = {name for name in load_file(tmp_path / "sparse") if ":" not in name}
    assert names == {"empty"}  # Of all others the zeros take a bit.


def written(header: object, body: bytes = b"") -> bytes:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + body


META = {"format": "secateur-sparse-1"}
BITS = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
VALUES = {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]}
BODY = b"\x01" + struct.pack("<f", 1.0)


def sparse(
    shape: object, bits: object = BITS, values: object = VALUES, body: bytes = BODY
) -> bytes:
    meta = {**META, "w": shape}
    return written({"__metadata__": meta, "w:bits": bits, "w:values": values}, body)


def dense(**about: object) -> bytes:
    given = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **about}
    return written({"__metadata__": META, "w": given}, b"\0" * 4)


HOSTILE = {
    "nothing": b"",
    "seven bytes": b"1234567",
    "no header": struct.pack("<Q", 100),
    "a huge header": struct.pack("<Q", 2**63) + b"{}",
    "a cut header": written({"__metadata__": META})[:-3],
    "no JSON": written(b"{]"),
    "no UTF-8": written(b'{"\xff": {}}'),
    "deep JSON": written(b"[" * 100_000),
    "a huge number": written(b'{"w": {"dtype": "F32", "shape": [' + b"9" * 5000 + b"]}}"),
    "a list": written([]),
    "a list of tensors": written({"w": []}),
    "another format": written({"__metadata__": {"format": "pt"}}),
    "no format": written({"w": {}}),
    "metadata that is a list": written({"__metadata__": []}),
    "an unknown dtype": dense(dtype="F4"),
    "a dtype that is a list": dense(dtype=[]),
    "a name in torch": dense(dtype="load"),
    "a negative size": dense(shape=[-1]),
    "two negative sizes": dense(shape=[-1, -1]),
    "a huge size": dense(shape=[2**62]),
    "huge sizes around a zero": dense(shape=[2**62, 2**62, 0], data_offsets=[0, 0]),
    "a size that is a text": dense(shape=["a"]),
    "a size that is half": dense(shape=[1.5]),
    "a shape that is a number": dense(shape=4),
    "an infinite size": written(
        b'{"__metadata__": {"format": "secateur-sparse-1"}, "w": '
        b'{"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 4]}}'
    ),
    "offsets behind the end": dense(data_offsets=[0, 400], shape=[100]),
    "offsets before the start": dense(data_offsets=[-4, 0]),
    "offsets the wrong way round": dense(data_offsets=[4, 0]),
    "one offset": dense(data_offsets=[0]),
    "offsets that do not fit the shape": dense(shape=[2]),
    "offsets that overlap": written(
        {
            "__metadata__": META,
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        },
        b"\0" * 12,
    ),
    "a shape that is no text": sparse([1]),
    "a shape that is no JSON": sparse("[1"),
    "a shape of texts": sparse('["1"]'),
    "a shape of truths": sparse("[true]"),
    "a negative shape": sparse("[-1]"),
    "a shape with more elements than bits": sparse("[9]"),
    "a shape with fewer elements than bits": sparse("[0]"),
    "a huge shape": sparse("[281474976710655, 281474976710655]"),
    "a shape with a huge number": sparse("[" + "9" * 5000 + "]"),
    "a deep shape": sparse("[" * 100_000),
    "bits that are floats": sparse("[1]", bits={**VALUES, "data_offsets": [1, 5]}),
    "more bits than values": sparse("[8]", body=b"\x03" + BODY[1:]),
    "fewer bits than values": sparse("[8]", body=b"\x00" + BODY[1:]),
    "a bit behind the last": sparse("[1]", body=b"\x03" + BODY[1:]),
    "values of two dimensions": sparse("[8]", values={**VALUES, "shape": [1, 1]}),
    "no bits": written(
        {"__metadata__": {**META, "w": "[1]"}, "w:values": {**VALUES, "data_offsets": [0, 4]}},
        b"\0" * 4,
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(name, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(WeightsFileInvalid):
        load_sparse(path)


def test_every_cut_and_every_changed_byte_of_the_header_is_refused_or_read(tmp_path):
    path = tmp_path / "file"
    tensors = {"w:bits": torch.tensor([1], dtype=torch.uint8), "w:values": torch.tensor([2.0])}
    save_file(tensors, path, metadata={**META, "w": "[2, 3]"})
    whole = path.read_bytes()
    assert load_sparse(path)["w"].tolist() == [[2, 0, 0], [0, 0, 0]]
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(WeightsFileInvalid):
            load_sparse(path)
    draw = torch.Generator().manual_seed(0)
    for at in range(len(whole)):
        new = int(torch.randint(256, (), generator=draw))
        path.write_bytes(whole[:at] + bytes([new]) + whole[at + 1 :])
        try:
            load_sparse(path)
        except WeightsFileInvalid:
            continue
