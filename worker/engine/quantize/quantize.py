"""The quantize step: what is quantized, in which order, and what the report says of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from worker.engine.changed import KEPT, Changed, LayerLine, relative_change
from worker.engine.coded.chain import Coded, with_codes
from worker.engine.config import QuantizeConfig
from worker.engine.data import Rows
from worker.engine.errors import NothingToChangeError
from worker.engine.graph.weights import WeightCall
from worker.engine.packed import Packed, PackedWeight
from worker.engine.program import Program
from worker.engine.quantize.activations import with_dynamic, with_static
from worker.engine.quantize.calibrate import calibrated
from worker.engine.quantize.codes import Scheme, about_weight, coded, grid_of
from worker.engine.quantize.compensate import Stored, compensated
from worker.engine.quantize.correct import bias_corrected
from worker.engine.quantize.equalize import equalized
from worker.engine.quantize.fold import folded
from worker.engine.quantize.outputs import output_errors
from worker.engine.quantize.points import points_of
from worker.engine.quantize.sensitivity import most_sensitive
from worker.engine.quantize.smooth import smoothed
from worker.engine.quantize.targets import Target, targets_of
from worker.engine.recovery.setting import Setting


@torch.no_grad()
def quantize(
    program: Program, config: QuantizeConfig, rows: Rows | None, setting: Setting
) -> Changed:
    """Store weights as codes, and round activations if that is asked.

    In this order: batch norms are folded where activations are static or channels equalized;
    channels are equalized, outliers smoothed; the most sensitive layers are left out; ranges of
    activations are calibrated on the float program; weights are rounded; biases corrected.

    Args:
        program: Not changed.
        config: What is asked.
        rows: Training data; None where nothing that is asked needs any.
        setting: Seed, progress in layers, and weights whose zeros stay zero.

    Raises:
        NothingToChangeError: No weight can be quantized, or none would get smaller.
        DataMismatchError: There are fewer than 16 rows to calibrate on, or the program does not run
            on them.
        NotFiniteError: An activation is NaN or infinite.
        ExportError: The result does not export.
    """
    return _Quantization(program, config, rows, setting).done()


@dataclass
class _Quantization:
    """One quantization: what was asked, and what was found on the way."""

    program: Program
    config: QuantizeConfig
    rows: Rows | None
    setting: Setting
    kept: list[LayerLine] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def done(self) -> Changed:
        base = self.prepared()
        targets = self.chosen(base)
        rounded, packed = self.with_rounded_activations(base, targets)
        weights = self.rounded_weights(rounded, targets)
        dense = _holding(rounded, weights)
        if self.config.bias_correction:
            calls = [call for target in targets for call in target.calls]
            dense = bias_corrected(dense, base, self.config, self.needed_rows, self.setting, calls)
        errors: Mapping[str, float] = {}
        if self.rows is not None:
            errors = output_errors(base, dense, self.rows, seed=self.setting.seed)
        packed = replace(packed, weights=tuple(each.about for each in weights.values()))
        return Changed(
            program=replace(with_codes(dense, weights), packed=packed),
            layers=(*(_line(each, weights[each.name], errors) for each in targets), *self.kept),
            warnings=tuple(self.warnings),
        )

    @property
    def needed_rows(self) -> Rows:
        assert self.rows is not None, "the recipe was checked before"
        return self.rows

    def prepared(self) -> Program:
        """The program whose weights are quantized: it computes what it did before."""
        base = self.program
        config = self.config
        if config.activations == "static" or config.equalize or config.bias_correction:
            # A convolution in front of a norm has no bias of its own, and no end to round at.
            base = folded(base)
        if self.config.equalize:
            base, pairs = equalized(base)
            if not pairs:
                self.warnings.append("equalize: no two layers follow each other as it needs them")
        if self.config.smooth is not None:
            base, norms = smoothed(
                base, self.config.smooth, self.config, self.needed_rows, self.setting
            )
            if not norms:
                self.warnings.append("smooth: no norm is read by linear layers alone")
        return base

    def chosen(self, base: Program) -> list[Target]:
        """The weights to quantize; a line is kept for each of the others.

        Raises:
            NothingToChangeError: There is none.
        """
        targets, self.kept, warnings = targets_of(base, self.config.keep_float)
        self.warnings += warnings
        fitting = [each for each in targets if self.is_smaller(each)]
        fitting = self.without_sensitive(base, fitting)
        if not fitting:
            reasons = "; ".join(f"{line.layer}: {line.reason}" for line in self.kept[:3])
            raise NothingToChangeError(
                f"no weight is quantized{f' ({reasons})' if reasons else ''}: a model needs a "
                "convolution, a linear or recurrent layer, or an embedding, that is not told to "
                "stay as it is"
            )
        return fitting

    def is_smaller(self, target: Target) -> bool:
        """Whether codes and scales take less room than the weight."""
        about, scheme = self.planned(target)
        if about.size_bytes(scheme.entries) < target.weight.nbytes:
            return True
        shape = tuple(target.weight.shape)
        self.keep(target, f"codes and scales of {shape} would take no less room")
        return False

    def keep(self, target: Target, reason: str) -> None:
        size = target.weight.nbytes
        self.kept.append(LayerLine(target.name, KEPT, size, size, reason=reason))

    def without_sensitive(self, base: Program, targets: list[Target]) -> list[Target]:
        """All but the layers that the outputs would miss most."""
        if not self.config.float_layers:
            return targets
        by_call = {call.parameter: target for target in targets for call in target.calls}

        def weight_of(call: WeightCall) -> Tensor:
            return self.nearest(by_call[call.parameter]).weight

        calls = [call for target in targets for call in target.calls]
        worst = most_sensitive(
            base,
            calls,
            weight_of,
            self.config,
            self.needed_rows,
            self.setting,
            self.config.float_layers,
        )
        names = {call.parameter for call in worst}
        for target in targets:
            if names.intersection(target.names):
                self.keep(target, "float_layers: the outputs change most with it")
        return [target for target in targets if not names.intersection(target.names)]

    def with_rounded_activations(
        self, base: Program, targets: list[Target]
    ) -> tuple[Program, Packed]:
        calls = [call for target in targets for call in target.calls]
        if self.config.activations == "static":
            points = points_of(base, calls)
            ranges = calibrated(base, points, self.config, self.needed_rows, self.setting)
            program, static = with_static(base, points, ranges)
            return program, Packed(static=static)
        if self.config.activations == "dynamic":
            program, dynamic = with_dynamic(base, calls)
            return program, Packed(dynamic=dynamic)
        return base, Packed()

    def rounded_weights(self, rounded: Program, targets: list[Target]) -> dict[str, Coded]:
        """Codes of all weights, by the first of their names."""
        found: dict[str, Coded] = {}
        if self.config.rounding == "compensated":
            abouts = {each.name: self.stored(each) for each in targets}
            found = compensated(rounded.copy(), abouts, self.config, self.needed_rows, self.setting)
        for target in targets:
            if target.name not in found:
                found[target.name] = self.nearest(target)
                self.setting.on_progress(len(found), len(targets))
        return {target.name: found[target.name] for target in targets}

    def stored(self, target: Target) -> Stored:
        about, scheme = self.planned(target)
        return about, lambda sets: grid_of(sets, scheme)

    def nearest(self, target: Target) -> Coded:
        about, scheme = self.planned(target)
        return coded(target.weight, about, scheme)

    def planned(self, target: Target) -> tuple[PackedWeight, Scheme]:
        """How a weight is to be stored."""
        scheme = Scheme.of(self.config)
        if any(name in self.setting.sparse for name in target.names):
            scheme = scheme.keeping_zero()
        return about_weight(target.names, target.weight, scheme, axis=target.axis), scheme


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
        weight_error=relative_change(weight.weight, target.weight),
        output_error=next((errors[name] for name in target.names if name in errors), None),
    )
