"""The options of steps that change how weights are stored: factorize, quantize and cast."""

import argparse
from typing import Any

from secateur.factorization import Decomposition, RankChoice
from secateur.precision import Precision
from secateur.quantization import Activations, Calibration, QuantGranularity, WeightFormat


def add_storage_options(command: argparse.ArgumentParser) -> None:
    """Add what becomes of weights besides pruning: lower rank, fewer bits, another type."""
    _add_factorize(command)
    _add_quantize(command)
    command.add_argument(
        "--cast",
        choices=[each.value for each in Precision],
        metavar="DTYPE",
        help=f"compute in a type of fewer bits: {', '.join(Precision)}",
    )
    command.add_argument(
        "--cast-inputs",
        action="store_true",
        default=None,
        help="with --cast: inputs and outputs are of that type, too",
    )
    command.add_argument(
        "--keep-float",
        action="append",
        metavar="PATTERN",
        help="with --quantize or --cast: parameters that stay as they are, such as 'head.*'; may "
        "be repeated",
    )


def _add_factorize(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--factorize",
        choices=[each.value for each in Decomposition],
        metavar="METHOD",
        help=f"with --rank: into what layers are taken apart: {', '.join(Decomposition)} "
        f"(default: {Decomposition.AUTO})",
    )
    command.add_argument(
        "--rank",
        type=_rank,
        metavar="KIND=SHARE",
        help="take layers apart into products of smaller ones, up to energy=0.9 of what they hold, "
        "to what may remain, macs=0.5 or parameters=0.5, or by vbmf",
    )


def _add_quantize(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--quantize",
        choices=[each.value for each in WeightFormat],
        metavar="FORMAT",
        help=f"store weights in few bits: {', '.join(WeightFormat)}",
    )
    command.add_argument(
        "--activations",
        choices=[each.value for each in Activations],
        help=f"with --quantize int8: what layers read (default: {Activations.FLOAT})",
    )
    command.add_argument(
        "--calibration",
        choices=[each.value for each in Calibration],
        help=f"with --activations static: how ranges are chosen (default: {Calibration.MSE})",
    )
    command.add_argument(
        "--rounding",
        choices=["nearest", "compensated"],
        help="with --quantize (default: nearest)",
    )
    command.add_argument(
        "--codebook-size", type=int, metavar="N", help="with --quantize codebook (default: 16)"
    )
    command.add_argument(
        "--quant-granularity",
        choices=[each.value for each in QuantGranularity],
        help="with --quantize: what shares a scale or a codebook (default: by the format)",
    )
    command.add_argument(
        "--group-size",
        type=int,
        metavar="N",
        help="with --quantize: inputs that share a scale, where that is per_group (default: 64)",
    )
    for name, what in (
        ("--bias-correction", "shift biases by what rounding moves"),
        ("--equalize", "first make the ranges of layers in a row alike"),
    ):
        command.add_argument(
            name, action="store_true", default=None, help=f"with --quantize: {what}"
        )
    command.add_argument(
        "--smooth",
        type=float,
        metavar="ALPHA",
        help="with --quantize: first move outliers behind norms into weights; 0.5 is usual",
    )
    command.add_argument(
        "--float-layers",
        type=int,
        metavar="N",
        help="with --quantize: so many layers stay, those that it harms most",
    )
    for name, what in (("finetune", "on --train"), ("distill", "the original's outputs")):
        command.add_argument(
            f"--{name}-quantized",
            type=int,
            default=0,
            metavar="EPOCHS",
            help=f"with --quantize: train {what} this long through the rounding",
        )


def _rank(text: str) -> dict[str, Any]:
    """How ranks are chosen, in the words of specs."""
    kind, equals, share = text.partition("=")
    shares = [name for name in RankChoice.model_fields if name != "vbmf"]
    try:
        if text == "vbmf":
            return {"vbmf": True}
        if kind in shares and equals:
            return {kind: float(share)}
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(
        f"{text!r} says no rank: write one of {', '.join(f'{name}=0.5' for name in shares)}, vbmf"
    )
