"""The options that commands share."""

import argparse
import json
from pathlib import Path
from typing import Any

from secateur.criteria import Aggregation, Criterion, Normalization
from secateur.models import ModelFormat
from secateur.objective import Task
from secateur.outputs import ALWAYS, OutputFormat
from secateur.packing import document_of
from secateur.pruning import Algorithm, Granularity, Schedule, Scope
from secateur.safety import MaxDrop
from secateur.search import Minimize, Search

BATCH_SIZE = 64
"""Of training, where the command line says nothing."""

BUDGETS: tuple[tuple[str, type, str, str], ...] = (
    ("macs", float, "FRACTION", "multiply-accumulates that may remain"),
    ("parameters", float, "FRACTION", "parameters that may remain"),
    ("bytes", float, "FRACTION", "weight bytes that may remain"),
    ("latency", float, "FRACTION", "latency that may remain, measured on the worker's device"),
    (
        "accuracy",
        float,
        "DROP",
        "look for the smallest model that loses no more accuracy, such as 0.01 for one point",
    ),
    ("loss", float, "RISE", "look for the smallest model whose loss rises no more"),
    ("channel-ratio", float, "FRACTION", "channels to remove"),
    ("keep", int, "N", "channels that stay: of each group with --scope local, else of the model"),
    ("threshold", float, "IMPORTANCE", "importance below which channels go"),
    ("sparsity", float, "FRACTION", "with --algorithm zero: weights that become zero"),
)


def add_prune_options(command: argparse.ArgumentParser) -> "argparse._MutuallyExclusiveGroup":
    """Add the options of a prune step; give the group of which no two are chosen."""
    add_model_options(command)
    budget = command.add_mutually_exclusive_group()
    for name, kind, metavar, what in BUDGETS:
        budget.add_argument(f"--{name}", type=kind, metavar=metavar, help=what)
    command.add_argument(
        "--algorithm",
        choices=[each.value for each in Algorithm],
        help=f"what becomes of what is chosen (default: {Algorithm.CUT})",
    )
    command.add_argument(
        "--criterion",
        choices=[each.value for each in Criterion],
        help=f"how channels are scored (default: {Criterion.MAGNITUDE})",
    )
    command.add_argument(
        "--option",
        action="append",
        type=_assignment,
        metavar="NAME=VALUE",
        help="an option of the criterion, such as norm=l1 or targets=outputs; may be repeated",
    )
    add_ways(command)
    return budget


def add_model_options(command: argparse.ArgumentParser) -> None:
    """Add the model, and what says how it is read."""
    command.add_argument(
        "model",
        type=existing,
        metavar="MODEL",
        help="a .pt2, .onnx, .keras or .h5 file, weights with --architecture, or a folder: of a "
        "SavedModel, of transformers, of ONNX with external data",
    )
    command.add_argument(
        "--format",
        choices=[each.value for each in ModelFormat],
        help="what the model's file is (default: told by its name)",
    )
    command.add_argument(
        "--architecture",
        type=architecture,
        metavar="BUILDER/NAME",
        help="what weights are for, such as torchvision/resnet18 or timm/vit_tiny_patch16_224; or "
        'a JSON object, such as {"builder": "torchvision", "name": "resnet18", "arguments": '
        '{"num_classes": 10}}',
    )


def add_ways(command: argparse.ArgumentParser) -> None:
    """Add how to prune, besides how much and by which criterion."""
    command.add_argument(
        "--scope",
        choices=[each.value for each in Scope],
        help=f"who competes with whom (default: {Scope.GLOBAL})",
    )
    command.add_argument(
        "--granularity",
        choices=[each.value for each in Granularity],
        help=f"what is removed as one (default: {Granularity.CHANNELS})",
    )
    command.add_argument(
        "--exclude",
        action="append",
        metavar="PATTERN",
        help="parameters whose shape may not change, such as 'head.*'; may be repeated",
    )
    command.add_argument(
        "--channel-multiple", type=int, metavar="N", help="keep channels in multiples of this"
    )
    command.add_argument(
        "--floor", type=float, metavar="FRACTION", help="what stays of every dimension"
    )
    command.add_argument("--pattern", help="with algorithm zero: N:M, such as 2:4, or AxB")
    command.add_argument("--aggregation", choices=[each.value for each in Aggregation])
    command.add_argument("--normalization", choices=[each.value for each in Normalization])
    command.add_argument("--rounds", type=int, metavar="N", help="prune in this many rounds")
    command.add_argument("--schedule", choices=[each.value for each in Schedule])
    command.add_argument(
        "--minimize",
        choices=[each.value for each in Minimize],
        help="with --accuracy or --loss: what is to be least "
        f"(default: {Search.model_fields['minimize'].default})",
    )
    command.add_argument(
        "--trials",
        type=int,
        metavar="N",
        help="with --accuracy or --loss: most models to try "
        f"(default: {Search.model_fields['trials'].default})",
    )
    command.add_argument(
        "--search-seconds",
        type=int,
        metavar="SECONDS",
        help="with --accuracy or --loss: after this no other model is tried "
        f"(default: {Search.model_fields['seconds'].default})",
    )
    command.add_argument(
        "--task",
        choices=[each.value for each in Task],
        help="what the targets are (default: classification of whole numbers, else regression)",
    )
    command.add_argument(
        "--output-index", type=int, metavar="N", help="which output is judged, from 0 (default: 0)"
    )
    command.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    command.add_argument("--label", help="yours, for finding the job again")


