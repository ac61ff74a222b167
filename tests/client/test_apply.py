"""A plan on the user's own module: the same numbers as the downloaded program, bit for bit."""

import copy
import json
from functools import partial
from hashlib import sha256

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import utils
from torch.nn.utils import parametrizations, parametrize, prune

import secateur
from secateur import Applied, Plan, PlanMismatch, apply_plan
from tests.zoo.exported import example, export, randomized
from tests.zoo.patterns import PATTERNS
from worker.engine.config import ApplyPlanConfig, GroupConfig, PruneConfig
from worker.engine.graph.coupling import Coupling, couple
from worker.engine.program import Program
from worker.engine.prune.cut import cut
from worker.engine.prune.given import given
from worker.engine.prune.plan import decide

SHA256 = "0" * 64
HALF = PruneConfig(criterion="random", scope="local", channel_ratio=0.5)


def coupled(module: nn.Module, *inputs: torch.Tensor) -> Coupling:
    # Of a copy: an exported program shares its weights with the module in memory.
    return couple(Program.from_exported(export(copy.deepcopy(module).eval(), *inputs)))


def pattern(name: str) -> tuple[nn.Module, Coupling]:
    torch.manual_seed(0)
    module = randomized(PATTERNS[name].build())
    return module, coupled(module, example(PATTERNS[name]))


def document(coupling: Coupling, config: PruneConfig = HALF) -> dict:
    """As it is downloaded: through JSON."""
    plan = decide(coupling, config, seed=3).as_json(SHA256)
    return json.loads(Plan.model_validate(plan).model_dump_json())


def downloaded(coupling: Coupling, plan: dict) -> Program:
    """What the service makes of a plan that is submitted."""
    groups = tuple(GroupConfig(g["id"], tuple(g["keep"])) for g in plan["channel_groups"])
    config = ApplyPlanConfig(SHA256, groups)
    taken = given(coupling, config, model_sha256=SHA256, seed=0)
    return cut(coupling, taken.keep)


@torch.no_grad()
def assert_the_same(module: nn.Module, program: Program, *batches: torch.Tensor) -> None:
    for batch in batches:
        assert torch.equal(module(batch), program.run([batch])[0])
    ours, theirs = module.state_dict(), program.module.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
        assert tensor.is_contiguous()


FOLLOWS = [
    "mlp",
    "residual",
    "concatenation",
    "grouped_and_depthwise",
    "shared_inputs",
    "squeeze_excite",
    "encoder_decoder",
    "sub_pixel",
    "shuffled",
    "chunk",
    "reused",
    "tied_weights",
    "normalized_planes",
    "padded_shortcut",
    "recurrent_stack",
    "plain_recurrence",
]


@pytest.mark.parametrize("name", FOLLOWS)
@pytest.mark.parametrize(
    "config", [HALF, PruneConfig(scope="global", channel_ratio=0.3)], ids=["half", "third"]
)
def test_a_module_follows_its_plan_bit_for_bit(name, config):
    module, coupling = pattern(name)
    plan = document(coupling, config)
    apply_plan(module, plan)
    batches = [example(PATTERNS[name], rows) for rows in (1, 5)]
    assert_the_same(module, downloaded(coupling, plan), *batches)


def test_a_layer_says_what_it_has_now():
    module, coupling = pattern("grouped_and_depthwise")
    applied = apply_plan(module, document(coupling))
    assert (module.depthwise.in_channels, module.depthwise.groups) == (4, 4)
    assert (module.grouped.in_channels, module.grouped.groups) == (4, 2)
    assert module.grouped.out_channels == module.norm.num_channels == 6
    assert module.norm.num_groups == 2
    assert module.head.in_features == 4
    assert "grouped.groups" in applied.resized
    assert applied.notes == ()
    # What the layers say is enough to build them again.
    again = nn.Conv2d(4, 6, 3, groups=2)
    assert again.weight.shape == module.grouped.weight.shape


def test_recurrent_layers_say_what_they_have_now():
    module, coupling = pattern("recurrent_stack")
    apply_plan(module, document(coupling))
    assert (module.lstm.hidden_size, module.lstm.input_size) == (4, 5)
    assert (module.gru.hidden_size, module.gru.input_size) == (3, 8)
    assert repr(module.gru) == "GRU(8, 3, batch_first=True)"


