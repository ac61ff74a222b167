"""The quantize step: what is quantized, in which order, and what the report says of it."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from worker.engine.changed import Changed, LayerLine
from worker.engine.coded.chain import Coded, with_codes
from worker.engine.config import QuantizeConfig
from worker.engine.data import Rows
from worker.engine.errors import NothingToChangeError
from worker.engine.packed import Packed
from worker.engine.program import Program
from worker.engine.quantize.activations import with_static
from worker.engine.quantize.calibrate import calibrated
from worker.engine.quantize.codes import Scheme, about_weight, coded
from worker.engine.quantize.fold import folded
from worker.engine.quantize.outputs import output_errors
from worker.engine.quantize.points import points_of
from worker.engine.quantize.targets import Target, targets_of
from worker.engine.recovery.setting import Setting

_TINY = 1e-30


@torch.no_grad()
def quantize(
    program: Program, config: QuantizeConfig, rows: Rows | None, setting: Setting
) -> Changed:
    """Store weights as codes, and round activations if that is asked.

    Raises:
        NothingToChangeError: No weight can be quantized, or none would get smaller.
        ExportError: The result does not export.
    """
    is_static = config.activations == "static"
    base = folded(program) if is_static else program
    targets, kept, warnings = targets_of(base, config.keep_float)
    scheme = Scheme.of(config)
    fitting, lines = _fitting(targets, scheme)
    kept += lines
    if not fitting:
        reasons = "; ".join(f"{line.layer}: {line.reason}" for line in kept[:3])
        raise NothingToChangeError(
            f"no weight can be quantized{f' ({reasons})' if reasons else ''}: a model needs a "
            "convolution, a linear or a recurrent layer, or an embedding, that `keep_float` does "
            "not name",
            pointer="/keep_float" if config.keep_float else "",
        )
    weights = {}
    for done, target in enumerate(fitting, start=1):
        weights[target.name] = _rounded(target, scheme, setting)
        setting.on_progress(done, len(fitting))
    rounded, static = base, tuple[str, ...]()
    if is_static:
        assert rows is not None, "the recipe was checked before"
        points = points_of(base, [call for target in fitting for call in target.calls])
        ranges = calibrated(base, points, config, rows, setting)
        rounded, static = with_static(base, points, ranges)
    dense = _holding(rounded, weights)
    errors = {} if rows is None else output_errors(base, dense, rows, seed=setting.seed)
    changed = with_codes(dense, weights)
    packed = Packed(tuple(each.about for each in weights.values()), static)
    return Changed(
        program=replace(changed, packed=packed),
        layers=(*(_line(each, weights[each.name], errors) for each in fitting), *kept),
        warnings=tuple(warnings),
        packed=packed,
    )


def _fitting(targets: list[Target], scheme: Scheme) -> tuple[list[Target], list[LayerLine]]:
    """The weights that get smaller, and lines for the others."""
    fitting, kept = [], []
    for target in targets:
        about = about_weight(target.names, target.weight, scheme, axis=target.axis)
        if about.size_bytes(scheme.entries) < target.weight.nbytes:
            fitting.append(target)
        else:
            size = target.weight.nbytes
            reason = (
                f"{tuple(target.weight.shape)} is so small that codes and scales would take no "
                "less room"
            )
            kept.append(LayerLine(target.name, "kept", size, size, reason=reason))
    return fitting, kept


def _rounded(target: Target, scheme: Scheme, setting: Setting) -> Coded:
    if setting.sparse and any(name in setting.sparse for name in target.names):
        scheme = scheme.keeping_zero()
    about = about_weight(target.names, target.weight, scheme, axis=target.axis)
    return coded(target.weight, about, scheme)


def _holding(program: Program, weights: Mapping[str, Coded]) -> Program:
    """A copy of the program whose weights are what their codes stand for."""
    copy = program.copy()
    for each in weights.values():
        copy.module.get_parameter(each.about.name).copy_(each.weight)
    return copy


def _line(target: Target, weight: Coded, errors: Mapping[str, float]) -> LayerLine:
    after = sum(buffer.nbytes for buffer in weight.buffers().values())
    return LayerLine(
        layer=target.name,
        became=weight.about.described,
        bytes_before=target.weight.nbytes,
        bytes_after=after,
        weight_error=_relative(weight.weight, target.weight),
        output_error=next((errors[name] for name in target.names if name in errors), None),
    )


def _relative(found: Tensor, expected: Tensor) -> float:
    difference = (found.double() - expected.double()).square().sum()
    return float((difference / expected.double().square().sum().clamp(min=_TINY)).sqrt())
