"""The demo's network made in Keras, on any backend (KERAS_BACKEND), and looked at in plain Keras.

``train FOLDER`` writes ``digits.keras``, ``train.npz`` and ``test.npz``; with ``--saved-model``
also the folder ``saved_model``, which needs TensorFlow. ``check FILE TEST`` prints the accuracy and
the number of parameters of a ``.keras`` file, as JSON. Secateur has no part in either.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("KERAS_BACKEND", "torch")


def network() -> Any:
    """Three 3x3 convolutions, 1-6-16-32, and two dense layers, on images of 14x14x1."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((14, 14, 1), name="image"),
            layers.Conv2D(6, 3, activation="relu", name="conv1"),
            layers.Conv2D(16, 3, name="conv2"),
            layers.BatchNormalization(name="norm2"),
            layers.Activation("relu", name="relu2"),
            layers.MaxPooling2D(2, name="pool"),
            layers.Conv2D(32, 3, activation="relu", name="conv3"),
            layers.Flatten(name="flatten"),
            layers.Dropout(0.2, name="dropout"),
            layers.Dense(64, activation="relu", name="hidden"),
            layers.Dense(10, name="head"),
        ]
    )


def train(folder: Path, *, epochs: int, saved_model: bool) -> None:
    """Train on scikit-learn's handwritten digits, and save model and data."""
    import keras
    from digits_model import digits

    # Channels last, as Keras has them.
    images, targets, test_images, test_targets = (
        each.numpy() if each.dim() == 1 else each.permute(0, 2, 3, 1).contiguous().numpy()
        for each in digits()
    )
    model = network()
    model.compile(
        keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(images, targets, batch_size=32, epochs=epochs, verbose=0)
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "digits.keras")
    np.savez(folder / "train.npz", inputs=images, targets=targets)
    np.savez(folder / "test.npz", inputs=test_images, targets=test_targets)
    if saved_model:
        model.export(folder / "saved_model", verbose=False)


def check(path: Path, test: Path) -> None:
    """What a file is worth, as plain Keras sees it."""
    import keras

    model = keras.saving.load_model(path, compile=False)
    with np.load(test) as data:
        logits = model.predict(data["inputs"], verbose=0)
        accuracy = float((logits.argmax(1) == data["targets"]).mean())
    count = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    print(json.dumps({"accuracy": accuracy, "parameters": count}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("train")
    command.add_argument("folder", type=Path)
    command.add_argument("--epochs", type=int, default=10)
    command.add_argument("--saved-model", action="store_true")
    command.set_defaults(
        run=lambda given: train(given.folder, epochs=given.epochs, saved_model=given.saved_model)
    )
    command = commands.add_parser("check")
    command.add_argument("file", type=Path)
    command.add_argument("test", type=Path)
    command.set_defaults(run=lambda given: check(given.file, given.test))
    given = parser.parse_args()
    given.run(given)


if __name__ == "__main__":
    main()