class Layers(nn.Module):
    """One layer of each kind that has sizes of its own."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 8)
        self.norm = nn.LayerNorm(8)
        self.rms = nn.RMSNorm(8)
        self.first = nn.Linear(8, 6)
        self.rectified = nn.PReLU(6)
        self.second = nn.Conv1d(6, 8, 3, padding=1)
        self.instance = nn.InstanceNorm1d(8, affine=True, track_running_stats=True)
        self.up = nn.ConvTranspose1d(8, 12, 2, stride=2, groups=4)
        self.flat = nn.BatchNorm1d(12)
        self.head = nn.Linear(12, 3)

    def forward(self, tokens):
        x = self.first(self.rms(self.norm(self.table(tokens))))
        x = self.rectified(x.transpose(1, 2))
        x = self.flat(self.up(self.instance(self.second(x))))
        return self.head(x.mean(2))


def test_every_kind_of_layer_follows():
    module = randomized(Layers())
    tokens = torch.randint(9, (4, 5))
    coupling = coupled(module, tokens)
    plan = document(coupling)
    apply_plan(module, plan)
    assert_the_same(module, downloaded(coupling, plan), tokens, tokens[:1])
    sizes = {
        name: (each.extra_repr(), [tuple(p.shape) for p in each.parameters()])
        for name, each in module.named_children()
    }
    assert sizes["table"] == ("9, 4", [(9, 4)])
    assert module.norm.normalized_shape == module.rms.normalized_shape == (4,)
    assert module.rectified.num_parameters == 3
    assert (module.up.in_channels, module.up.out_channels, module.up.groups) == (4, 6, 2)
    assert module.instance.num_features == 4
    assert module.flat.num_features == 6


def test_an_edited_plan_is_the_same_on_both_paths():
    module, coupling = pattern("residual")
    plan = document(coupling)
    stem, inner = plan["channel_groups"]
    stem["keep"] = [7, 0, 3]
    inner["keep"] = list(range(12))
    apply_plan(module, plan)
    assert module.stem.weight.shape[0] == 3
    assert module.inner.out_channels == 12
    assert_the_same(module, downloaded(coupling, plan), example(PATTERNS["residual"], 3))


def test_a_plan_is_read_from_a_file_and_from_a_model(tmp_path):
    module, coupling = pattern("mlp")
    plan = document(coupling)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    shapes = set()
    for source in (plan, Plan.model_validate(plan), path, str(path)):
        mine = copy.deepcopy(module)
        apply_plan(mine, source)
        shapes.add(tuple(tuple(p.shape) for p in mine.parameters()))
    assert len(shapes) == 1


def test_tensors_keep_what_they_are():
    module, coupling = pattern("tied_weights")
    module.middle.bias.requires_grad_(False)
    module.head.weight.grad = torch.ones_like(module.head.weight)
    parameter = module.encode.weight
    plan = document(coupling)
    apply_plan(module, plan)
    assert module.encode.weight is module.decode.weight is parameter
    assert not module.middle.bias.requires_grad
    assert module.head.weight.requires_grad
    assert module.head.weight.grad is None
    module(torch.ones(2, 6)).sum().backward()
    assert module.head.weight.grad.shape == module.head.weight.shape


def test_another_precision_stays():
    module, coupling = pattern("mlp")
    module.double()
    apply_plan(module, document(coupling))
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float64}


def test_what_code_slices_by_hand_can_be_kept():
    module, coupling = pattern("written_in_place")
    plan = document(coupling)
    plan["channel_groups"][0]["keep"] = [0, 1, 2, 3, 5]
    apply_plan(module, plan)
    assert_the_same(module, downloaded(coupling, plan), example(PATTERNS["written_in_place"], 2))


class Attention(nn.Module):
    """Heads whose number is an attribute, and whose width stands in the code."""

    def __init__(self):
        super().__init__()
        self.heads = 6
        self.qkv = nn.Linear(12, 3 * 6 * 4)
        self.out = nn.Linear(24, 5)

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, 4).permute(2, 0, 3, 1, 4)
        x = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).flatten(2).mean(1))


def size(before, after, module=""):
    return {
        "module": module,
        "operator": "aten.view.default",
        "before": before,
        "after": after,
    }


def test_a_size_that_one_attribute_holds_is_set():
    module = randomized(Attention())
    rows = torch.randn(3, 7, 12)
    coupling = coupled(module, rows)
    plan = document(coupling)
    applied = apply_plan(module, plan)
    assert module.heads == 3
    assert applied.resized == ("heads", "qkv.out_features", "out.in_features")
    assert applied.notes == ()
    assert_the_same(module, downloaded(coupling, plan), rows, rows[:1])


class OpenWidth(Attention):
    """The width of heads is left open, and an attribute is -1 for another reason."""

    def __init__(self):
        super().__init__()
        self.dim = -1

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).flatten(2).mean(1))


@pytest.mark.parametrize("has_it", [True, False])
def test_a_size_that_is_left_open_is_no_size_of_an_attribute(has_it):
    module = randomized(OpenWidth())
    if not has_it:
        del module.dim
    rows = torch.randn(3, 7, 12)
    coupling = coupled(module, rows)
    plan = document(coupling)
    assert [s["before"][-1] for s in plan["sizes"]] == [-1]
    assert [s["after"][-1] for s in plan["sizes"]] == [4]
    applied = apply_plan(module, plan)
    assert getattr(module, "dim", -1) == -1
    assert applied.resized == ("heads", "qkv.out_features", "out.in_features")
    assert applied.notes == ()
    assert_the_same(module, downloaded(coupling, plan), rows)


@pytest.mark.parametrize("value", [torch.arange(6.0), np.arange(6)], ids=["tensor", "array"])
def test_an_attribute_that_is_no_number_does_not_mind(value):
    module = randomized(Attention())
    module.offsets = value
    rows = torch.randn(3, 7, 12)
    coupling = coupled(module, rows)
    plan = document(coupling)
    apply_plan(module, plan)
    assert module.heads == 3
    assert module.offsets is value
    assert_the_same(module, downloaded(coupling, plan), rows)


class Parallel(nn.Module):
    """Heads and channels, side by side before one layer."""

    def __init__(self):
        super().__init__()
        self.heads = 6
        self.qkv = nn.Linear(12, 3 * 6 * 4)
        self.up = nn.Linear(12, 10)
        self.out = nn.Linear(24 + 10, 5)

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, 4).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.out(torch.cat([attended, self.up(x).relu()], 2).mean(1))


def test_a_dimension_is_cut_by_each_of_its_groups():
    module = randomized(Parallel())
    rows = torch.randn(3, 7, 12)
    coupling = coupled(module, rows)
    plan = document(coupling)
    heads, channels = plan["channel_groups"]
    assert (heads["name"], channels["name"]) == ("qkv.weight", "up.weight")
    # 24 columns of heads, ten of channels: each group has -1 where the other has its own.
    columns = [
        member["channels"]
        for group in (heads, channels)
        for member in group["members"]
        if member["parameter"] == "out.weight"
    ]
    assert columns == [
        [head for head in range(6) for _ in range(4)] + [-1] * 10,
        [-1] * 24 + list(range(10)),
    ]
    stay = [
        *(4 * head + at for head in heads["keep"] for at in range(4)),
        *(24 + channel for channel in channels["keep"]),
    ]
    expected = module.out.weight.detach()[:, stay].clone()
    apply_plan(module, plan)
    assert torch.equal(module.out.weight, expected)
    assert module.out.in_features == len(stay) == 12 + 5
    assert_the_same(module, downloaded(coupling, plan), rows, rows[:1])


def test_an_index_of_two_groups_goes_with_either():
    module, coupling = pattern("mlp")
    plan = document(coupling)
    group = plan["channel_groups"][0]
    whole, halves = list(range(16)), [at // 2 for at in range(16)]
    pairs = [member | {"channels": halves} for member in group["members"]]
    second = group | {"id": "pairs", "channel_count": 8, "keep": [0, 1, 2], "members": pairs}
    plan["channel_groups"] = [group | {"keep": whole[1:]}, second]
    expected = module[0].weight.detach()[1:6].clone()
    apply_plan(module, plan)
    assert torch.equal(module[0].weight, expected)


class WithoutWeights(nn.Module):
    """Norms that own no tensor: the program's sizes alone say what is left."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(5, 8)
        self.groups = nn.GroupNorm(4, 8, affine=False)
        self.inner = nn.Linear(8, 12)
        self.features = nn.LayerNorm(12, elementwise_affine=False)
        self.wide = nn.Linear(12, 8)
        self.apart = nn.Unflatten(1, (4, 2))
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        x = self.features(self.inner(self.groups(self.stem(x))))
        return self.head(self.apart(self.wide(x)).sum(1))


