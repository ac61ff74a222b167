"""SavedModels on their way to a program."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from formats.errors import FormatError, UnsafeFile
from tests.formats.onnx_models import model_of, value
from tests.formats.saved_models import DATA
from worker.engine.errors import UnreadableModelError, UnsupportedModelError
from worker.engine.readers import saved_model
from worker.engine.readers.saved_model import (
    onnx_of_saved_model,
    read_saved_model,
    tensorflow_is_here,
)

tensorflow = pytest.mark.tensorflow
needs_tensorflow = pytest.mark.skipif(
    not tensorflow_is_here(), reason="TensorFlow and tf2onnx are not installed"
)


def answer(model, inputs):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    [given] = session.get_inputs()
    return session.run(None, {given.name: inputs})[0]


@tensorflow
@needs_tensorflow
@pytest.mark.parametrize(
    ("name", "input_name", "is_large"),
    [
        ("cnn", "image", False),
        ("cnn", "image", True),
        ("recurrent", "steps", False),
        ("grouped", "image", False),
    ],
)
def test_converted_model_answers_as_keras_did(name, input_name, is_large):
    model = onnx_of_saved_model(DATA / f"{name}.zip", is_large=is_large)
    assert [each.name for each in model.graph.input] == [input_name]
    assert [each.name for each in model.graph.output] == ["output_0"]
    with np.load(DATA / f"{name}.npz") as expected:
        found = answer(model, expected["inputs"])
        np.testing.assert_allclose(found, expected["targets"], rtol=1e-5, atol=1e-6)


@tensorflow
@needs_tensorflow
def test_model_that_tensorflow_cannot_read_is_refused_in_our_words(tmp_path):
    members = {}
    with zipfile.ZipFile(DATA / "cnn.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["cnn/variables/variables.index"] = b"damaged"
    path = tmp_path / "damaged.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(UnreadableModelError, match="TensorFlow cannot read this model"):
        onnx_of_saved_model(path)


def test_reader_asks_for_onnx_where_tensorflow_is_missing(monkeypatch):
    monkeypatch.setattr(saved_model, "tensorflow_is_here", lambda: False)
    with pytest.raises(UnsupportedModelError) as error:
        read_saved_model(DATA / "cnn.zip")
    assert "python -m tf2onnx.convert --saved-model FOLDER --output model.onnx" in str(error.value)
    assert "format=onnx" in str(error.value)


def test_file_is_checked_before_anything_else(tmp_path):
    path = tmp_path / "none.zip"
    path.write_bytes(b"none")
    with pytest.raises(FormatError):
        read_saved_model(path)
    attack = Path(__file__).parents[2] / "attacks" / "data" / "saved_model_write_file.zip"
    with pytest.raises(UnsafeFile):
        read_saved_model(attack)


def test_engine_does_not_import_tensorflow():
    code = (
        "import sys; from worker.engine.readers.saved_model import tensorflow_is_here; "
        "tensorflow_is_here(); print('tensorflow' in sys.modules or 'tf2onnx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "False"


FAKE = """
import sys
def main():
    arguments = sys.argv
    {body}
"""


FAKE_MODEL = """
class SavedModel:
    meta_graphs = ()
    @classmethod
    def FromString(cls, data):
        return cls()
    def SerializeToString(self):
        return b""
"""


@pytest.fixture
def fake_tf2onnx(tmp_path, monkeypatch):
    """A stand-in for tf2onnx and TensorFlow that does what a test says."""

    def install(body):
        folder = tmp_path / "fake" / "tf2onnx"
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / "convert.py").write_text(FAKE.format(body=body))
        (folder / "handler.py").write_text("def tf_op(names): return lambda kind: kind")
        (folder / "utils.py").write_text("map_onnx_to_numpy_type = None")
        protobuf = folder.parent / "tensorflow" / "core" / "protobuf"
        protobuf.mkdir(parents=True)
        (protobuf / "saved_model_pb2.py").write_text(FAKE_MODEL)
        inherited = os.environ.get("PYTHONPATH", "")
        monkeypatch.setenv("PYTHONPATH", f"{folder.parent}{os.pathsep}{inherited}")
        monkeypatch.setattr(saved_model, "tensorflow_is_here", lambda: True)

    return install


def test_operations_without_a_form_in_onnx_are_named(fake_tf2onnx):
    fake_tf2onnx(
        "import logging; logging.getLogger('tf2onnx.tfonnx').error("
        "'Tensorflow op [a/b: Betainc] is not supported'); raise ValueError('secret path')"
    )
    with pytest.raises(UnsupportedModelError, match=r"no form in ONNX for: 'Betainc'") as error:
        onnx_of_saved_model(DATA / "cnn.zip")
    assert "secret" not in str(error.value)


def test_operations_that_tf2onnx_leaves_as_they_are_are_named_too(fake_tf2onnx):
    fake_tf2onnx(
        "import logging, pathlib; pathlib.Path(arguments[4]).touch(); logging.getLogger("
        "'tf2onnx.tfonnx').error('Tensorflow op [%s: %s] is not supported', 'a', 'Zeta')"
    )
    with pytest.raises(UnsupportedModelError, match=r"no form in ONNX for: 'Zeta'"):
        onnx_of_saved_model(DATA / "cnn.zip")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise RuntimeError('secret path')", "RuntimeError"),
        ("import os; os.abort()", "ended by SIGABRT"),
        ("import os; os._exit(7)", "exit status 7"),
        ("pass", "exit status 0"),
        ("raise ValueError", "ValueError"),
    ],
)
def test_conversion_that_fails_is_told_without_what_it_printed(body, reason, fake_tf2onnx):
    fake_tf2onnx(body)
    with pytest.raises(UnreadableModelError) as error:
        onnx_of_saved_model(DATA / "cnn.zip")
    assert reason in str(error.value)
    assert "secret" not in str(error.value)


def test_conversion_gets_the_clean_model_and_the_signature(fake_tf2onnx, tmp_path):
    seen = tmp_path / "seen"
    fake_tf2onnx(
        "import os, pathlib; folder = arguments[2]; "
        f"pathlib.Path({str(seen)!r}).write_text(' '.join([*arguments[5:], "
        "os.environ['CUDA_VISIBLE_DEVICES'], *sorted(os.listdir(folder))]))"
    )
    with pytest.raises(UnreadableModelError):
        onnx_of_saved_model(DATA / "cnn.zip")
    assert seen.read_text() == (
        "--opset 18 --tag serve --signature_def serving_default -1 saved_model.pb variables"
    )


def test_inputs_and_outputs_get_the_names_of_the_signature():
    inner = helper.make_graph(
        [helper.make_node("Relu", ["serving_default_x:0"], ["r"])], "g", [], [value("r", [2])]
    )
    model = model_of(
        [
            helper.make_node("If", ["c"], ["y:0"], then_branch=inner, else_branch=inner),
            helper.make_node("Relu", ["y:0"], ["y"]),
        ],
        [value("serving_default_x:0", [2]), value("c", [], onnx.TensorProto.BOOL)],
        [value("y:0", [2])],
    )
    saved_model._clean_names(model)
    assert [each.name for each in model.graph.input] == ["x", "c"]
    # There is another y.
    assert [each.name for each in model.graph.output] == ["y:0"]
    assert model.graph.node[0].attribute[0].g.node[0].input == ["x"]
    onnx.checker.check_model(model)
