"""Keras, imported once, on PyTorch's side, and kept to itself.

Keras chooses its backend when it is imported, reads a file of settings in the user's home, and
makes one where there is none. Here it gets an empty folder for a home.
"""

import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from worker.engine.errors import UnsupportedModelError

_BACKEND = "KERAS_BACKEND"
_HOME = "KERAS_HOME"
_DEVICE = "KERAS_TORCH_DEVICE"
# What Keras imports where it is installed: slow, and with files of its own in the user's home.
_WITHOUT = ("huggingface_hub", "jax", "matplotlib", "tensorflow")


def keras() -> Any:
    """The library, on the torch backend.

    Raises:
        UnsupportedModelError: It is not installed, or this process has it on another backend.
    """
    if "keras" not in sys.modules:
        _import()
    library: Any = sys.modules["keras"]
    backend = library.config.backend()
    if backend != "torch":
        raise UnsupportedModelError(f"Keras runs on {backend} in this process, and not on torch")
    return library


def internal(name: str) -> ModuleType:
    """A module of Keras that is no part of its public interface."""
    keras()
    return importlib.import_module(f"keras.src.{name}")


@contextmanager
def without_others() -> Iterator[None]:
    """Have Keras not find what it imports where it is installed, TensorFlow among it."""
    absent = [name for name in _WITHOUT if name not in sys.modules]
    # Python takes what is None here for not installed.
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def _import() -> None:
    before = {name: os.environ.get(name) for name in (_BACKEND, _HOME, _DEVICE)}
    with tempfile.TemporaryDirectory(prefix="secateur-keras-") as home:
        os.environ.update({_BACKEND: "torch", _HOME: home, _DEVICE: "cpu"})
        try:
            with without_others():
                importlib.import_module("keras")
        except ImportError as error:
            raise UnsupportedModelError(
                "this worker has no Keras: install secateur[worker] on it"
            ) from error
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
