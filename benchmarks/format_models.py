"""A small model of each family in each format, as its own tool writes it.

``python -m benchmarks.format_models FORMAT FAMILY FOLDER`` writes one file and prints its path. It
is a process of its own, for Keras takes one backend in its life: torch, and TensorFlow where a
SavedModel is asked for.
"""

import json
import os
import shutil
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

FAMILIES = ("MLP", "CNN", "RNN", "transformer")
FORMATS = ("pt2", "onnx", "keras", "h5", "saved_model", "safetensors")
NO_BUILDER = "no builder of torchvision, timm or transformers makes a plain recurrent network"
"""Why one cell has no model."""


def main(file_format: str, family: str, folder: Path) -> None:
    os.environ["KERAS_BACKEND"] = "tensorflow" if file_format == "saved_model" else "torch"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    warnings.simplefilter("ignore")
    writers: dict[str, Callable[[str, Path], Path]] = {
        "pt2": _pt2,
        "onnx": _onnx,
        "keras": _keras,
        "h5": _h5,
        "saved_model": _saved_model,
        "safetensors": _safetensors,
    }
    print(writers[file_format](family, folder))


def _exported(family: str) -> Any:
    import torch
    from torch import nn

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(8, 16, batch_first=True)
            self.head = nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            states: torch.Tensor = self.lstm(x)[0]
            return self.head(states[:, -1])

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(50, 32)
            self.blocks = nn.Sequential(
                *(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True) for _ in range(2))
            )
            self.head = nn.Linear(32, 4)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.blocks(self.embedding(ids)).mean(1))

    torch.manual_seed(0)
    made: dict[str, tuple[nn.Module, torch.Tensor]] = {
        "MLP": (
            nn.Sequential(
                nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
            ),
            torch.randn(2, 16),
        ),
        "CNN": (
            nn.Sequential(
                nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
                nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4),
            ),
            torch.randn(2, 3, 16, 16),
        ),
        "RNN": (Recurrent(), torch.randn(2, 6, 8)),
        "transformer": (Transformer(), torch.randint(0, 50, (2, 6))),
    }  # fmt: skip
    module, example = made[family]
    batch = torch.export.Dim("batch")
    return torch.export.export(module.eval(), (example,), dynamic_shapes=({0: batch},))


def _pt2(family: str, folder: Path) -> Path:
    import torch

    path = folder / "model.pt2"
    torch.export.save(_exported(family), path)
    return path


def _onnx(family: str, folder: Path) -> Path:
    import torch

    path = folder / "model.onnx"
    made = torch.onnx.export(_exported(family), dynamo=True, verbose=False, external_data=False)
    assert made is not None
    made.save(path, external_data=False)
    return path


def _of_keras(family: str) -> Any:
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    if family == "MLP":
        return keras.Sequential(
            [
                keras.Input((16,)),
                layers.Dense(32, "relu"),
                layers.Dense(32, "relu"),
                layers.Dense(4),
            ]
        )
    if family == "CNN":
        return keras.Sequential(
            [
                keras.Input((16, 16, 3)),
                layers.Conv2D(16, 3, padding="same"),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Conv2D(32, 3, padding="same", activation="relu"),
                layers.MaxPooling2D(2),
                layers.GlobalAveragePooling2D(),
                layers.Dense(4),
            ]
        )
    if family == "RNN":
        return keras.Sequential(
            [
                keras.Input((6, 8)),
                layers.LSTM(16, return_sequences=True),
                layers.LSTM(16),
                layers.Dense(4),
            ]
        )
    x = inputs = keras.Input((6, 32))
    for _ in range(2):
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 8)(x, x))
        y = layers.Dense(64, "gelu")(x)
        x = layers.LayerNormalization()(x + layers.Dense(32)(y))
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling1D()(x)))


def _keras(family: str, folder: Path) -> Path:
    path = folder / "model.keras"
    _of_keras(family).save(path)
    return path


def _h5(family: str, folder: Path) -> Path:
    path = folder / "model.h5"
    _of_keras(family).save(path)
    return path


def _saved_model(family: str, folder: Path) -> Path:
    made = folder / "saved_model"
    _of_keras(family).export(made, verbose=False)
    return Path(shutil.make_archive(str(folder / "model"), "zip", made))


def _safetensors(family: str, folder: Path) -> Path:
    import torch
    from safetensors.torch import save

    from benchmarks.randomize import randomize
    from worker.engine.readers.architecture.offline import import_offline

    import_offline()
    torch.manual_seed(0)
    members: dict[str, bytes | str] = {}
    if family == "transformer":
        import transformers

        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = transformers.BertConfig(vocab_size=50, intermediate_size=64, **sizes)
        transformers.BertForSequenceClassification(config).save_pretrained(folder / "bert")
        for name in ("config.json", "model.safetensors"):
            members[name] = (folder / "bert" / name).read_bytes()
    elif family == "RNN":
        raise SystemExit(NO_BUILDER)
    else:
        import timm

        name = {"MLP": "mixer_s32_224", "CNN": "test_resnet"}[family]
        model = timm.create_model(name, num_classes=4)
        randomize(model.eval(), ((torch.randn(2, 3, 224, 224),), {}), seed=0)
        document = {"builder": "timm", "name": name, "arguments": {"num_classes": 4}}
        members["model.safetensors"] = save(model.state_dict())
        members["architecture.json"] = json.dumps(document)
    path = folder / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
