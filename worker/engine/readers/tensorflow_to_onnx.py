"""A program of its own: converts a checked SavedModel to ONNX.

Usage: ``python -P tensorflow_to_onnx.py FOLDER OUTPUT [--large_model]``. Writes the model to
OUTPUT; where that fails, what failed is written to ``OUTPUT.failure`` as JSON. TensorFlow is only
ever imported here: it and PyTorch each want the process to themselves.
"""

import ctypes
import json
import logging
import re
import signal
import sys
from pathlib import Path

OPSET = 18
"""The newest that tf2onnx 1.17 writes."""
_PR_SET_PDEATHSIG = 1
_UNSUPPORTED = re.compile(r"Tensorflow op \[.*: (\w+)\] is not supported")


class _Unsupported(logging.Handler):
    """Collects the operations that tf2onnx says it has no translation for."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.operators: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.operators.update(_UNSUPPORTED.findall(record.getMessage()))


def convert(folder: str, output: str, *options: str) -> None:
    """Convert as tf2onnx's own command does.

    Raises:
        Exception: TensorFlow cannot read the model, or tf2onnx cannot translate it.
    """
    # These take seconds, and only this process may have them.
    import numpy as np
    from tf2onnx import convert as tf2onnx

    # tf2onnx 1.17 calls it in graph.py for models of more than 2 GiB, and NumPy 2 took it away
    # (https://numpy.org/doc/stable/numpy_2_0_migration_guide.html).
    if not hasattr(np, "product"):
        np.product = np.prod  # type: ignore[attr-defined] # noqa: NPY201
    sys.argv = [
        "tf2onnx.convert",
        *("--saved-model", folder),
        *("--output", output),
        *("--opset", str(OPSET)),
        *("--tag", "serve"),
        *("--signature_def", "serving_default"),
        *options,
    ]
    tf2onnx.main()


def main(folder: str, output: str, *options: str) -> int:
    if sys.platform == "linux":
        # Whoever waits for this process may be killed.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    unsupported = _Unsupported()
    logging.getLogger("tf2onnx").addHandler(unsupported)
    logging.getLogger().addHandler(unsupported)
    # The one place where everything ends: what came of it is said in a file.
    try:
        convert(folder, output, *options)
    except Exception as error:  # noqa: BLE001 - TensorFlow has no base class for what it raises
        failure = {"error": type(error).__name__, "operators": sorted(unsupported.operators)}
        Path(f"{output}.failure").write_text(json.dumps(failure), encoding="utf-8")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
