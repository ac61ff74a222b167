"""Programs that cannot be pruned: each is told apart, with what to do."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401 (registers its operators)
from torch.nn import functional

from formats.errors import FormatError
from tests.zoo.exported import export, randomized
from worker.engine.compress import compress
from worker.engine.config import PruneConfig, Request
from worker.engine.errors import (
    EngineError,
    NothingToPruneError,
    QuantizedModelError,
    TrainingModeError,
    UnreadableModelError,
)
from worker.engine.program import Program
from worker.engine.quantized import check_not_quantized


def _silent(stage: str, done: int, total: int, unit: str) -> None:
    """Nobody watches."""


def _request(folder: Path, exported: torch.export.ExportedProgram) -> Request:
    model = folder / "model.pt2"
    torch.export.save(exported, model)
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    return Request(model, digest, (PruneConfig(channel_ratio=0.5),), folder)


def _fails(folder: Path, exported: torch.export.ExportedProgram) -> EngineError:
    with pytest.raises(EngineError) as caught:
        compress(_request(folder, exported), on_progress=_silent)
    assert [path.name for path in folder.iterdir()] == ["model.pt2"]
    return caught.value


ROWS = torch.linspace(-1, 1, 8).view(2, 4)


def test_a_file_without_example_inputs_is_told_how_to_save_them(tmp_path):
    exported = export(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).eval(), ROWS)
    exported._example_inputs = None
    error = _fails(tmp_path, exported)
    assert isinstance(error, UnreadableModelError)
    assert "no example inputs" in str(error)
    assert "torch.export.export(model, example_inputs)" in str(error)


@pytest.mark.parametrize("name", ["else", "graph"])
def test_a_name_that_no_module_can_have_is_told(tmp_path, name):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)
            self.register_parameter(name, nn.Parameter(torch.ones(8)))

        def forward(self, x):
            return self.second(self.first(x) * self.get_parameter(name))

    error = _fails(tmp_path, torch.export.export(Named().eval(), (ROWS,)))
    assert isinstance(error, UnreadableModelError)
    assert "'graph', 'code' or 'meta'" in str(error)
    assert "such as 'else'" in str(error)


class Same(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu() * 2


class Deaf(nn.Module):
    """It has a layer, and returns nothing of it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> None:
        self.layer(x)


@pytest.mark.parametrize("module", [Same(), Fixed(), Deaf()], ids=lambda m: type(m).__name__)
def test_a_model_without_parameters_has_nothing_to_prune(tmp_path, module):
    error = _fails(tmp_path, export(module.eval(), ROWS))
    assert isinstance(error, NothingToPruneError)
    assert "no parameters" in str(error)


def test_a_model_without_tensors_has_nothing_to_prune(tmp_path):
    class Number(nn.Module):
        def forward(self, number: int) -> int:
            return number

    error = _fails(tmp_path, torch.export.export(Number(), (3,)))
    assert isinstance(error, NothingToPruneError)
    assert "no parameters" in str(error)


def test_a_model_without_inputs_is_pruned_as_any_other(tmp_path):
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Parameter(torch.rand(3, 4)), nn.Parameter(torch.rand(4, 2))

        def forward(self) -> Tensor:
            return self.left @ self.right

    request = _request(tmp_path, torch.export.export(Product(), ()))
    report = compress(request, on_progress=_silent)
    assert report["after_recovery"]["counts"]["parameters"] == 3 * 2 + 2 * 2


@pytest.mark.parametrize(
    "inner", [nn.BatchNorm1d(8), nn.Dropout(0.1)], ids=["batch_norm", "dropout"]
)
def test_a_model_in_training_mode_is_told_to_call_eval(tmp_path, inner):
    module = nn.Sequential(nn.Linear(4, 8), inner, nn.Linear(8, 2)).train()
    error = _fails(tmp_path, export(module, ROWS))
    assert isinstance(error, TrainingModeError)
    assert "model.eval()" in str(error)


