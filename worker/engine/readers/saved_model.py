"""TensorFlow's SavedModels, by way of ONNX."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import onnx

from formats.errors import shown
from formats.saved_model import open_saved_model
from worker.engine.errors import UnreadableModelError, UnsupportedModelError
from worker.engine.readers import tensorflow_to_onnx
from worker.engine.readers.onnx_file import read_checked_onnx
from worker.engine.readers.source import Source

CONVERSION = (
    "python -m tf2onnx.convert --saved-model FOLDER --output model.onnx "
    f"--opset {tensorflow_to_onnx.OPSET}"
)
# tf2onnx writes more than the 2 GiB of one message into several files.
_LARGE_BYTES = 3 * 2**29
_MAX_FAILURE_BYTES = 2**16
_SIGNATURE_PREFIX = "serving_default_"
_QUIET = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}


def tensorflow_is_here() -> bool:
    """Say whether SavedModels can be read, without importing what reads them."""
    return all(find_spec(name) is not None for name in ("tensorflow", "tf2onnx"))


def read_saved_model(path: Path) -> Source:
    """Read a SavedModel: its signature ``serving_default``.

    Raises:
        FormatError: The file is not one that TensorFlow should see.
        UnreadableModelError: The file is harmless, and no program can be made of it.
        UnsupportedModelError: TensorFlow or tf2onnx is not installed, or the model has a part that
            one of the readers on the way does not know.
    """
    model = onnx_of_saved_model(path)
    source: Source = resolve_name("worker.engine.readers.onnx:program_of")(model)
    return source


def onnx_of_saved_model(path: Path, *, is_large: bool | None = None) -> onnx.ModelProto:
    """Convert a SavedModel to ONNX, in a process of its own.

    Needs twice as much room in the folder for temporary files as the variables take.

    Args:
        path: The zip or tar.
        is_large: Whether the result may have more than 2 GiB; None looks at the variables.

    Raises:
        FormatError: The file is not one that TensorFlow should see.
        UnreadableModelError: TensorFlow cannot read it, or tf2onnx cannot convert it.
        UnsupportedModelError: TensorFlow or tf2onnx is not installed, or tf2onnx does not know an
            operation of the model.
    """
    with tempfile.TemporaryDirectory(prefix="secateur-tensorflow-") as temporary:
        folder, output = Path(temporary) / "model", Path(temporary) / "model.onnx"
        with open_saved_model(path) as checked:
            if not tensorflow_is_here():
                raise UnsupportedModelError(
                    "TensorFlow and tf2onnx, which read SavedModels, are not installed here; "
                    f"convert the model to ONNX with: {CONVERSION}, and upload that with "
                    "format=onnx"
                )
            checked.unpack(folder)
            if is_large is None:
                is_large = checked.variable_bytes > _LARGE_BYTES
        _convert(folder, output, is_large=is_large)
        model = read_checked_onnx(output)
    _clean_names(model)
    return model


def _convert(folder: Path, output: Path, *, is_large: bool) -> None:
    # Run by its path, not as a part of this package, which imports PyTorch. -P keeps its folder,
    # where there is an ``onnx.py``, from being searched for modules.
    command = [sys.executable, "-P", tensorflow_to_onnx.__file__, str(folder), str(output)]
    done = subprocess.run(  # noqa: S603 - our own program, on a model that was checked
        [*command, "--large_model"] if is_large else command,
        cwd=output.parent,
        env=os.environ | _QUIET,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode or not output.exists():
        raise _refusal(done.returncode, _read_failure(Path(f"{output}.failure")))


def _read_failure(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    with path.open("rb") as file:
        failure = json.loads(file.read(_MAX_FAILURE_BYTES))
    assert isinstance(failure, dict)
    return failure


def _refusal(
    return_code: int, failure: dict[str, Any]
) -> UnreadableModelError | UnsupportedModelError:
    if failure.get("operators"):
        listed = ", ".join(shown(name) for name in failure["operators"][:8])
        return UnsupportedModelError(
            f"tf2onnx has no form in ONNX for: {listed}; save the model without these operations"
        )
    reason = failure.get("error") or f"exit status {return_code}"
    if return_code < 0:
        reason = f"ended by {signal.Signals(-return_code).name}"
    return UnreadableModelError(
        f"TensorFlow cannot read this model, or tf2onnx not convert it ({reason}); try it with: "
        f"{CONVERSION}, and upload the result with format=onnx"
    )


def _clean_names(model: onnx.ModelProto) -> None:
    """Give inputs and outputs the names that they have in the signature."""
    values = [*model.graph.input, *model.graph.output]
    taken = {name for holder in _name_holders(model.graph) for name in holder}
    renamed: dict[str, str] = {}
    for value in values:
        clean = value.name.removesuffix(":0").removeprefix(_SIGNATURE_PREFIX)
        if clean and clean not in taken:
            renamed[value.name] = clean
            taken.add(clean)
    for holder in _name_holders(model.graph):
        for index, name in enumerate(holder):
            if name in renamed:
                holder[index] = renamed[name]
    for value in (*values, *model.graph.value_info, *model.graph.initializer):
        value.name = renamed.get(value.name, value.name)


def _name_holders(graph: onnx.GraphProto) -> Iterator[Any]:
    """List the lists of names by which nodes take and give values, in graphs within graphs too."""
    for node in graph.node:
        yield node.input
        yield node.output
        for attribute in node.attribute:
            inner: Iterable[onnx.GraphProto] = attribute.graphs
            for each in inner:
                yield from _name_holders(each)
            if attribute.HasField("g"):
                yield from _name_holders(attribute.g)
