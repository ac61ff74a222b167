"""Weights with the name of their architecture: what is taken, and what is said of the rest."""

import json
import pickle
import struct

import pytest

from formats import inspect_model
from formats.checkpoint import open_checkpoint
from formats.errors import FormatError
from formats.tensors import ModelFacts, TensorInfo
from tests.formats.checkpoints import RESNET, WEIGHT, safetensors, write

BERT = {"model_type": "bert", "architectures": ["BertModel"]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.zip"


def refusal(path):
    with pytest.raises(FormatError) as error:
        inspect_model(path, "safetensors")
    return error.value


def test_weights_with_an_architecture_are_described(path):
    inputs = [
        {"name": "x", "shape": ["batch", 3, 8, 8]},
        {"name": "m", "shape": [2], "dtype": "bool"},
    ]
    document = {**RESNET, "arguments": {"num_classes": 3}, "inputs": inputs}
    tensors = {**WEIGHT, "steps": ("I64", [], bytes(8)), "half": ("BF16", [5], bytes(10))}
    write(path, w__safetensors=safetensors(tensors), architecture__json=document)
    assert inspect_model(path, "safetensors") == ModelFacts(
        inputs=(
            TensorInfo("x", "float32", ("batch", 3, 8, 8)),
            TensorInfo("m", "bool", ("batch",)),
        ),
        outputs=None,
        parameter_count=11,
    )


def test_a_folder_of_transformers_is_taken_with_all_that_lies_in_it(path):
    write(
        path,
        config__json=BERT,
        model__safetensors=safetensors(WEIGHT),
        tokenizer__json="{",
        modeling_bert__py="import os",
    )
    with open_checkpoint(path) as checked:
        assert checked.architecture.builder == "transformers"
        assert checked.weights == ("model.safetensors",)
        assert checked.architecture.config == BERT


def test_shards_are_those_of_the_index(path, tmp_path):
    index = {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}
    shards = [safetensors({name: ("F32", [1], bytes(4))}) for name in ("a", "b")]
    members = {"config__json": BERT, "model__safetensors__index__json": index}
    write(path, **{"m-1__safetensors": shards[0], "m-2__safetensors": shards[1]}, **members)
    with open_checkpoint(path) as checked:
        assert checked.weights == ("m-1.safetensors", "m-2.safetensors")
        assert [tensor.name for tensor in checked.tensors] == ["a", "b"]
        checked.extract("m-2.safetensors", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == shards[1]
    write(path, **{"m-1__safetensors": shards[0]}, **members)
    assert "'m-2.safetensors'" in refusal(path).detail
    write(path, **{"m-1__safetensors": shards[0], "m-2__safetensors": shards[0]}, **members)
    assert "tensor 'a' twice" in refusal(path).detail


@pytest.mark.parametrize(
    ("members", "code", "said"),
    [
        ({"architecture__json": RESNET}, "model.not_a_checkpoint", "without weights"),
        ({"w__safetensors": safetensors(WEIGHT)}, "model.not_a_checkpoint", "without config.json"),
        (
            {"architecture__json": RESNET, "a__pth": b"PK\3\4", "b__pth": b"PK\3\4"},
            "model.not_a_checkpoint",
            "2 pickled",
        ),
        (
            {"architecture__json": RESNET, "a__pth": pickle.dumps({"weight": 1})},
            "file.unsafe",
            "no state dict of a current torch.save",
        ),
    ],
)
def test_what_is_missing_is_named(path, members, code, said):
    error = refusal(write(path, **members))
    assert error.code == code
    assert said in error.detail


def test_what_is_no_archive_is_named(path):
    path.write_bytes(safetensors(WEIGHT))
    error = refusal(path)
    assert "safetensors file (weights alone" in error.detail
    assert "zip -0 model.zip" in error.detail


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("[]", "not an object"),
        ("{", "no JSON"),
        ({"builder": "keras", "name": "x"}, "'keras'"),
        ({"builder": "timm"}, "name is ''"),
        ({"builder": "timm", "name": 3}, "name is 3"),
        ({"builder": "transformers"}, "needs its config.json"),
        ({**RESNET, "code": "x"}, "'code'"),
        ({**RESNET, "arguments": {"x": {"y": 1}}}, "numbers, texts and lists"),
        ({**RESNET, "inputs": []}, "list of 1 to 32 objects"),
        ({**RESNET, "inputs": [{"name": "x y", "shape": [1]}]}, "argument of the model"),
        ({**RESNET, "inputs": [{"name": "x", "shape": ["b", 2**30]}]}, "sizes are numbers"),
        ({**RESNET, "inputs": [{"name": "x", "shape": ["b", "c"]}]}, "sizes are numbers"),
        ({**RESNET, "inputs": [{"name": "x", "shape": [1], "dtype": "o"}]}, "'o'"),
        ({**RESNET, "inputs": [{"name": "x", "shape": [1], "more": 1}]}, "sizes are numbers"),
        ({**RESNET, "inputs": [{"name": "x", "shape": [1, 2**20, 2**20]}]}, "elements in a row"),
        ({**RESNET, "inputs": [{"name": "x", "shape": [1]}] * 2}, "two inputs are called 'x'"),
    ],
)
def test_architectures_that_say_something_else_are_refused(path, document, said):
    write(path, w__safetensors=safetensors(WEIGHT), architecture__json=document)
    error = refusal(path)
    assert error.code == "model.architecture"
    assert said in error.detail


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"auto_map": {"AutoModel": "modeling.Mine"}}, "'auto_map'"),
        ({"text_config": [{"auto_map": {"AutoModel": "modeling.Mine"}}]}, "'auto_map'"),
        ({"model_type": "timm_wrapper", "architecture": "resnet18"}, "'timm_wrapper'"),
        ({"backbone_config": {"model_type": "timm_backbone"}}, "'timm_backbone'"),
        ({"model_args": {"checkpoint_path": "/etc/shadow"}}, "'model_args'"),
        ({"backbone": "/etc", "use_pretrained_backbone": True}, "looked for elsewhere"),
        ({"backbone_kwargs": {"checkpoint_path": "/etc/shadow"}}, "'backbone_kwargs'"),
    ],
)
def test_a_configuration_that_has_code_or_files_looked_for_is_refused(path, config, said):
    """transformers hands some of them to timm, which opens what they name."""
    write(path, w__safetensors=safetensors(WEIGHT), config__json={**BERT, **config})
    error = refusal(path)
    assert error.code == "model.architecture"
    assert said in error.detail


