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
from operator import attrgetter
from pathlib import Path
from typing import Any

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
        np.product = np.prod  # type: ignore[attr-defined] # noqa: NPY003, NPY201
    _add_translations()
    _allow_inlining(Path(folder) / "saved_model.pb")
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


def _allow_inlining(path: Path) -> None:
    """Take marks away that say that a function is for a compiler, in one piece.

    Keras has them on convolutions in groups, and tf2onnx sees no further than a function's call.
    """
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    model = SavedModel.FromString(path.read_bytes())
    for graph in model.meta_graphs:
        for function in attrgetter("library")(graph.graph_def).function:
            for marked in (function, *function.node_def):
                marked.attr.pop("_XlaMustCompile", None)
    path.write_bytes(model.SerializeToString())


def _add_translations() -> None:
    """Teach tf2onnx operations that Keras writes and tf2onnx 1.17 does not know.

    Keras 3 writes an exact GELU with ``Erfc``.
    """
    import numpy as np
    from tf2onnx.handler import tf_op
    from tf2onnx.utils import map_onnx_to_numpy_type

    class Translations:
        """1 - erf(x), exp(x) - 1 and log(1 + x)."""

        @classmethod
        def version_9(cls, graph: Any, node: Any, **_: Any) -> None:
            output = node.output[0]
            dtype = map_onnx_to_numpy_type(graph.get_dtype(output))
            constant = graph.make_const(f"{node.name}_one", np.array(1, dtype=dtype))
            one = constant.output[0]
            if node.type == "Erfc":
                node.type = "Erf"
                graph.insert_new_node_on_output("Sub", output, inputs=[one, output])
            elif node.type == "Expm1":
                node.type = "Exp"
                graph.insert_new_node_on_output("Sub", output, inputs=[output, one])
            else:
                node.type = "Log"
                added = graph.make_node("Add", [node.input[0], one])
                graph.replace_input(node, node.input[0], added.output[0], 0)

    tf_op(["Erfc", "Expm1", "Log1p"])(Translations)


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
        error = ""
    except Exception as caught:  # noqa: BLE001 - TensorFlow has no base class for what it raises
        error = type(caught).__name__
    # tf2onnx leaves what it does not know in the model, as if it were ONNX.
    if not error and not unsupported.operators:
        return 0
    failure = {"error": error, "operators": sorted(unsupported.operators)}
    Path(f"{output}.failure").write_text(json.dumps(failure), encoding="utf-8")
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
