"""Weights with the name of their architecture, read into programs."""

import io
import json

import pytest
import torch
from safetensors.torch import load, save

from formats.errors import FormatError
from tests.engine.pretrained import (
    torchvision_archive,
    transformers_archive,
    transformers_model,
)
from tests.formats.checkpoints import write
from worker.engine.errors import EngineError
from worker.engine.program import Program
from worker.engine.readers import read_model
from worker.engine.readers.architecture import builders

pytestmark = pytest.mark.filterwarnings("ignore")  # Of the libraries that build.


def read(path):
    return read_model(path, "safetensors")


def refusal(path):
    with pytest.raises((FormatError, EngineError)) as error:
        read(path)
    return str(error.value)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.zip"


@pytest.mark.parametrize("name", ["bert", "llama", "vit", "t5"])
def test_a_model_of_transformers_computes_what_it_computed(name, path):
    source = read(transformers_archive(path, name))
    model = transformers_model(name)
    program = Program.from_exported(source.exported)
    names = source.origin.inputs
    with torch.no_grad():
        expected = model(**dict(zip(names, program.example_leaves, strict=True)))
    torch.testing.assert_close(program.run(program.example_leaves)[0], expected.logits)
    assert dict(program.module.named_parameters()).keys() >= {
        name for name, _ in model.named_parameters()
    }
    assert source.warnings == ()
    # Rows, and tokens where there are any, may be as many as one likes.
    fixed = {"pixel_values": (None, 3, 32, 32)}
    assert program.input_sizes == [fixed.get(each, (None, None)) for each in names]


def test_weights_of_low_precision_are_read_as_floats_and_that_is_said(path):
    source = read(transformers_archive(path, "bert", torch.bfloat16))
    assert {w.dtype for w in source.exported.parameters()} == {torch.float32}
    assert source.origin.dtype == "bfloat16"
    assert "bfloat16" in source.warnings[0]


@pytest.mark.parametrize("pickled", [False, True])
def test_a_model_of_torchvision_takes_its_weights(path, pickled):
    source = read(torchvision_archive(path, pickled=pickled))
    program = Program.from_exported(source.exported)
    assert program.input_sizes == [(None, 3, 32, 32)]
    assert program.run([torch.ones(3, 3, 32, 32)])[0].shape == (3, 5)


def test_a_model_of_timm_takes_its_weights(path):
    import timm

    torch.manual_seed(0)
    model = timm.create_model("test_convnext", num_classes=4, in_chans=1).eval()
    document = {
        "builder": "timm",
        "name": "test_convnext",
        "arguments": {"num_classes": 4, "in_chans": 1},
    }
    write(path, w__safetensors=save(model.state_dict()), architecture__json=document)
    program = Program.from_exported(read(path).exported)
    image = torch.randn(3, *program.example_leaves[0].shape[1:])
    torch.testing.assert_close(program.run([image])[0], model(image))


def test_a_checkpoint_of_a_trainer_is_unwrapped(path, tmp_path):
    torchvision_archive(tmp_path / "plain.zip")
    from torchvision import models

    model = models.get_model("squeezenet1_1", weights=None, num_classes=5)
    parallel = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    file = io.BytesIO()
    torch.save({"epoch": 3, "state_dict": parallel}, file)
    document = {"builder": "torchvision", "name": "squeezenet1_1", "arguments": {"num_classes": 5}}
    write(path, w__pth=file.getvalue(), architecture__json=document)
    read(path)


def test_weights_of_another_architecture_are_named(path):
    said = refusal(torchvision_archive(path, arguments={"num_classes": 7}))
    assert "classifier.1.weight ([5, 512, 1, 1] in the file, [7, 512, 1, 1] by" in said
    said = refusal(torchvision_archive(path, name="alexnet"))
    assert "the file lacks" in said
    assert "the architecture has no" in said


