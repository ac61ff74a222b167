"""Fewer bits and lower ranks over HTTP, on three kinds of networks: real files, of real sizes.

A sweep for each network. What it delivers is run as its user would, without this repository.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from secateur import load_packed
from secateur.client import Client
from secateur.comparison import ComparisonRow
from secateur.errors import JobFailed
from secateur.failures import FailureCode
from secateur.report import Report
from secateur.sweeps import SweepState
from tests.e2e.digit_models import KINDS, make_files
from tests.e2e.test_main_job import Place, client, embedded_alone, place

__all__ = ["Place", "client", "place"]

pytestmark = [embedded_alone, pytest.mark.filterwarnings("ignore:.*were assigned during export")]

GRAPH_BYTES = 48 * 1024
"""What a file has besides codes: the graph's text and what stays float, as docs/recipes.md says."""

INT8, BFLOAT16, CODEBOOK, RANK = "int8", "bfloat16", "codebook", "rank"
SHARES = {INT8: 0.27, BFLOAT16: 0.51, CODEBOOK: 0.14, RANK: 1.0}
"""Bytes of a file, of those of its parameters in float32."""

RANKS = {
    "convolutional": {"method": "tucker", "rank": {"macs": 0.5}},
    # Recurrent weights are not taken apart, and have most of the MACs.
    "recurrent": {"rank": {"parameters": 0.5}},
    "transformer": {"rank": {"macs": 0.5}},
}
USER = """
import json, sys
import numpy, torch
rows = numpy.load(sys.argv[1])
right = []
for path in sys.argv[2:]:
    logits = torch.export.load(path).module()(torch.from_numpy(rows["inputs"]))
    right.append(float((logits.argmax(1).numpy() == rows["targets"]).mean()))
assert not {"worker", "secateur"} & {name.partition(".")[0] for name in sys.modules}
print(json.dumps(right))
"""


def recipes(kind: str) -> dict[str, list[dict[str, object]]]:
    return {
        INT8: [
            {"step": "prune", "budget": {"macs": 0.5}},
            {"step": "reconstruct"},
            {"step": "quantize", "activations": "static"},
        ],
        BFLOAT16: [{"step": "cast", "dtype": "bfloat16"}],
        CODEBOOK: [{"step": "quantize", "weights": "codebook", "codebook_size": 16}],
        RANK: [{"step": "factorize", **RANKS[kind]}],
    }


@dataclass
class Made:
    """What came of one recipe."""

    kind: str
    name: str
    row: ComparisonRow
    report: Report
    folder: Path
    test: Path

    @property
    def accuracy(self) -> float:
        quality = self.report.after_recovery.quality
        assert quality is not None
        assert quality.accuracy is not None
        return quality.accuracy

    @property
    def near(self) -> object:
        """The accuracy, give or take a row: of another batch sums are rounded otherwise."""
        return pytest.approx(self.accuracy, abs=0.005)


@pytest.fixture(scope="module", params=list(KINDS))
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files") / request.param
    folder.mkdir()
    make_files(folder, request.param)
    return folder


@pytest.fixture(scope="module")
def made(place: Place, files: Path) -> Iterator[dict[str, Made]]:
    """All recipes on one network, as one sweep."""
    kind = files.name
    with Client(place.url, place.key) as client:
        named = [{"name": name, "recipe": recipe} for name, recipe in recipes(kind).items()]
        spec = {**job(client, files), "recipes": named, "output_formats": ["onnx"]}
        sweep = client.wait_sweep(client.create_sweep(spec))
        assert sweep.state is SweepState.SUCCEEDED, [child.failure for child in sweep.children]
        _, *rows = client.comparison(sweep).rows
        found = {}
        for row in rows:
            assert row.job_id is not None
            folder = files / row.method
            client.download_all(row.job_id, folder)
            report = client.report(row.job_id)
            found[row.method] = Made(kind, row.method, row, report, folder, files / "test.npz")
        yield found


def job(client: Client, files: Path) -> dict[str, object]:
    """What a job or sweep is asked besides its recipe."""
    return {
        "model_id": client.upload_model(files / "model.pt2").id,
        "data": {use: client.upload_dataset(files / f"{use}.npz").id for use in ("train", "test")},
        "evaluation": {"latency_rounds": 0},
    }


