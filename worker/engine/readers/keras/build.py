"""A model of Keras from a checked configuration and checked weights."""

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from formats.errors import UnsafeFile
from worker.engine.errors import UnreadableModelError
from worker.engine.readers.keras.runtime import internal, keras
from worker.engine.wording import first_line


def built(config: Mapping[str, Any], *, max_elements: int | None = None) -> Any:
    """Build the model; its weights are NaN where they are floats, and zero elsewhere.

    Args:
        config: Of ``formats.keras.checked_config``, or one made from such a one.
        max_elements: How many elements its weights may have in all: no more than the file holds.

    Raises:
        UnsafeFile: It asks for more than that.
        UnreadableModelError: Keras cannot build it.
    """
    library = keras()
    library.backend.clear_session(free_memory=False)
    with _no_values(max_elements), warnings.catch_warnings():
        # What Keras thinks of old arguments and of data types is not for this log.
        warnings.simplefilter("ignore")
        try:
            model = library.saving.deserialize_keras_object(
                # A copy: Keras takes what it reads out of it.
                copy.deepcopy(dict(config)),
                safe_mode=True,
            )
        except UnsafeFile:
            raise
        except Exception as error:
            raise UnreadableModelError(
                f"Keras {library.__version__} cannot build this model ({type(error).__name__}: "
                f"{first_line(error)}); load it there, and save it again"
            ) from error
    if not model.built:
        raise UnreadableModelError(
            "the model does not say what it takes: add keras.Input(shape) as its first layer, and "
            "save it again"
        )
    return model


def load_weights(model: Any, path: Path, *, is_whole_model: bool) -> None:
    """Read weights from a file that ``copy_checked`` wrote.

    Raises:
        UnreadableModelError: They are not those of the model.
    """
    library = keras()
    with warnings.catch_warnings():
        # Layers without weights in the file are found below.
        warnings.simplefilter("ignore")
        try:
            if is_whole_model:
                _load_whole(model, path)
            else:
                internal("saving.saving_lib").load_weights_only(model, str(path))
        except Exception as error:
            raise UnreadableModelError(
                f"the weights in the file are not those of its model ({first_line(error)}); save "
                f"it again with Keras {library.__version__}"
            ) from error
    missing = [variable.path for variable in model.variables if _is_untouched(variable)]
    if missing:
        raise UnreadableModelError(
            f"the file has no numbers for {missing[0]}: its weights are missing, or NaN; save the "
            f"trained model again with Keras {library.__version__}"
        )


def _load_whole(model: Any, path: Path) -> None:
    h5py: Any = internal("utils.module_utils").h5py
    with h5py.File(path, "r") as file:
        internal("legacy.saving.legacy_h5_format").load_weights_from_hdf5_group(
            file["model_weights"], model
        )


def _is_untouched(variable: Any) -> bool:
    value = variable.value
    return bool(
        value.is_floating_point() and value.numel() and torch.isnan(value.float()).all().item()
    )


@contextmanager
def _no_values(max_elements: int | None) -> Iterator[None]:
    """Make variables without drawing their first values, and no more than allowed."""
    core = internal("backend.torch.core")
    found = 0

    def begin(variable: Any, _initializer: Any) -> None:
        nonlocal found
        size = 1
        for each in variable.shape:
            size *= each
        found += size
        if max_elements is not None and found > max_elements:
            raise UnsafeFile(
                "config.json",
                f"its layers need {found} weights and more, and the file holds {max_elements}",
            )
        dtype = core.to_torch_dtype(variable.dtype)
        first = float("nan") if dtype.is_floating_point else 0
        variable._initialize(torch.full(tuple(variable.shape), first, dtype=dtype))  # noqa: SLF001

    with patch.object(core.Variable, "_initialize_with_initializer", begin), any_names():
        yield


@contextmanager
def any_names() -> Iterator[None]:
    """Take names of layers with dots, which PyTorch's own registry of parameters refuses."""
    layers = internal("backend.torch.layer")
    with patch.object(layers.TorchLayer, "_track_variables", _track_nothing):
        yield


def _track_nothing(layer: Any) -> None:
    layer._torch_params = torch.nn.ParameterDict({})  # noqa: SLF001
