"""The quantizers of onnxruntime and of torchao (pt2e), on the same network and the same rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn
from torch.fx import GraphModule
from torchao.quantization.pt2e import move_exported_model_to_eval, move_exported_model_to_train
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)

CALIBRATIONS = ("MinMax", "Entropy", "Percentile")
_BATCH = 64


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands rows out in batches."""

    def __init__(self, name: str, inputs: np.ndarray) -> None:
        self._name = name
        self._batches = iter(np.split(inputs, range(_BATCH, len(inputs), _BATCH)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        part = next(self._batches, None)
        return None if part is None else {self._name: part}


def static_by_onnxruntime(
    float_file: Path, path: Path, name: str, inputs: np.ndarray, calibration: str
) -> None:
    """int8 at both ends, a scale for each channel, behind onnxruntime's own preparation.

    Activations are uint8, weights int8: what its documentation advises for x64.
    """
    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(float_file, prepared)
    quantize_static(
        prepared,
        path,
        _Reader(name, inputs),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[calibration],
    )


def dynamic_by_onnxruntime(float_file: Path, path: Path) -> None:
    """int8 weights, a scale for each channel; activations in the range of the moment."""
    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(float_file, prepared)
    quantize_dynamic(prepared, path, per_channel=True, weight_type=QuantType.QInt8)


def static_by_pt2e(exported: torch.export.ExportedProgram, inputs: Tensor) -> GraphModule:
    """Torchao's quantizer for x86, calibrated on rows."""
    prepared = prepare_pt2e(exported.module(check_guards=False), _quantizer(is_qat=False))
    with torch.no_grad():
        for part in inputs.split(_BATCH):
            prepared(part)
    return _converted(prepared)


def trained_by_pt2e(
    exported: torch.export.ExportedProgram, inputs: Tensor, train: Callable[[nn.Module], None]
) -> GraphModule:
    """Torchao's quantization-aware training; ``train`` trains what it is given, in place."""
    prepared = prepare_qat_pt2e(exported.module(check_guards=False), _quantizer(is_qat=True))
    move_exported_model_to_train(prepared)
    with torch.no_grad():
        for part in inputs.split(_BATCH):
            prepared(part)
    train(prepared)
    move_exported_model_to_eval(prepared)
    return _converted(prepared)


def _converted(prepared: GraphModule) -> GraphModule:
    found = convert_pt2e(prepared)
    move_exported_model_to_eval(found)
    assert isinstance(found, GraphModule)
    return found


def _quantizer(*, is_qat: bool) -> Any:
    config = get_default_x86_inductor_quantization_config(is_qat=is_qat)
    return X86InductorQuantizer().set_global(config)
