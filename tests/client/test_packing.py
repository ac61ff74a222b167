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
        sent = {name: c for name, c in FOLDERS[expected].items() if name != "tokenizer.json"}
        assert of(root) == (ModelFormat(expected), sent)


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
        ("m.zip", "the zip is damaged"),
        ("m", "its name does not say"),
    ],
)
def test_what_cannot_be_told_is_refused_before_anything_is_sent(tmp_path, name, said):
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(UnknownModelFile, match=said):
        of(tmp_path / name)


def test_of_a_checkpoint_only_what_it_needs_is_sent(tmp_path):
    for name in (
        "config.json",
        "pytorch_model.bin",
        "optimizer.pt",
        "training_args.bin",
        ".hidden",
    ):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"x")
    model_format, members = of(tmp_path)
    assert model_format is ModelFormat.SAFETENSORS
    assert members.keys() == {"config.json", "pytorch_model.bin"}
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "weights.bin")
    with pytest.raises(UnknownModelFile, match=r"it has optimizer.pt, training_args.bin, weights"):
        of(tmp_path)


def test_links_out_of_a_folder_are_not_followed(tmp_path):
    (tmp_path / "secret").write_bytes(b"s")
    root = tmp_path / "model"
    root.mkdir()
    (root / "model.onnx").write_bytes(b"a")
    (root / "data").symlink_to(tmp_path / "secret")
    assert of(root)[1] == {"model.onnx": b"a"}


def test_what_is_said_of_a_file_has_to_be_possible(tmp_path):
    weights = tmp_path / "w.pth"
    weights.write_bytes(b"w")
    asked = {"architecture": "torchvision/resnet18", "file_format": ModelFormat.ONNX}
    for given, said in (
        (asked, "are not onnx"),
        ({"architecture": "resnet18"}, "like torchvision/resnet18"),
        ({"architecture": 3}, "'int' object"),
    ):
        with pytest.raises(UnknownModelFile, match=said), packed(weights, **given):
            pass
    with pytest.raises(UnknownModelFile, match="no such file"), packed(tmp_path / "nothing"):
        pass
    with packed(weights, file_format=ModelFormat.PT2) as found:
        assert found == (weights, ModelFormat.PT2)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(UnknownModelFile, match="holds no model"):
        of(tmp_path)