class Stored(nn.Module):
    """A float layer, then one whose weight is made from a buffer."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.stem = nn.Linear(4, 8)
        self.register_buffer("stored", weight)
        self.register_buffer("scale", torch.rand(weight.shape[0], *[1] * (weight.dim() - 1)))

    def weight(self) -> Tensor:
        return (self.stored.to(torch.float32) - 3.0) * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(self.stem(x), self.weight())


class StoredKernel(Stored):
    def forward(self, x: Tensor) -> Tensor:
        return functional.conv1d(self.stem(x).unsqueeze(2), self.weight())


class StoredTransposed(Stored):
    def forward(self, x: Tensor) -> Tensor:
        return self.stem(x) @ self.weight().t()


class Packed(Stored):
    """Eight numbers of four bits in each integer."""

    def weight(self) -> Tensor:
        shifts = torch.arange(0, 32, 4, dtype=torch.int32)
        numbers = (self.stored.unsqueeze(-1) >> shifts) & 15
        return (numbers.flatten(1).to(torch.float32) - 8.0) * self.scale


def _numbers(*shape: int, dtype: torch.dtype = torch.int8) -> Tensor:
    count = torch.Size(shape).numel()
    return (torch.arange(count) * 37 % 120 - 60).view(shape).to(dtype)


@pytest.mark.parametrize(
    "module",
    [
        Stored(_numbers(3, 8)),
        Stored(_numbers(3, 8, dtype=torch.float8_e4m3fn)),
        StoredKernel(_numbers(3, 8, 1)),
        StoredTransposed(_numbers(3, 8)),
        Packed(_numbers(3, 1, dtype=torch.int32)),
    ],
    ids=["linear", "float8", "convolution", "matmul", "four_bits"],
)
def test_a_quantized_model_is_sent_back_for_the_float_one(tmp_path, module):
    error = _fails(tmp_path, export(module.eval(), ROWS))
    assert isinstance(error, QuantizedModelError)
    assert "stored" in str(error)
    assert "upload the float model" in str(error)


class Dequantized(Stored):
    """As torch's own quantization writes it."""

    def weight(self) -> Tensor:
        dequantize = torch.ops.quantized_decomposed.dequantize_per_tensor
        return dequantize(self.stored, 0.1, 0, -128, 127, torch.int8)


def test_operators_of_torchs_quantization_are_no_part_of_a_file_that_is_taken(tmp_path):
    exported = export(Dequantized(_numbers(3, 8)).eval(), ROWS)
    with pytest.raises(FormatError, match=r"dequantize_per_tensor.* upload the float model"):
        compress(_request(tmp_path, exported), on_progress=_silent)


def test_operators_of_torchs_quantization_are_told_apart():
    program = Program.from_exported(export(Dequantized(_numbers(3, 8)).eval(), ROWS))
    with pytest.raises(QuantizedModelError, match="dequantize_per_tensor"):
        check_not_quantized(program)


class Indices(nn.Module):
    """Integers that are no weights: words, places, masks, distances."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.position = nn.Embedding(6, 8)
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, 3)
        places = torch.arange(6)
        self.register_buffer("places", places)
        self.register_buffer("order", places.flip(0).to(torch.uint8))
        self.register_buffer("causal", (places[None] <= places[:, None]).to(torch.uint8))
        self.register_buffer("distance", (places[None] - places[:, None]).to(torch.int8))
        self.register_buffer("angles", places[:, None].expand(6, 8).clone())

    def forward(self, tokens: Tensor) -> Tensor:
        turned = torch.einsum("tc,cd->td", self.angles.float(), torch.eye(8)).cos()
        x = self.embed(tokens) + self.position(self.places) + turned
        query, key, value = self.qkv(x[:, self.order.long()]).chunk(3, dim=-1)
        scores = query @ key.transpose(1, 2) - 0.1 * self.distance.abs().float()
        scores = scores.masked_fill(self.causal == 0, float("-inf"))
        average = self.causal.float() / self.causal.sum(1, keepdim=True)
        return self.head(average @ (scores.softmax(-1) @ value))


def test_indices_masks_and_positions_are_no_quantized_weights(tmp_path):
    tokens = torch.arange(12).view(2, 6) % 11
    check_not_quantized(Program.from_exported(export(randomized(Indices()), tokens)))
    report = compress(
        _request(tmp_path, export(randomized(Indices()), tokens)), on_progress=_silent
    )
    assert report["verification"]["counts_match"]
