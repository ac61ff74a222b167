"""Files measured in the runtimes that will serve them."""

import zipfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from tests.engine.pretrained import transformers_archive
from tests.engine.verified import verify_here
from worker.engine import deliver
from worker.engine.compress import compress
from worker.engine.config import EvaluationConfig, PruneConfig, QuantizeConfig, Request
from worker.engine.data import Rows
from worker.engine.deliver import delivered
from worker.engine.errors import OutputsDifferError
from worker.engine.measure.quality import quality
from worker.engine.program import Program
from worker.engine.readers import Source
from worker.engine.readers.architecture import read_architecture
from worker.engine.readers.keras import read_keras
from worker.engine.readers.keras.runtime import keras
from worker.engine.recovery.setting import Setting
from worker.engine.safety import SafetyConfig
from worker.engine.serve import Served, Serving
from worker.engine.transform import transformed
from worker.engine.writers import WRITERS, InexpressibleError
from worker.engine.writers import onnx as writer

pytestmark = pytest.mark.filterwarnings("ignore")  # Of torch's exporter.

ROUNDS = EvaluationConfig(batch_size=32, latency_batch_size=4, latency_rounds=3)
QUIET = replace(ROUNDS, latency_rounds=0)


class Net(nn.Module):
    """Its example inputs are small, and its data are not."""

    def __init__(self, width):
        super().__init__()
        self.first, self.second = nn.Linear(6, width), nn.Linear(width, 7)

    def forward(self, x):
        return self.second(self.first(x).tanh())


def program(width: int, *, rows: int | None = None) -> Program:
    torch.manual_seed(0)
    net = Net(width).eval()
    generator = torch.Generator().manual_seed(1)
    example = torch.rand(rows or 2, 6, generator=generator)
    shapes = None if rows else ({0: torch.export.Dim("batch")},)
    return Program.from_exported(torch.export.export(net, (example,), dynamic_shapes=shapes))


def data(original: Program) -> Rows:
    """What the original gets right, but for every tenth row."""
    inputs = np.random.default_rng(0).normal(0, 3, (100, 6)).astype(np.float32)
    with torch.no_grad():
        targets = original.run([torch.from_numpy(inputs)])[0].argmax(1).numpy()
    targets[::10] = (targets[::10] + 1) % 7
    return Rows((inputs,), targets, role="test")


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """A new interpreter takes longer than all else, and has tests of its own."""
    monkeypatch.setattr(
        deliver,
        "outputs_in_fresh_process",
        lambda path, _, *, runner, calls: resolve_name(runner)(path, calls),
    )


def served(folder: Path, original: Program, compressed: Program, **fields):
    """What becomes of an ONNX file."""
    test = fields.pop("test", None)
    model = fields.pop("model", folder / "model.pt2")
    fields = {"evaluation": QUIET, **fields}
    request = Request(model, "0" * 64, (), folder, **fields)
    before = None
    if test is not None:
        before = quality(
            original, original, test, batch_size=64, on_batch=lambda *_: None,
            noise_std=request.evaluation.noise_std, fgsm_epsilon=request.evaluation.fgsm_epsilon,
        )  # fmt: skip
    serving = Serving(request, original, compressed, None, test, before)
    [found] = delivered(
        ["onnx"], compressed, None, folder, lambda *_: None, measured=serving.measured
    )
    return found


def in_onnxruntime(path: Path, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]


def quantized(original: Program, rows: Rows) -> Program:
    step = QuantizeConfig(activations="static")
    changed = transformed(original, step, rows, Setting(seed=0))
    return changed.program


@pytest.mark.parametrize("kind", ["smaller", "quantized"])
def test_quality_is_of_what_the_runtime_computes(tmp_path, monkeypatch, kind):
    # Integer kernels round what lies between two codes to the other one now and then.
    monkeypatch.setattr(deliver, "tolerance", lambda _: 0.1)
    original = program(16)
    test = data(original)
    compressed = program(8) if kind == "smaller" else quantized(original, test)
    found = served(tmp_path, original, compressed, test=test)
    assert found.reason is None, found.reason
    outputs = in_onnxruntime(tmp_path / "model.onnx", test.inputs[0])
    with torch.no_grad():
        expected = original.run([torch.from_numpy(test.inputs[0])])[0].numpy()
    assert found.quality["row_count"] == 100
    assert found.quality["accuracy"] == pytest.approx((outputs.argmax(1) == test.targets).mean())
    same = (outputs.argmax(1) == expected.argmax(1)).mean()
    assert found.quality["agreement"] == pytest.approx(same)
    mse = np.square(outputs.astype(np.float64) - expected).mean()
    assert found.quality["output_mse"] == pytest.approx(mse)
    assert mse > 0
    assert found.quality["noise_accuracy"] is None
    assert found.latency is None
    assert found.unmeasured is None


