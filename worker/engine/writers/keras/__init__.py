"""Pruned models as ``.keras`` files: built anew by Keras, saved by Keras, and compared.

The program says how large each variable is now. From that follows how many filters or units each
layer has; Keras builds that model, gets the weights, and saves it. What was saved is loaded again,
and gives what the program gives, or nothing is delivered.
"""

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worker.engine.difference import LOW_PRECISION, dtypes_of, relative_error, tolerance
from worker.engine.errors import EngineError
from worker.engine.program import Program, attribute
from worker.engine.readers.keras import KerasOrigin, KerasVariable
from worker.engine.readers.keras.build import any_names, built
from worker.engine.readers.keras.layouts import LAYOUTS
from worker.engine.readers.keras.runtime import keras, without_others
from worker.engine.readers.keras.trace import input_structure
from worker.engine.writers.inexpressible import InexpressibleError
from worker.engine.writers.keras.resize import resized

# Where a size of a reshape follows from the others: the channels, which come last; else the first.
_OPEN_PLACES = (None, -1, 0, 1, 2)


def write(program: Program, origin: KerasOrigin, path: Path) -> None:
    """Write a ``.keras`` file of a program that was read from one, and may be smaller now.

    Raises:
        InexpressibleError: Keras's layers cannot say it, or do not give what the program gives.
    """
    if low := {*LOW_PRECISION, torch.float8_e4m3fn} & dtypes_of(program):
        name = str(min(low, key=str)).removeprefix("torch.")
        raise InexpressibleError(
            f"the program has parts in {name} and parts in float32, and a Keras layer computes in "
            "one type, which its policy names: take model.pt2, or ask for onnx and float16"
        )
    values = [_value(program, variable) for variable in origin.variables]
    reasons: list[str] = []
    with tempfile.TemporaryDirectory(prefix="secateur-keras-") as folder:
        written = Path(folder) / "model.keras"
        for place in _OPEN_PLACES:
            try:
                _write(program, origin, values, written, open_place=place)
            except InexpressibleError as error:
                reasons.append(str(error))
                if not _has_reshapes(origin.config):
                    break
            else:
                shutil.move(written, path)
                return
    raise InexpressibleError(reasons[0])


def serve(path: Path) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """A ``.keras`` file in Keras as it is.

    Only for files that this worker wrote: nothing is checked.
    """
    library = keras()
    with _quietly(), any_names(), without_others():
        return partial(_outputs, library.saving.load_model(path, compile=False, safe_mode=True))


def run(path: Path, calls: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The outputs of a ``.keras`` file in Keras."""
    call = serve(path)
    return [output for leaves in calls for output in call(leaves)]


def _write(
    program: Program,
    origin: KerasOrigin,
    values: list[Tensor],
    written: Path,
    *,
    open_place: int | None,
) -> None:
    config, values = resized(program, origin, values, open_place=open_place)
    try:
        model = built(config)
    except EngineError as error:
        raise InexpressibleError(f"Keras cannot build what is left: {error}") from error
    if len(model.variables) != len(values):
        raise InexpressibleError(
            f"the model would have {len(model.variables)} variables, and had {len(values)}"
        )
    for variable, value in zip(model.variables, values, strict=True):
        if variable.value.numel() != value.numel():
            raise InexpressibleError(
                f"layer {variable.path.rpartition('/')[0]!r}: its {variable.name} would have the "
                f"shape {tuple(variable.shape)}, and has {tuple(value.shape)} now"
            )
        variable.assign(value.reshape(tuple(variable.shape)))
    with _quietly(), without_others():
        _settle_reshapes(model)
        model.save(written)
    _compare(program, written)


@torch.no_grad()
def _compare(program: Program, written: Path) -> None:
    leaves = [leaf.cpu() for leaf in program.example_leaves]
    expected = [each.cpu() for each in program.run(program.example_leaves)]
    found = run(written, [leaves])
    if [each.shape for each in found] != [each.shape for each in expected]:
        raise InexpressibleError(
            f"Keras gives outputs of the shapes {[tuple(each.shape) for each in found]}, and the "
            f"program {[tuple(each.shape) for each in expected]}"
        )
    error = relative_error(found, expected)
    if not error <= tolerance(program):
        raise InexpressibleError(
            f"Keras gives other outputs than the program (relative difference {error:.2g})"
        )


def _outputs(model: Any, leaves: Sequence[Tensor]) -> list[Tensor]:
    library = keras()
    inputs = library.tree.pack_sequence_as(input_structure(model), list(leaves))
    outputs = library.tree.flatten(model(inputs, training=False))
    return [output.detach() for output in outputs]


def _value(program: Program, variable: KerasVariable) -> Tensor:
    """What a variable holds now, with its dimensions as Keras has them."""
    if variable.value is not None:
        return variable.value
    tensors = []
    for name in variable.names:
        try:
            tensor = attribute(program.module, name)
        except AttributeError:
            raise InexpressibleError(
                f"layer {variable.path.rpartition('/')[0]!r} was removed whole, and Keras's graph "
                "has it still"
            ) from None
        assert isinstance(tensor, Tensor)
        tensor = tensor.detach().cpu()
        if variable.permutation:
            back = [variable.permutation.index(dim) for dim in range(tensor.dim())]
            tensor = tensor.permute(back)
        tensors.append(tensor)
    return LAYOUTS[variable.layout](tensors).contiguous()


def _has_reshapes(config: Any) -> bool:
    if isinstance(config, dict):
        return config.get("class_name") == "Reshape" or any(map(_has_reshapes, config.values()))
    return isinstance(config, list) and any(map(_has_reshapes, config))


def _settle_reshapes(model: Any) -> None:
    """Write down the sizes that followed from the others."""
    for layer in model._flatten_layers():  # noqa: SLF001 - layers within layers are not public
        if isinstance(layer, keras().layers.Reshape) and -1 in layer.target_shape:
            shape = layer.output.shape[1:]
            if None not in shape:
                layer.target_shape = tuple(shape)


@contextmanager
def _quietly() -> Iterator[None]:
    """Keras warns of what it would rather have: that is for who made the model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
