"""Write the SavedModels that tests read: ``python tests/formats/data/make_saved_models.py``."""

import shutil
import tempfile
import zipfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

HONEST = Path(__file__).parent
ATTACKS = HONEST.parents[1] / "attacks" / "data"
X = tf.TensorSpec([None, 2], tf.float32, name="x")
# In the working folder of whoever runs the model.
MARKER, SECRET = "planted_by_the_attacks", "secret_of_the_attacks"


def pack(folder: Path, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                # With a fixed date, so that a file made again is the same where the model is.
                entry = zipfile.ZipInfo(f"{path.stem}/{file.relative_to(folder)}")
                archive.writestr(entry, file.read_bytes(), compress_type=zipfile.ZIP_DEFLATED)
    shutil.rmtree(folder)


def export(model: keras.Model, name: str, folder: Path) -> None:
    x = np.random.default_rng(0).normal(size=(3, *model.input_shape[1:])).astype(np.float32)
    answers = {"inputs": x, "targets": model(x, training=False).numpy()}
    np.savez(HONEST / f"{name}.npz", **answers)
    model.export(folder / name, verbose=False)
    pack(folder / name, HONEST / f"{name}.zip")


def cnn() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            layers.Conv2D(4, 3, padding="same", name="first"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.Conv2D(6, 1, activation="relu6"),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.3),
            layers.Dense(5, activation="softmax"),
        ]
    )


def recurrent() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((7, 4), name="steps"),
            layers.LSTM(6, return_sequences=True),
            layers.GRU(5),
            layers.Dense(2),
        ]
    )


def grouped() -> keras.Model:
    """What Keras marks for a compiler, and an exact GELU, each of which tf2onnx needs help with."""
    return keras.Sequential(
        [
            keras.Input((6, 6, 4), name="image"),
            layers.Conv2D(8, 3, groups=2),
            layers.GroupNormalization(2),
            layers.Activation("gelu"),
            layers.GlobalMaxPooling2D(),
        ]
    )


class Attack(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = tf.Variable([[1.0], [2.0]])


class WriteFile(Attack):
    @tf.function(input_signature=[X])
    def serve(self, x):
        tf.io.write_file(MARKER, "x")
        return {"y": x @ self.weight}


class WriteFileInABranch(Attack):
    @tf.function(input_signature=[X])
    def serve(self, x):
        def harm():
            tf.io.write_file(MARKER, "x")
            return x * 2

        return {"y": tf.cond(tf.reduce_sum(x) > -1e9, harm, lambda: x) @ self.weight}


class ReadFile(Attack):
    @tf.function(input_signature=[X])
    def serve(self, x):
        secret = tf.cast(tf.io.decode_raw(tf.io.read_file(SECRET), tf.uint8), tf.float32)
        return {"y": tf.reduce_sum(x @ self.weight) * 0 + secret}


class Print(Attack):
    @tf.function(input_signature=[X])
    def serve(self, x):
        tf.print("x", output_stream=f"file://{MARKER}")
        return {"y": x @ self.weight}


class Python(Attack):
    @tf.function(input_signature=[X])
    def serve(self, x):
        y = tf.py_function(lambda value: value * 2, [x], tf.float32)
        return {"y": tf.ensure_shape(y, [None, 2]) @ self.weight}


class Restore(Attack):
    @tf.function(input_signature=[X])
    def serve(self, x):
        [secret] = tf.raw_ops.RestoreV2(
            prefix=SECRET, tensor_names=["v"], shape_and_slices=[""], dtypes=[tf.float32]
        )
        return {"y": x @ self.weight + secret}


class OnLoad(Attack):
    """A table whose initializer writes a file: it runs when the model is read."""

    class Initializer(tf.lookup.KeyValueTensorInitializer):
        def initialize(self, table):
            with tf.control_dependencies([tf.io.write_file(MARKER, "x")]):
                return super().initialize(table)

    def __init__(self) -> None:
        super().__init__()
        keys, values = tf.constant([0, 1], tf.int64), tf.constant([1.0, 2.0])
        self.table = tf.lookup.StaticHashTable(self.Initializer(keys, values), 0.0)

    @tf.function(input_signature=[X])
    def serve(self, x):
        return {"y": x @ self.weight + self.table.lookup(tf.cast(x[:, :1], tf.int64))}


def attack(kind: type[Attack], name: str, folder: Path) -> None:
    module = kind()
    tf.saved_model.save(module, folder / name, signatures={"serving_default": module.serve})
    pack(folder / name, ATTACKS / f"saved_model_{name}.zip")


def main() -> None:
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export(cnn(), "cnn", folder)
        export(recurrent(), "recurrent", folder)
        export(grouped(), "grouped", folder)
        attack(WriteFile, "write_file", folder)
        attack(WriteFileInABranch, "write_file_in_a_branch", folder)
        attack(ReadFile, "read_file", folder)
        attack(Print, "print", folder)
        attack(Python, "python", folder)
        attack(Restore, "restore", folder)
        attack(OnLoad, "on_load", folder)


if __name__ == "__main__":
    main()