def test_weights_that_transformers_misses_are_named(path, tmp_path):
    transformers_archive(tmp_path / "whole.zip", "bert")
    weights = load((tmp_path / "whole-folder" / "model.safetensors").read_bytes())
    weights["surplus"] = weights.pop("classifier.weight")
    said = refusal(transformers_archive(path, "bert", model__safetensors=save(weights)))
    assert "the file lacks classifier.weight" in said
    assert "the class has no surplus" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": ["Mine"]}, "lists no model class 'Mine'"),
        ({"architectures": ["AutoModel"]}, "lists no model class 'AutoModel'"),
        ({"architectures": ["LlamaForCausalLM"]}, "is of 'llama'"),
        ({"model_type": "mine", "architectures": None}, "'mine' has none"),
        ({"hidden_size": "large"}, "does not take this config.json"),
        ({"num_hidden_layers": 10**9}, "1000000000 layers"),
        ({"hidden_size": 2**40}, "cannot be built from this config.json"),
        ({"hidden_size": 48}, "([32] in the file, [48] by config.json)"),
        ({"quantization_config": {}}, "already quantized"),
    ],
)
def test_configurations_that_cannot_be_built_are_refused(path, tmp_path, changes, said):
    transformers_archive(path, "bert")
    config = json.loads((tmp_path / "model-folder" / "config.json").read_text())
    assert said in refusal(transformers_archive(path, "bert", config__json={**config, **changes}))


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"name": "resnet0"}, "knows no model 'resnet0'"),
        ({"arguments": {"weights": "DEFAULT"}}, "gets no argument 'weights'"),
        ({"arguments": {"num_classes": "many"}}, "is 'many', and is to be a whole number"),
        ({"arguments": {"num_classes": 0}}, "is 0, and is to be a whole number"),
        ({"arguments": {"image_size": 10**9}}, "from 1 to 100000"),
        (
            {"inputs": [{"name": "y", "shape": [2, 3, 32, 32]}]},
            "has no input 'y'; it takes x",
        ),
        (
            {"inputs": [{"name": "x", "shape": [2, 1, 32, 32]}]},
            "does not run on x of [2, 1, 32, 32]",
        ),
        ({"name": "fcn_resnet50"}, "knows no model 'fcn_resnet50'"),
        ({"builder": "timm", "name": "hf-hub:mine/model"}, "knows no model 'hf-hub:mine/model'"),
    ],
)
def test_builders_make_what_they_list_alone(path, document, said):
    assert said in refusal(torchvision_archive(path, **document))


def test_a_tag_of_timms_weights_is_not_asked_for(path):
    document = {"builder": "timm", "name": "test_convnext.some_tag", "inputs": []}
    document.pop("inputs")
    assert "the file lacks" in refusal(torchvision_archive(path, **document, arguments={}))


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.float8_e4m3fn])
def test_weights_that_are_no_floats_are_no_weights(path, tmp_path, dtype):
    transformers_archive(tmp_path / "whole.zip", "bert")
    weights = load((tmp_path / "whole-folder" / "model.safetensors").read_bytes())
    weights["classifier.weight"] = weights["classifier.weight"].to(dtype)
    file = io.BytesIO()
    torch.save(weights, file)
    config = json.loads((tmp_path / "whole-folder" / "config.json").read_text())
    write(path, pytorch_model__bin=file.getvalue(), config__json=config)
    assert "classifier.weight is stored as" in refusal(path)


def test_a_number_shown_as_billions_is_not_copied(path):
    file = io.BytesIO()
    torch.save({"weight": torch.zeros(1).expand(2**40)}, file)
    document = {"builder": "torchvision", "name": "squeezenet1_1"}
    write(path, w__pth=file.getvalue(), architecture__json=document)
    assert "weight is no plain tensor of its own" in refusal(path)


def test_a_pickled_module_and_torchscript_are_no_weights(path):
    document = {"builder": "torchvision", "name": "squeezenet1_1"}
    for write_to, said in (
        (lambda module, file: torch.save(module, file), "as a pickled module does"),
        (lambda module, file: torch.jit.save(torch.jit.script(module), file), "TorchScript"),
    ):
        file = io.BytesIO()
        write_to(torch.nn.Linear(2, 2), file)
        write(path, w__pth=file.getvalue(), architecture__json=document)
        assert said in refusal(path)


def test_a_worker_without_the_library_says_what_to_do(path, monkeypatch):
    monkeypatch.setattr(builders.importlib.util, "find_spec", lambda _: None)
    said = refusal(torchvision_archive(path))
    assert "no torchvision: install it (pip install 'secateur[architectures]')" in said
