"""Models of transformers and of torchvision in small, as archives of weights."""

import contextlib
import io
import json
import warnings
from pathlib import Path

import torch
from safetensors.torch import save

from tests.formats.checkpoints import write
from worker.engine.readers.architecture.offline import import_offline

_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
_TEXT = {**_SIZES, "vocab_size": 99, "max_position_embeddings": 64, "pad_token_id": 0}

MODELS = {
    "bert": ("BertForSequenceClassification", _TEXT),
    "llama": ("LlamaForCausalLM", {**_TEXT, "num_key_value_heads": 2}),
    "gpt2": (
        "GPT2LMHeadModel",
        {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    ),
    "vit": ("ViTForImageClassification", {**_SIZES, "image_size": 32, "patch_size": 8}),
    "t5": (
        "T5ForConditionalGeneration",
        {
            "vocab_size": 99,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
    ),
}


def transformers_model(name, dtype=torch.float32):
    """A model with random weights, the same each time."""
    with warnings.catch_warnings():
        # Of libraries, on their own import.
        warnings.simplefilter("ignore")
        import_offline()
        import transformers

        class_name, sizes = MODELS[name]
        model_class = getattr(transformers, class_name)
        torch.manual_seed(0)
        return model_class(model_class.config_class(**sizes)).eval().to(dtype)


def transformers_archive(path: Path, name: str, dtype=torch.float32, **members) -> Path:
    """What `save_pretrained` writes, zipped, and more members where they are given."""
    model = transformers_model(name, dtype)
    folder = path.parent / f"{path.stem}-folder"
    with contextlib.redirect_stderr(io.StringIO()):  # A progress bar.
        model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    weights = (folder / "model.safetensors").read_bytes()
    return write(path, **{"config__json": config, "model__safetensors": weights, **members})


def torchvision_archive(path: Path, *, pickled=False, **document) -> Path:
    """A small model of torchvision with random weights, and what is said of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_offline()
        from torchvision import models

        torch.manual_seed(0)
        model = models.get_model("squeezenet1_1", weights=None, num_classes=5).eval()
    inputs = [{"name": "x", "shape": ["batch", 3, 32, 32]}]
    asked = {
        "builder": "torchvision",
        "name": "squeezenet1_1",
        "arguments": {"num_classes": 5},
        "inputs": inputs,
        **document,
    }
    if pickled:
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        return write(path, w__pth=file.getvalue(), architecture__json=asked)
    return write(path, w__safetensors=save(model.state_dict()), architecture__json=asked)
