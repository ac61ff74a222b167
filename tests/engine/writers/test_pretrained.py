"""Folders that from_pretrained loads, of pruned models of transformers."""

import json
import zipfile

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.pretrained import transformers_archive, transformers_model
from tests.engine.verified import verify_here
from worker.engine.compress import compress
from worker.engine.config import CastConfig, EvaluationConfig, PruneConfig, Request
from worker.engine.load import load_program
from worker.engine.program import Program
from worker.engine.writers.pretrained_config import candidates

pytestmark = pytest.mark.filterwarnings("ignore")  # Of the libraries that build.


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    verify_here(monkeypatch)


def compressed(tmp_path, name, dtype=torch.float32, cast=None, **prune):
    archive = transformers_archive(tmp_path / "model.zip", name, dtype)
    output = tmp_path / "output"
    output.mkdir()
    request = Request(
        model=archive,
        model_sha256="0" * 64,
        model_format="safetensors",
        recipe=(CastConfig(cast),) if cast else (PruneConfig(**prune),),
        output_dir=output,
        evaluation=EvaluationConfig(latency_rounds=0),
    )
    report = compress(request, on_progress=lambda *_: None)
    return output, report


def loaded(output, class_name, tmp_path):
    """By transformers alone, as a user would."""
    import transformers

    with zipfile.ZipFile(output / "model.transformers.zip") as archive:
        archive.extractall(tmp_path / "folder")
    model = getattr(transformers, class_name).from_pretrained(tmp_path / "folder")
    return model.eval(), json.loads((tmp_path / "folder" / "config.json").read_text())


@pytest.mark.parametrize(
    ("name", "class_name", "prune", "sizes"),
    [
        (
            "bert",
            "BertForSequenceClassification",
            {"granularity": "channels"},
            {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2},
        ),
        (
            "llama",
            "LlamaForCausalLM",
            {"granularity": "heads"},
            {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1},
        ),
    ],
)
def test_a_pruned_model_comes_back_as_one_of_transformers(tmp_path, name, class_name, prune, sizes):
    output, report = compressed(tmp_path, name, scope="local", channel_ratio=0.5, **prune)
    [found] = report["formats"]
    assert found["format"] == "transformers"
    assert found["reason"] is None
    assert found["size_bytes"] == (output / "model.transformers.zip").stat().st_size
    model, config = loaded(output, class_name, tmp_path)
    assert {key: config[key] for key in sizes} == sizes
    program = Program.from_exported(load_program(output / "model.pt2"))
    ids, mask = program.example_leaves
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(program.run(program.example_leaves)[0], logits)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == report["after_recovery"]["counts"]["parameters"]


def test_the_precision_of_the_upload_is_kept(tmp_path):
    output, report = compressed(tmp_path, "bert", torch.bfloat16, scope="local", channel_ratio=0.5)
    assert report["formats"][0]["max_relative_error"] < 1e-5
    _, config = loaded(output, "BertForSequenceClassification", tmp_path)
    assert config["dtype"] == "bfloat16"
    weights = load_file(tmp_path / "folder" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("name", "class_name"),
    [("bert", "BertForSequenceClassification"), ("llama", "LlamaForCausalLM")],
)
def test_a_cast_model_is_stored_in_few_bits(tmp_path, name, class_name):
    output, report = compressed(tmp_path, name, cast="bfloat16")
    assert report["formats"][0]["reason"] is None
    _, config = loaded(output, class_name, tmp_path)
    assert config["dtype"] == "bfloat16"
    weights = load_file(tmp_path / "folder" / "model.safetensors")
    norms = {name for name in weights if "norm" in name.lower()}
    assert norms
    assert {weights[name].dtype for name in norms} == {torch.float32}
    assert {weights[name].dtype for name in weights.keys() - norms} == {torch.bfloat16}


def test_weights_of_8_bits_are_the_reason(tmp_path):
    _, report = compressed(tmp_path, "bert", cast="float8_e4m3fn")
    assert "scales beside them" in report["formats"][0]["reason"]


def test_widths_that_differ_between_layers_are_the_reason(tmp_path):
    _, report = compressed(tmp_path, "bert", macs=0.6, exclude=("*query*", "*key*", "*value*"))
    [found] = report["formats"]
    assert found["file"] is None
    assert "configuration" in found["reason"]
    assert any(each.startswith("no transformers: ") for each in report["warnings"])


def test_half_of_a_layer_is_the_reason(tmp_path):
    _, report = compressed(
        tmp_path, "llama", granularity="layers", scope="global", channel_ratio=0.25
    )
    assert "parts of layers are gone" in report["formats"][0]["reason"]


@pytest.mark.parametrize("gone", [(), ("0",)])
@pytest.mark.parametrize(
    ("name", "stack"), [("bert", "bert.encoder.layer."), ("llama", "model.layers.")]
)
def test_whole_layers_may_go_or_nothing_at_all(name, stack, gone):
    model = transformers_model(name)
    config = model.config.to_dict()
    left = {
        key: tuple(tensor.shape)
        for key, tensor in model.state_dict().items()
        if not key.startswith(tuple(f"{stack}{number}." for number in gone))
    }
    found, names = next(candidates(type(model), config, left))
    assert found["num_hidden_layers"] == 2 - len(gone)
    numbers = {key.removeprefix(stack)[0] for key in names.values() if key.startswith(stack)}
    assert numbers == ({"0"} if gone else {"0", "1"})