def test_the_comparison_names_what_was_done_and_what_is_left(made: dict[str, Made]) -> None:
    amounts = {name: each.row.amount for name, each in made.items()}
    [rank] = RANKS[made[RANK].kind]["rank"]
    assert amounts == {
        INT8: "macs 0.5, int8 static",
        BFLOAT16: "bfloat16",
        CODEBOOK: "codebook 16",
        RANK: f"rank {rank} 0.5",
    }
    upload = (made[INT8].folder.parent / "model.pt2").stat().st_size
    for each in made.values():
        size = (each.folder / "model.pt2").stat().st_size
        assert (each.row.file_bytes, each.row.file_ratio) == (size, size / upload)


@pytest.mark.parametrize("name", SHARES)
def test_files_have_the_size_that_the_format_promises(made: dict[str, Made], name: str) -> None:
    each = made[name]
    whole = 4 * each.report.after_recovery.counts.parameters
    allowed = SHARES[name] * whole + GRAPH_BYTES
    sizes = {path.name: path.stat().st_size for path in each.folder.glob("model.*")}
    assert sizes.keys() >= {"model.pt2", "model.safetensors"}
    assert ("model.onnx" in sizes) == (name != BFLOAT16)  # Which says why, in the report.
    assert all(size <= allowed for size in sizes.values()), (sizes, allowed)
    assert each.report.after_recovery.counts.size_bytes <= sizes["model.safetensors"]


def test_the_programs_run_without_this_repository(made: dict[str, Made]) -> None:
    first, *_ = made.values()
    paths = [each.folder / "model.pt2" for each in made.values()]
    command = [sys.executable, "-I", "-c", USER, first.test, *paths]
    done = subprocess.run(command, cwd=first.folder, capture_output=True, check=True, text=True)
    assert json.loads(done.stdout) == [each.near for each in made.values()]


@pytest.mark.parametrize("name", [INT8, CODEBOOK, RANK])
def test_onnxruntime_is_as_right_as_the_report_says(made: dict[str, Made], name: str) -> None:
    each = made[name]
    [found] = each.report.formats
    assert found.reason is None
    session = onnxruntime.InferenceSession(
        each.folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    with np.load(each.test) as data:
        [logits] = session.run(None, {session.get_inputs()[0].name: data["inputs"]})
        right = float((logits.argmax(1) == data["targets"]).mean())
    assert right == each.near


@pytest.mark.parametrize("name", [CODEBOOK, BFLOAT16])
def test_weights_load_into_the_module_of_the_user(made: dict[str, Made], name: str) -> None:
    each = made[name]
    module = KINDS[each.kind]().eval()
    if name == CODEBOOK:
        module.load_state_dict(load_packed(each.folder / "model.safetensors"))
    else:
        module.load_state_dict(load_file(each.folder / "model.safetensors"))
    with np.load(each.test) as data, torch.no_grad():
        right = module(torch.from_numpy(data["inputs"])).argmax(1).numpy() == data["targets"]
    assert float(right.mean()) == each.near


def test_little_is_lost(made: dict[str, Made]) -> None:
    before = made[INT8].report.before.quality
    assert before is not None
    assert before.accuracy is not None
    for each in made.values():
        assert each.accuracy > before.accuracy - 0.02, each.name


@pytest.mark.parametrize("files", ["convolutional"], indirect=True, scope="module")
def test_a_promise_that_rounding_breaks_fails_the_job_and_its_report_has_the_step(
    client: Client, files: Path
) -> None:
    spec = {
        **job(client, files),
        "recipe": [{"step": "quantize", "weights": "int2", "granularity": "per_tensor"}],
        "safety": {"max_drop": {"accuracy": 0.01}},
    }
    with pytest.raises(JobFailed) as error:
        client.wait(client.create_job(spec))
    assert error.value.failure.code is FailureCode.SAFETY_PROMISE_BROKEN
    report = client.report(error.value.job)
    [step] = report.steps
    assert (step.index, step.step) == (0, "quantize")
    assert "int2 per_tensor" in {layer.became for layer in step.layers}
    assert step.quality is not None
    assert step.quality == report.after_recovery.quality
    assert {path.name for path in client.download_all(error.value.job, files / "broken")} == {
        "manifest.json",
        "report.json",
    }
