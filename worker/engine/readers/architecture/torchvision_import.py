"""Let torchvision be imported where its compiled operators do not load."""

import importlib
import sys

from torch import library

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[library.Library] = []


def import_torchvision() -> None:
    """Import torchvision; declare the operators that it describes, where it has none.

    No architecture here computes with these operators: a declaration is enough.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        declared = library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            declared.define(schema)  # type: ignore[no-untyped-call]
        _libraries.append(declared)  # The declarations live as long as the library does.
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        importlib.import_module("torchvision")
