"""ONNX files of compressed programs."""

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tests.engine.verified import verify_here
from worker.engine.compress import compress
from worker.engine.config import EvaluationConfig, PruneConfig, Request
from worker.engine.load import load_program
from worker.engine.program import Program
from worker.engine.writers import onnx as writer

pytestmark = pytest.mark.filterwarnings("ignore")  # Of torch's exporter.


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    verify_here(monkeypatch)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 4),
    ).eval()  # fmt: skip


def exported():
    dims = {0: torch.export.Dim("batch"), 2: torch.export.Dim("length", min=2, max=64)}
    return torch.export.export(network(), (torch.randn(2, 3, 9),), dynamic_shapes=(dims,))


def run(path, tmp_path, **fields):
    output = tmp_path / "output"
    output.mkdir()
    request = Request(
        model=path,
        model_sha256="0" * 64,
        recipe=(PruneConfig(channel_ratio=0.5),),
        output_dir=output,
        evaluation=EvaluationConfig(latency_rounds=0),
        **fields,
    )
    report = compress(request, on_progress=lambda *_: None)
    return output, report


def shapes(values):
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in values
    }


def test_it_is_written_when_asked_for_and_computes_the_same(tmp_path):
    torch.export.save(exported(), tmp_path / "model.pt2")
    output, report = run(tmp_path / "model.pt2", tmp_path, output_formats=("pt2", "onnx"))
    [found] = report["formats"]
    file = output / "model.onnx"
    assert found["format"] == "onnx"
    assert found["file"] == "model.onnx"
    assert found["size_bytes"] == file.stat().st_size
    assert found["max_relative_error"] < 1e-5
    assert found["runtime"].startswith("onnxruntime ")
    assert report["after_recovery"]["file_bytes"] == (output / "model.pt2").stat().st_size
    onnx.checker.check_model(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    program = Program.from_exported(load_program(output / "model.pt2"))
    for rows, length in ((1, 5), (4, 11)):
        x = torch.randn(rows, 3, length)
        [logits] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), program.run([x])[0])


def test_nothing_more_is_written_of_a_pt2_unless_asked(tmp_path):
    torch.export.save(exported(), tmp_path / "model.pt2")
    output, report = run(tmp_path / "model.pt2", tmp_path)
    assert report["formats"] == []
    assert not list(output.glob("*.onnx"))


def test_an_upload_of_onnx_comes_back_with_its_names(tmp_path):
    made = torch.onnx.export(exported(), dynamo=True, verbose=False)
    made.model.graph.inputs[0].name = "signal"
    made.model.graph.outputs[0].name = "scores"
    path = tmp_path / "model.onnx"
    made.save(path, external_data=False)
    model = onnx.load(path)
    for at, name in ((0, "N"), (2, "time")):
        model.graph.input[0].type.tensor_type.shape.dim[at].dim_param = name
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(model, path)
    output, report = run(path, tmp_path, model_format="onnx")
    assert report["formats"][0]["reason"] is None
    pruned = onnx.load(output / "model.onnx")
    assert shapes(pruned.graph.input) == {"signal": ["N", 3, "time"]}
    assert shapes(pruned.graph.output) == {"scores": ["N", 4]}
    assert report["after_recovery"]["file_bytes"] == (output / "model.onnx").stat().st_size
    elements = {each.name: list(each.dims) for each in pruned.graph.initializer}
    assert elements["0.weight"] == [3, 3, 3]


def test_what_one_file_does_not_hold_is_a_reason_and_no_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_MOST_BYTES", 100)
    torch.export.save(exported(), tmp_path / "model.pt2")
    output, report = run(tmp_path / "model.pt2", tmp_path, output_formats=("onnx",))
    [found] = report["formats"]
    assert found["file"] is None
    assert "one ONNX file holds 100" in found["reason"]
    assert report["warnings"] == [f"no onnx: {found['reason']}"]
    assert not (output / "model.onnx").exists()


def test_what_the_exporter_does_not_know_is_named(tmp_path):
    class Unknown(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x):
            return torch.special.i0(self.second(self.first(x).relu()))

    torch.manual_seed(0)
    program = torch.export.export(Unknown().eval(), (torch.randn(2, 4),))
    torch.export.save(program, tmp_path / "model.pt2")
    _, report = run(tmp_path / "model.pt2", tmp_path, output_formats=("onnx",))
    assert "torch.onnx.export does not write this program" in report["formats"][0]["reason"]
    assert "i0" in report["formats"][0]["reason"]