def test_keys_that_name_nothing_are_taken(path):
    config = {**BERT, "backbone": None, "use_timm_backbone": False}
    write(path, w__safetensors=safetensors(WEIGHT), config__json=config)
    assert inspect_model(path, "safetensors").parameter_count == 6


def test_a_folder_of_timm_is_told_what_to_add(path):
    config = {"architecture": "resnet18.a1_in1k", "num_classes": 1000}
    write(path, w__safetensors=safetensors(WEIGHT), config__json=config)
    assert '{"builder": "timm", "name": "resnet18"}' in refusal(path).detail


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"\1", "file.truncated", "ends within its header"),
        (struct.pack("<Q", 2**40), "file.truncated", "announces a header of"),
        (struct.pack("<Q", 4) + b"nope", "file.unreadable", "no JSON"),
        (struct.pack("<Q", 2) + b"[]", "file.unreadable", "not an object"),
        (safetensors(WEIGHT, tail=b"x"), "file.truncated", "describes"),
        (safetensors(WEIGHT)[:-1], "file.truncated", "describes"),
        (safetensors({"w": ("F32", [2**40], bytes(4))}), "file.unsafe", "shape"),
        (safetensors({"w": ("F32", [-1], bytes(4))}), "file.unsafe", "shape"),
        (safetensors({"w": ("F32", [True], bytes(4))}), "file.unsafe", "shape"),
        (safetensors({"w": ("PICKLE", [1], bytes(4))}), "file.unreadable", "'PICKLE'"),
        (safetensors({"w\n": ("F32", [1], bytes(4))}), "file.unsafe", "called"),
        (safetensors({}, header={"w": {"dtype": "F32"}}), "file.unreadable", "described"),
        (safetensors({}, header={"w": []}), "file.unreadable", "described"),
        (safetensors({}, header={"__metadata__": {"a": 1}}), "file.unreadable", "metadata"),
        (safetensors({}, header={"__metadata__": [1]}), "file.unreadable", "metadata"),
    ],
)
def test_headers_that_do_not_describe_the_bytes_are_refused(path, content, code, said):
    error = refusal(write(path, w__safetensors=content, architecture__json=RESNET))
    assert error.code == code
    assert said in error.detail


@pytest.mark.parametrize("offsets", [[0, 4], [4, 8], [8, 12]])
def test_tensors_neither_overlap_nor_leave_gaps(path, offsets):
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"a": one, "b": {**one, "data_offsets": offsets}}).encode()
    content = struct.pack("<Q", len(header)) + header + bytes(8)
    write(path, w__safetensors=content, architecture__json=RESNET)
    if offsets == [4, 8]:
        assert inspect_model(path, "safetensors").parameter_count == 2
    else:
        assert refusal(path).code == "file.unsafe"
