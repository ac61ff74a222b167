"""What a command line asks for, in the words of specs."""

import argparse
from typing import Any

from secateur.amounts import Budget
from secateur.criteria import Criterion
from secateur.grids import ALL

_PRUNE_OPTIONS = (
    "algorithm",
    "scope",
    "granularity",
    "exclude",
    "channel_multiple",
    "pattern",
    "floor",
    "aggregation",
    "normalization",
    "rounds",
    "schedule",
)
"""How to prune, besides how much: named as in the spec."""


_EVALUATION_OPTIONS = ("latency_rounds", "latency_batch_size", "noise_std", "fgsm_epsilon")


def evaluation(options: argparse.Namespace) -> dict[str, Any]:
    # A comparison measures no safety.
    said = _given({name: getattr(options, name, None) for name in _EVALUATION_OPTIONS})
    return {**said, "latency_mode": "compiled"} if options.compiled else said


def objective(options: argparse.Namespace) -> dict[str, Any]:
    return _given({"task": options.task, "output": options.output_index})


def grid(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "criteria": ALL if options.criteria == [ALL] else options.criteria,
        "budgets": [
            {name: value} for name in Budget.model_fields for value in getattr(options, name) or ()
        ],
        "algorithms": options.algorithms,
        "prune": chosen(options),
        "then": _recovery(options),
    }


def recipe(options: argparse.Namespace) -> list[dict[str, Any]]:
    first = prune_step(options)
    if options.plan is not None:
        first = {"step": "apply_plan", "plan": options.plan}
    return [first, *_recovery(options)]


def _recovery(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The steps after pruning."""
    steps: list[dict[str, Any]] = []
    # What reconstruction solves for makes up for the statistics, too.
    if options.reconstruct:
        steps.append({"step": "reconstruct"})
    elif options.train is not None:
        steps.append({"step": "recalibrate"})
    if options.distill:
        steps.append(_training("distill", options, options.distill))
    if options.finetune:
        steps.append(_training("finetune", options, options.finetune))
    return steps


def _training(step: str, options: argparse.Namespace, epochs: int) -> dict[str, Any]:
    optimizer = _given({"optimizer": options.optimizer})
    return {
        "step": step,
        "epochs": epochs,
        **optimizer,
        "learning_rate": options.learning_rate,
        "batch_size": options.batch_size,
    }


def prune_step(options: argparse.Namespace) -> dict[str, Any]:
    budget = _given({name: getattr(options, name) for name in Budget.model_fields})
    return {"step": "prune", **({"budget": budget} if budget else {}), **chosen(options)}


def chosen(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of how to prune; the spec has a default for the rest."""
    # A comparison varies the criterion and the algorithm.
    said = {name: getattr(options, name, None) for name in ("criterion", *_PRUNE_OPTIONS)}
    if getattr(options, "option", None):
        name = options.criterion or Criterion.MAGNITUDE.value
        said["criterion"] = {"name": name, **dict(options.option)}
    if getattr(options, "round_finetune", 0):
        said["recover"] = [_training("finetune", options, options.round_finetune)]
    how_long = {"trials": options.trials, "seconds": options.search_seconds}
    said["search"] = _given({"minimize": options.minimize, **how_long}) or None
    return _given(said)


def _given(said: dict[str, Any]) -> dict[str, Any]:
    """Only what the command line says: the spec has a default for the rest."""
    return {name: value for name, value in said.items() if value is not None}