def test_a_layer_without_tensors_follows_the_sizes():
    module = randomized(WithoutWeights())
    rows = torch.randn(3, 5)
    coupling = coupled(module, rows)
    plan = document(coupling)
    kept = {group["name"]: len(group["keep"]) for group in plan["channel_groups"]}
    assert kept == {"stem.weight": 2, "inner.weight": 6, "wide.weight": 1}
    apply_plan(module, plan)
    assert (module.groups.num_groups, module.groups.num_channels) == (2, 4)
    assert module.features.normalized_shape == (6,)
    assert_the_same(module, downloaded(coupling, plan), rows)


@pytest.mark.parametrize("affine", [True, False])
def test_a_group_norm_of_one_group_stays_one(affine):
    norm = nn.GroupNorm(1, 8, affine=affine)
    module = randomized(nn.Sequential(nn.Conv1d(3, 8, 1), norm, nn.Conv1d(8, 2, 1)))
    rows = torch.randn(2, 3, 5)
    coupling = coupled(module, rows)
    plan = document(coupling)
    apply_plan(module, plan)
    assert (norm.num_groups, module[0].out_channels) == (1, 4)
    assert_the_same(module, downloaded(coupling, plan), rows)


def test_a_size_that_is_not_clear_is_told_and_not_set():
    module = randomized(Attention())
    module.others = 6
    plan = document(coupled(module, torch.randn(3, 7, 12)))
    plan["sizes"] = [size([3, 6], [3, 3]), size([1], [2], module="gone")]
    applied = apply_plan(module, plan)
    assert module.heads == module.others == 6
    lost, unclear = applied.notes
    assert "no part 'gone'" in lost
    assert "its attributes heads, others hold it" in unclear


class TwoBlocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = Attention()
        self.widen = nn.Linear(5, 12)
        self.second = Attention()

    def forward(self, x):
        return self.second(self.widen(self.first(x)).unsqueeze(1))


def two_blocks() -> tuple[nn.Module, Coupling, dict]:
    """Blocks of the same sizes: four heads of the first stay, two of the second."""
    module = randomized(TwoBlocks())
    coupling = coupled(module, torch.randn(3, 7, 12))
    groups = tuple(
        GroupConfig(group.id, tuple(range(4 if group.name.startswith("first") else 2)))
        for group in coupling.groups
        if group.granularity == "heads"
    )
    taken = given(coupling, ApplyPlanConfig(SHA256, groups), model_sha256=SHA256, seed=0)
    return module, coupling, json.loads(json.dumps(taken.as_json(SHA256)))


def test_a_plan_says_what_its_sizes_are_for():
    module, coupling, plan = two_blocks()
    kept = ",".join(
        f'["{group["id"]}",[{",".join(str(channel) for channel in group["keep"])}]]'
        for group in plan["channel_groups"]
    )
    assert plan["keep_sha256"] == sha256(f"[{kept}]".encode()).hexdigest()
    assert not Plan.model_validate(plan).is_edited
    assert apply_plan(module, plan).notes == ()
    assert (module.first.heads, module.second.heads) == (4, 2)
    assert_the_same(module, downloaded(coupling, plan), torch.randn(2, 7, 12))


def test_sizes_of_before_an_edit_are_not_set():
    module, _, plan = two_blocks()
    first, second = [g for g in plan["channel_groups"] if g["granularity"] == "heads"]
    # As many parameters go as before.
    first["keep"], second["keep"] = second["keep"], first["keep"]
    applied = apply_plan(module, plan)
    assert module.first.qkv.out_features == 3 * 2 * 4
    assert module.first.heads == module.second.heads == 6
    [note] = applied.notes
    assert "the plan was edited after it was made" in note
    assert "(first, second): none was set" in note
    assert not any("heads" in path for path in applied.resized)


