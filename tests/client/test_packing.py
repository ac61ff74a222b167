"""What on a disk is which format, and folders as one file."""

import json
import zipfile

import pytest

from secateur.errors import UnknownModelFile
from secateur.models import ModelFormat
from secateur.packing import document_of, packed


def of(path, **given):
    with packed(path, **given) as (file, model_format):
        if not zipfile.is_zipfile(file):
            return model_format, {file.name: file.read_bytes()}
        with zipfile.ZipFile(file) as archive:
            return model_format, {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("m.pt2", "pt2"),
        ("m.onnx", "onnx"),
        ("M.ONNX", "onnx"),
        ("m.keras", "keras"),
        ("m.h5", "h5"),
        ("m.hdf5", "h5"),
        ("m.tar", "saved_model"),
        ("m.tar.gz", "saved_model"),
        ("m.tgz", "saved_model"),
    ],
)
def test_a_file_is_told_by_its_name_and_sent_as_it_is(tmp_path, name, expected):
    (tmp_path / name).write_bytes(b"x")
    assert of(tmp_path / name) == (ModelFormat(expected), {name: b"x"})


FOLDERS = {
    "saved_model": {"saved_model.pb": b"a", "variables/variables.index": b"b"},
    "onnx": {"model.onnx": b"a", "weights.bin": b"b"},
    "safetensors": {"config.json": b"{}", "model.safetensors": b"a", "tokenizer.json": b"c"},
}


@pytest.mark.parametrize("expected", FOLDERS)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_folder_is_told_by_what_lies_in_it(tmp_path, expected, zipped):
    root = tmp_path / "folder"
    for name, content in FOLDERS[expected].items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    if zipped:
        with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
            for name in FOLDERS[expected]:
                archive.write(root / name, f"top/{name}")
        assert of(tmp_path / "made.zip")[0] == ModelFormat(expected)
    else:
        assert of(root) == (ModelFormat(expected), FOLDERS[expected])


def test_the_same_folder_is_the_same_bytes(tmp_path):
    """So that it is not sent twice."""
    root = tmp_path / "folder"
    root.mkdir()
    (root / "model.onnx").write_bytes(b"a")
    made = []
    for _ in range(2):
        (root / "model.onnx").touch()
        with packed(root) as (path, _):
            made.append(path.read_bytes())
    assert made[0] == made[1]
    assert not path.exists()


def test_weights_are_packed_with_what_they_are_for(tmp_path):
    weights = tmp_path / "resnet.pth"
    weights.write_bytes(b"w")
    model_format, members = of(weights, architecture="torchvision/resnet18")
    assert model_format is ModelFormat.SAFETENSORS
    assert members.pop("resnet.pth") == b"w"
    document = {"builder": "torchvision", "name": "resnet18"}
    assert json.loads(members.pop("architecture.json")) == document
    assert members == {}
    assert document_of({**document, "arguments": {"num_classes": 3}})["arguments"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("m.safetensors", "say what they are for with --architecture"),
        ("m.pth", "say what they are for with --architecture"),
        ("m.zip", "its name does not say"),
        ("m", "its name does not say"),
    ],
)
def test_what_cannot_be_told_is_refused_before_anything_is_sent(tmp_path, name, said):
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(UnknownModelFile, match=said):
        of(tmp_path / name)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(UnknownModelFile, match="holds no model"):
        of(tmp_path)