def test_latency_is_beside_the_original_in_the_same_runtime(tmp_path, monkeypatch):
    loaded = []
    serve = writer.serve

    def served_counted(path):
        call, number = serve(path), len(loaded)
        loaded.append([])

        def counted(leaves):
            loaded[number].append([tuple(leaf.shape) for leaf in leaves])
            return call(leaves)

        return counted

    monkeypatch.setattr(WRITERS["onnx"].__class__, "serve", lambda _, path: served_counted(path))
    found = served(tmp_path, program(16), program(8), evaluation=ROUNDS)
    latency = found.latency
    assert latency["runtime"] == f"onnxruntime {onnxruntime.__version__}"
    assert latency["mode"] is None
    assert latency["device"] == "cpu"
    assert latency["thread_count"] == torch.get_num_threads()
    assert (latency["round_count"], latency["batch_size"]) == (3, 4)
    assert latency["speedup"] > 0
    for times in (latency["original"], latency["compressed"]):
        assert 0 < times["p50_ms"] <= times["p95_ms"]
    # Warm-up included, each as often as the other.
    assert loaded == [[[(4, 6)]] * 8] * 2
    assert found.quality is None
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_fixed_batch_is_what_is_timed(tmp_path):
    found = served(tmp_path, program(16, rows=3), program(8, rows=3), evaluation=ROUNDS)
    assert found.latency["batch_size"] == 3


@pytest.mark.parametrize("is_zip", [False, True])
def test_an_upload_of_onnx_is_timed_as_it_came(tmp_path, monkeypatch, is_zip):
    original = program(16)
    uploaded = tmp_path / "uploaded.onnx"
    writer.write(original, None, uploaded)
    if is_zip:
        with zipfile.ZipFile(tmp_path / "uploaded.zip", "w") as archive:
            archive.write(uploaded, "model.onnx")
        uploaded = tmp_path / "uploaded.zip"
    written = []
    write = writer.write
    monkeypatch.setattr(
        writer, "write", lambda *given: [written.append(given[0]), write(*given)][1]
    )
    output = tmp_path / "output"
    output.mkdir()
    compressed = program(8)
    found = served(
        output, original, compressed, model=uploaded, model_format="onnx", evaluation=ROUNDS
    )
    assert found.latency["round_count"] == 3
    assert written == [compressed]


def test_an_upload_that_is_another_model_in_its_runtime_is_no_yardstick(tmp_path):
    uploaded = tmp_path / "uploaded.onnx"
    writer.write(program(12), None, uploaded)
    output = tmp_path / "output"
    output.mkdir()
    found = served(
        output, program(16), program(8), model=uploaded, model_format="onnx", evaluation=ROUNDS
    )
    assert found.file == "model.onnx"
    assert found.latency is None
    assert "the original gives other outputs there than in PyTorch" in found.unmeasured