class Twice(nn.Module):
    """Gives a tensor twice, and an input as it is."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        y = self.second(self.first(x).relu())
        return y, y, x


@pytest.mark.parametrize("outputs", [(), ("y", "y", "x"), ("y", "z", "w")])
def test_one_tensor_may_be_given_under_several_names(tmp_path, outputs):
    torch.manual_seed(0)
    program = torch.export.export(
        Twice().eval(), (torch.randn(2, 4),), dynamic_shapes=({0: torch.export.Dim("rows")},)
    )
    path = tmp_path / "model.pt2"
    if outputs:
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("Gemm", ["x", "first"], ["h"], transB=1),
             onnx.helper.make_node("Relu", ["h"], ["r"]),
             onnx.helper.make_node("Gemm", ["r", "v"], ["y"], transB=1),
             onnx.helper.make_node("Identity", ["y"], ["z"]),
             onnx.helper.make_node("Identity", ["x"], ["w"])],
            "g",
            [onnx.helper.make_tensor_value_info("x", 1, ["n", 4])],
            [onnx.helper.make_tensor_value_info(name, 1, None) for name in outputs],
            [onnx.numpy_helper.from_array(torch.randn(8, 4).numpy(), "first"),
             onnx.numpy_helper.from_array(torch.randn(3, 8).numpy(), "v")],
        )  # fmt: skip
        path = tmp_path / "model.onnx"
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
        path.write_bytes(model.SerializeToString())
    else:
        torch.export.save(program, path)
    asked = {"model_format": "onnx"} if outputs else {"output_formats": ("onnx",)}
    output, report = run(path, tmp_path, **asked)
    assert report["formats"][0]["reason"] is None
    session = onnxruntime.InferenceSession(output / "model.onnx")
    x = torch.randn(3, 4).numpy()
    one, other, same = session.run(None, {session.get_inputs()[0].name: x})
    assert (one == other).all()
    assert (same == x).all()


def test_a_writer_that_fails_costs_a_file_and_not_the_job(tmp_path, monkeypatch):
    def broken(program, origin, path):
        path.write_bytes(b"half")
        raise ZeroDivisionError("in /secret/place")

    monkeypatch.setattr(writer, "write", broken)
    torch.export.save(exported(), tmp_path / "model.pt2")
    output, report = run(tmp_path / "model.pt2", tmp_path, output_formats=("onnx",))
    assert report["formats"][0]["reason"] == (
        "it could not be written (ZeroDivisionError: in ...); report it with the model"
    )
    assert not (output / "model.onnx").exists()


def test_a_length_that_became_fixed_is_found_out(tmp_path, monkeypatch):
    """The example has nine steps, and the program takes any number."""
    write = writer.write

    def fixed(program, origin, path):
        leaves = (program.example_leaves[0],)
        write(Program.from_exported(torch.export.export(program.module, leaves)), origin, path)

    monkeypatch.setattr(writer, "write", fixed)
    monkeypatch.setattr("worker.engine.deliver._OTHER_ROWS", 2)
    torch.export.save(exported(), tmp_path / "model.pt2")
    _, report = run(tmp_path / "model.pt2", tmp_path, output_formats=("onnx",))
    assert "does not load or run in a fresh process" in report["formats"][0]["reason"]


def test_other_outputs_are_not_delivered(tmp_path, monkeypatch):
    """A writer that is wrong is found out by the process that runs its file."""
    write = writer.write

    def wrong(program, origin, path):
        with torch.no_grad():
            next(iter(program.module.parameters())).mul_(1.5)
            write(program, origin, path)
            next(iter(program.module.parameters())).div_(1.5)

    monkeypatch.setattr(writer, "write", wrong)
    torch.export.save(exported(), tmp_path / "model.pt2")
    output, report = run(tmp_path / "model.pt2", tmp_path, output_formats=("onnx",))
    assert "other outputs than model.pt2" in report["formats"][0]["reason"]
    assert not (output / "model.onnx").exists()
