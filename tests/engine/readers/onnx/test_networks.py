"""Networks as torch's exporters write them: read, compared with ONNX Runtime, pruned by half."""

import warnings

import onnx
import pytest
import torch
from torch import nn
from torch.export import Dim

from tests.engine.readers.onnx.models import reference, relative_error
from worker.engine.config import PruneConfig
from worker.engine.graph.coupling import couple
from worker.engine.load import load_program
from worker.engine.program import Program
from worker.engine.prune.cut import cut
from worker.engine.prune.plan import decide
from worker.engine.prune.verify import verify_cut
from worker.engine.readers import read_model
from worker.engine.save import save_program

HALF = PruneConfig(criterion="magnitude", scope="local", channel_ratio=0.5)


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point = nn.Conv2d(8, 8, 1)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.group = nn.GroupNorm(2, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = nn.functional.hardswish(self.norm(self.stem(x)))
        x = x + self.point(self.depthwise(x).relu())
        x = nn.functional.max_pool2d(self.group(self.up(x)), 2)
        return self.head(x.mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.embedding = nn.Embedding(50, 12)
        self.layers = kind(12, 16, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        return self.head(self.layers(self.embedding(x))[0])


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        return self.head(self.layers(self.embedding(x))).log_softmax(-1)


def _mlp():
    return nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 3))


IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
WORDS = torch.arange(16).reshape(2, 8)
NETWORKS = {
    "mlp": (_mlp, torch.randn(2, 6, generator=torch.Generator().manual_seed(0))),
    "cnn": (Cnn, IMAGE),
    "lstm": (lambda: Recurrent(nn.LSTM), WORDS),
    "gru": (lambda: Recurrent(nn.GRU), WORDS),
    "transformer": (Transformer, WORDS),
}


def _write(network, example, path, exporter):
    with warnings.catch_warnings():
        # Both exporters warn of what they themselves are about to change.
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            made = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                verbose=False,
                dynamic_shapes=({0: Dim("batch")},),
                input_names=["x"],
            )
            made.save(path)
        else:
            torch.onnx.export(
                network,
                (example,),
                path,
                dynamo=False,
                input_names=["x"],
                dynamic_axes={"x": {0: "batch"}},
            )


@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        ("mlp", "dynamo"),
        ("cnn", "dynamo"),
        ("cnn", "torchscript"),
        ("lstm", "dynamo"),
        ("lstm", "torchscript"),
        ("gru", "torchscript"),
        ("transformer", "dynamo"),
        ("transformer", "torchscript"),
    ],
)
def test_a_network_is_read_and_pruned(name, exporter, tmp_path):
    torch.manual_seed(0)
    build, example = NETWORKS[name]
    network = build().eval()
    _write(network, example, tmp_path / "model.onnx", exporter)
    source = read_model(tmp_path / "model.onnx", "onnx")
    assert source.warnings == ()
    program = Program.from_exported(source.exported)
    assert program.input_sizes[0] == (None, *example.shape[1:])

    five = torch.cat([example, example.flip(0), example[:1]])
    [wanted] = reference(onnx.load(tmp_path / "model.onnx"), {"x": five.numpy()})
    [found] = program.run([five])
    assert relative_error(wanted, found) < 1e-4
    assert relative_error(network(five).detach().numpy(), found) < 1e-4

    coupling = couple(program)
    plan = decide(coupling, HALF, seed=0)
    assert plan.predicted.parameters < 0.7 * plan.baseline.parameters
    pruned = cut(coupling, plan.keep)
    verify_cut(coupling, plan.keep, pruned, seed=0)
    save_program(pruned, tmp_path / "pruned.pt2")
    again = Program.from_exported(load_program(tmp_path / "pruned.pt2"))
    [before] = pruned.run([five])
    [after] = again.run([five])
    assert relative_error(before.detach().numpy(), after) < 1e-6
    # Lists of places that the graph itself holds are tensors of their own in a saved program.
    names = {name for name in again.module.state_dict() if not name.startswith("lifted_tensor")}
    assert names <= set(program.module.state_dict())


def test_recurrent_weights_keep_their_names_and_shapes(tmp_path):
    _write(Recurrent(nn.LSTM).eval(), WORDS, tmp_path / "model.onnx", "torchscript")
    stored = {
        tensor.name: list(tensor.dims)
        for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer
    }
    exported = read_model(tmp_path / "model.onnx", "onnx").exported
    lstm = [node for node in exported.graph.nodes if node.target == torch.ops.aten.lstm.input]
    assert len(lstm) == 2
    for name, tensor in exported.state_dict.items():
        assert stored[name] == list(tensor.shape)