def test_without_an_original_there_is_no_latency_but_a_reason(tmp_path, monkeypatch):
    original, write = program(16), writer.write

    def smaller_ones(made, origin, path):
        if made is original:
            raise InexpressibleError("an operator is unknown")
        write(made, origin, path)

    monkeypatch.setattr(writer, "write", smaller_ones)
    found = served(tmp_path, original, program(8), evaluation=ROUNDS)
    assert found.file == "model.onnx"
    assert found.reason is None
    assert found.latency is None
    assert found.unmeasured == (
        f"its latency was not measured in onnxruntime {onnxruntime.__version__}: there is no "
        "original of that format to compare it with (an operator is unknown)"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def wrong_on_large_inputs(monkeypatch):
    """A writer whose files are right on example inputs, and clip what is larger."""
    write = writer.write

    def write_clipped(made, origin, path):
        graph = made.copied_graph()
        [x] = graph.find_nodes(op="placeholder")
        with graph.inserting_after(x):
            clipped = graph.call_function(torch.ops.aten.clamp.default, (x, -1.0, 1.0))
        x.replace_all_uses_with(clipped, delete_user_cb=lambda user: user is not clipped)
        write(made.with_module(made.module_with(graph)), origin, path)

    monkeypatch.setattr(writer, "write", write_clipped)


def test_a_file_that_breaks_a_promise_is_taken_back(tmp_path, monkeypatch):
    original = program(16)
    test = data(original)
    wrong_on_large_inputs(monkeypatch)
    promises = SafetyConfig(accuracy=0.05)
    found = served(tmp_path, original, program(16), test=test, safety=promises)
    with torch.no_grad():
        outputs = original.run([torch.from_numpy(test.inputs[0]).clamp(-1, 1)])[0]
    accuracy = float((outputs.argmax(1).numpy() == test.targets).mean())
    assert accuracy < 0.8
    assert found.file is None
    assert found.size_bytes is None
    assert found.quality["accuracy"] == pytest.approx(accuracy)
    assert found.reason == (
        f"on the test data in onnxruntime {onnxruntime.__version__}, accuracy fell by "
        f"{0.9 - accuracy:.4g}, from 0.9 to {accuracy:.4g}, and may fall by 0.05: it is not "
        "delivered; remove less, quantize less, or allow more in /safety/max_drop"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_promise_that_allows_the_loss_is_kept(tmp_path, monkeypatch):
    original = program(16)
    test = data(original)
    wrong_on_large_inputs(monkeypatch)
    found = served(tmp_path, original, program(16), test=test, safety=SafetyConfig(accuracy=1.0))
    assert found.file == "model.onnx"


@pytest.mark.parametrize("is_wrong", [False, True])
def test_a_job_has_it_in_its_report_and_is_judged_by_the_pt2(tmp_path, monkeypatch, is_wrong):
    verify_here(monkeypatch)
    if is_wrong:
        wrong_on_large_inputs(monkeypatch)
    original = program(16)
    with torch.no_grad():
        for tensor in original.module.first.parameters():
            tensor[0] = 0  # A unit that is not missed.
    test = data(original)
    np.savez(tmp_path / "test.npz", inputs=test.inputs[0], targets=test.targets)
    torch.export.save(original.export(), tmp_path / "model.pt2")
    output = tmp_path / "output"
    output.mkdir()
    request = Request(
        tmp_path / "model.pt2", "0" * 64, (PruneConfig(channel_ratio=1 / 16),), output,
        test=tmp_path / "test.npz", output_formats=("onnx",), evaluation=ROUNDS,
        safety=SafetyConfig(accuracy=0.05),
    )  # fmt: skip
    report = compress(request, on_progress=lambda *_: None)
    [found] = report["formats"]
    accuracy = report["after_recovery"]["quality"]["accuracy"]
    assert accuracy == 0.9
    assert report["latency"]["runtime"] == f"torch {version('torch')} eager"
    assert report["before"]["latency"] == report["latency"]["original"]
    assert report["after_recovery"]["latency"] == report["latency"]["compressed"]
    assert (output / "model.pt2").exists()
    assert (output / "model.onnx").exists() is not is_wrong
    if is_wrong:
        assert report["warnings"] == [f"no onnx: {found['reason']}"]
        assert found["quality"]["accuracy"] < accuracy - 0.05
    else:
        assert report["warnings"] == []
        assert found["quality"]["accuracy"] == accuracy
        assert found["latency"]["round_count"] == 3


def test_attacks_are_asked_of_the_program_alone(tmp_path):
    original = program(16)
    evaluation = replace(QUIET, noise_std=0.1, fgsm_epsilon=0.1)
    promises = SafetyConfig(fgsm_accuracy=0.0, noise_accuracy=1.0)
    found = served(
        tmp_path, original, program(8),
        test=data(original), evaluation=evaluation, safety=promises,
    )  # fmt: skip
    assert found.file == "model.onnx"
    assert found.quality["fgsm_accuracy"] is None
    assert 0 < found.quality["noise_accuracy"] < 1


def test_a_file_that_does_not_run_on_the_data_is_taken_back(tmp_path, monkeypatch):
    def only_examples(path):
        call = serve(path)

        def called(leaves):
            if len(leaves[0]) > 3:
                raise OutputsDifferError("too many rows")
            return call(leaves)

        return called

    serve = writer.serve
    monkeypatch.setattr(writer, "serve", only_examples)
    original = program(16)
    found = served(tmp_path, original, program(8), test=data(original))
    assert found.file is None
    assert "model.onnx does not run on the test data in onnxruntime" in found.reason
    assert "too many rows" in found.reason
    assert list(tmp_path.iterdir()) == []


def keras_upload(folder: Path) -> Source:
    library = keras()
    layers = library.layers
    network = library.Sequential(
        [library.Input((6,)), layers.Dense(16, "relu"), layers.Dense(7, "softmax")]
    )
    network.save(folder / "model.keras")
    return read_keras(folder / "model.keras")


def transformers_upload(folder: Path) -> Source:
    return read_architecture(transformers_archive(folder / "model.zip", "bert"))


@pytest.mark.parametrize(
    ("file_format", "upload"), [("keras", keras_upload), ("transformers", transformers_upload)]
)
def test_libraries_that_run_on_torch_are_timed_too(tmp_path, file_format, upload):
    source = upload(tmp_path)
    program = Program.from_exported(source.exported)
    output = tmp_path / "output"
    output.mkdir()
    request = Request(tmp_path / "model", "0" * 64, (), output, evaluation=ROUNDS)
    serving = Serving(request, program, program, source.origin, None, None)
    [found] = delivered(
        [file_format], program, source.origin, output, lambda *_: None, measured=serving.measured
    )
    assert (found.reason, found.unmeasured) == (None, None)
    assert found.latency["runtime"].startswith(f"{file_format} ")
    assert found.latency["round_count"] == 3
    assert [path.name for path in output.iterdir()] == [found.file]


def test_what_is_served_takes_the_rows_of_its_program():
    fixed = Served(list, program(8, rows=3))
    assert fixed.row_limits == (3, 3)
    assert fixed.rows_per_call(64) == 3
    assert fixed.device == torch.device("cpu")
    x = torch.ones(1)
    assert fixed.run([x, 2, None, x]) == [x, x], "numbers are in the file, and no inputs of it"