def _assignment(text: str) -> tuple[str, int | str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=VALUE")
    return name, int(value) if value.isdecimal() else value


def document(text: str) -> Any:
    try:
        return json.loads(file(text).read_bytes())
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON: {error}") from error


def _promise(text: str) -> tuple[str, float]:
    name, _, drop = text.partition("=")
    if name not in MaxDrop.model_fields:
        known = ", ".join(MaxDrop.model_fields)
        raise argparse.ArgumentTypeError(f"{name!r} is no measure; there are {known}")
    try:
        return name, float(drop)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} says no drop: write {name}=0.01 for a hundredth"
        ) from error


def add_output_options(command: argparse.ArgumentParser) -> None:
    """Add the formats of the result."""
    command.add_argument(
        "--to",
        nargs="+",
        choices=[each.value for each in OutputFormat],
        metavar="FORMAT",
        help="formats of the result besides pt2 and safetensors: "
        f"{', '.join(each for each in OutputFormat if each not in ALWAYS)} "
        "(default: the format of the model)",
    )


def existing(text: str) -> Path:
    """A file or folder that is there."""
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"there is no file or folder {text}")
    return path


def architecture(text: str) -> dict[str, Any]:
    """What weights are for: BUILDER/NAME, or a JSON object."""
    text = text.strip()
    try:
        return document_of(json.loads(text) if text.startswith("{") else text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is no JSON: {error}") from error
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text!r}")
    return path


def add_job_options(command: argparse.ArgumentParser) -> None:
    """Add the options of recovery and of measuring."""
    command.add_argument("--train", type=file, metavar="NPZ", help="data to recover with")
    command.add_argument("--test", type=file, metavar="NPZ", help="data to measure with")
    command.add_argument(
        "--validation-fraction",
        type=float,
        metavar="FRACTION",
        help="rows of --train that are held out, to choose by (default: 0.1)",
    )
    command.add_argument(
        "--reconstruct",
        action="store_true",
        help="solve for the weights that restore each layer's outputs on --train; no labels needed",
    )
    command.add_argument(
        "--distill",
        type=int,
        default=0,
        metavar="EPOCHS",
        help="train the original's outputs this long on --train; no labels needed",
    )
    command.add_argument(
        "--finetune", type=int, default=0, metavar="EPOCHS", help="train this long on --train"
    )
    command.add_argument(
        "--round-finetune",
        type=int,
        default=0,
        metavar="EPOCHS",
        help="train this long between the rounds of --rounds, too",
    )
    command.add_argument(
        "--optimizer", choices=["adamw", "sgd"], help="what trains (default: adamw)"
    )
    command.add_argument(
        "--learning-rate", type=float, help="(default: 0.001; 0.0001 behind a quantization)"
    )
    command.add_argument(
        "--batch-size", type=int, default=BATCH_SIZE, help="(default: %(default)s)"
    )
    command.add_argument(
        "--latency-rounds",
        type=int,
        default=50,
        help="timed calls of each model; 0 for none (default: %(default)s)",
    )
    command.add_argument(
        "--latency-batch-size",
        type=int,
        metavar="ROWS",
        help="rows of a call when latency is measured (default: 1)",
    )
    command.add_argument(
        "--compiled", action="store_true", help="measure latency behind torch.compile"
    )
    command.add_argument(
        "--run-timeout",
        type=int,
        default=3600,
        metavar="SECONDS",
        help="longest run, waiting not counted (default: %(default)s)",
    )


def add_safety_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--noise-std",
        type=float,
        metavar="STD",
        help="measure with noise of this standard deviation on the inputs, too",
    )
    command.add_argument(
        "--fgsm-epsilon",
        type=float,
        metavar="EPSILON",
        help="measure under a gradient attack that moves each input value by this much, too",
    )
    command.add_argument(
        "--max-drop",
        action="append",
        type=_promise,
        default=[],
        metavar="MEASURE=DROP",
        help="deliver no model that loses more, such as accuracy=0.01 for one point; may be "
        f"repeated; measures: {', '.join(MaxDrop.model_fields)}",
    )