def test_a_plan_that_changed_no_size_is_edited_too():
    module, _, plan = two_blocks()
    plan["sizes"] = []
    plan["channel_groups"][-1]["keep"].pop()
    assert "the plan was edited after it was made" in apply_plan(module, plan).notes[0]


def test_sizes_of_a_plan_that_says_they_are_for_another_are_not_set():
    module, _, plan = two_blocks()
    plan["keep_sha256"] = "0" * 64
    applied = apply_plan(module, plan)
    assert module.first.heads == module.second.heads == 6
    assert "its keep_sha256 is of another `keep`" in applied.notes[0]


# Layers that compute their weight.

COMPUTED = {
    "masked": partial(prune.l1_unstructured, amount=3),
    "masked_rows": partial(prune.ln_structured, amount=1, n=2, dim=0),
    "spectral": utils.spectral_norm,
    "weight": utils.weight_norm,
    "weight_as_one": partial(utils.weight_norm, dim=None),
    "parametrized_spectral": parametrizations.spectral_norm,
    "parametrized_weight": parametrizations.weight_norm,
}


class Computed(nn.Module):
    """Two layers in a row that compute a weight, and one that does not."""

    def __init__(self, first, second, last, name, compute):
        super().__init__()
        self.first = compute(first, name)
        self.second = compute(second, name)
        self.last = last

    def forward(self, x):
        x = self.first(x)
        x = self.second(x[0] if isinstance(x, tuple) else x.tanh())
        return self.last(x[0] if isinstance(x, tuple) else x.tanh())


LAYERS = {
    "linear": lambda: (nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 3), "weight"),
    "conv": lambda: (
        nn.Conv1d(5, 8, 3),
        nn.Conv1d(8, 6, 3, groups=2),
        nn.Conv1d(6, 3, 1),
        "weight",
    ),
    "transposed_conv": lambda: (
        nn.ConvTranspose1d(5, 8, 3),
        nn.ConvTranspose1d(8, 6, 3, groups=2),
        nn.Conv1d(6, 3, 1),
        "weight",
    ),
    "lstm": lambda: (
        nn.LSTM(5, 8, batch_first=True, bidirectional=True),
        nn.LSTM(16, 6, batch_first=True),
        nn.Linear(6, 3),
        "weight_ih_l0",
    ),
    "recurrent_part_of_gru": lambda: (
        nn.GRU(5, 8, batch_first=True),
        nn.GRU(8, 6, batch_first=True),
        nn.Linear(6, 3),
        "weight_hh_l0",
    ),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("compute", COMPUTED)
@pytest.mark.parametrize("layers", LAYERS)
def test_a_layer_that_computes_its_weight_follows(layers, compute):
    torch.manual_seed(0)
    module = Computed(*LAYERS[layers](), COMPUTED[compute]).eval()
    rows = torch.randn(3, 5, 9) if "conv" in layers else torch.randn(3, 7, 5)
    with torch.no_grad():
        module(rows)  # What is computed cannot be copied while it has a gradient.
    coupling = coupled(module, rows)
    plan = document(coupling)
    apply_plan(module, plan)
    assert_the_same(module, downloaded(coupling, plan), rows, rows[:1])
    if layers == "conv":
        assert (module.first.out_channels, module.second.in_channels) == (4, 4)
        assert (module.second.out_channels, module.second.groups) == (3, 1)
    elif layers == "lstm":
        assert (module.first.hidden_size, module.second.input_size) == (4, 8)


# What cannot be done, and changes nothing.


def refused(module: nn.Module, plan: object) -> PlanMismatch:
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(PlanMismatch) as caught:
        apply_plan(module, plan)
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    return caught.value


def test_a_module_with_other_names_hears_them_all():
    module, coupling = pattern("mlp")
    error = refused(nn.Sequential(module), document(coupling))
    assert "no parameter or buffer 0.bias, 0.weight, 2.bias, 2.weight, 5.weight" in str(error)
    assert "wrapper" in str(error)


def test_a_module_with_other_shapes_hears_them_all():
    module, coupling = pattern("mlp")
    plan = document(coupling)
    apply_plan(module, plan)
    error = refused(module, plan)
    assert "0.weight has shape [8, 6], the plan says 16 in dimension 0" in str(error)
    assert "before any plan was applied" in str(error)
    assert isinstance(error, secateur.SecateurError)


def test_a_constant_in_the_code_is_no_parameter():
    module, coupling = pattern("constants")
    assert "register it as a buffer" in str(refused(module, document(coupling)))


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ([0, 16], "`keep` names channel 16 of 0 to 15"),
        ([3, 3], "names a channel twice"),
        ([], "dimension 0 of 0.weight would have nothing left"),
    ],
)
def test_a_keep_that_cannot_be_meant_is_refused(keep, said):
    module, coupling = pattern("mlp")
    plan = document(coupling)
    plan["channel_groups"][0]["keep"] = keep
    assert said in str(refused(module, plan))


def test_a_plan_that_removes_nothing_is_refused():
    module, coupling = pattern("mlp")
    plan = document(coupling)
    for group in plan["channel_groups"]:
        group["keep"] = list(range(group["channel_count"]))
    assert "nothing to remove" in str(refused(module, plan))


def test_a_document_that_is_no_plan_is_refused():
    module, coupling = pattern("mlp")
    plan = document(coupling)
    del plan["channel_groups"][0]["members"]
    assert "channel_groups.0.members: Field required" in str(refused(module, plan))
    assert "format_version is 1, 3 is needed" in str(refused(module, plan | document_of(1)))


def document_of(version: int) -> dict:
    return {"format_version": version, "channel_groups": []}


def test_a_dropped_block_needs_the_downloaded_program():
    module, coupling = pattern("mlp")
    plan = document(coupling)
    plan["channel_groups"][0]["granularity"] = "layers"
    assert "use the downloaded program" in str(refused(module, plan))


def test_a_multihead_attention_that_cannot_say_it_is_named():
    module, coupling = pattern("vision_transformer")
    error = refused(module, document(coupling, PruneConfig(criterion="random", channel_ratio=0.3)))
    assert "encoder.layers.0.self_attn (MultiheadAttention)" in str(error)
    assert "keep all heads and the embedding" in str(error)


class Flat(nn.Module):
    """A weight that is kept as one row of numbers."""

    def forward(self, row):
        return row.view(-1, 5)

    def right_inverse(self, weight):
        return weight.flatten()


def test_a_layer_whose_weight_no_tensor_resembles_is_named():
    module = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    parametrize.register_parametrization(module[0], "weight", Flat())
    coupling = coupled(module, torch.randn(2, 5))
    error = refused(module, document(coupling))
    assert "0 (ParametrizedLinear): it has no parameter or buffer of the shape" in str(error)
    assert "use the downloaded program" in str(error)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.embed(x)
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


def test_a_multihead_attention_follows_where_heads_and_embedding_agree():
    module = randomized(Encoder())
    rows = torch.randn(2, 7, 5)
    coupling = coupled(module, rows)
    plan = document(coupling)
    names = [group["name"] for group in plan["channel_groups"]]
    assert "attention.in_proj_weight" in names
    for group in plan["channel_groups"]:
        count = group["channel_count"]
        group["keep"] = [1, 3] if count == 4 else list(range(count))[::2]
    applied = apply_plan(module, plan)
    assert module.attention.num_heads == 2
    assert module.attention.embed_dim == module.attention.kdim == 8
    assert isinstance(applied, Applied)
    program = downloaded(coupling, plan)
    module.train()  # The fast path of evaluation computes in another order.
    torch.testing.assert_close(module(rows), program.run([rows])[0])


def test_an_attention_that_is_whole_does_not_mind():
    module, coupling = pattern("vision_transformer")
    plan = document(coupling)
    for group in plan["channel_groups"]:
        if "linear1" not in group["name"]:
            group["keep"] = list(range(group["channel_count"]))
    apply_plan(module, plan)
    assert module.encoder.layers[0].linear1.out_features == 12
