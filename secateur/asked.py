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


def evaluation(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "latency_rounds": options.latency_rounds,
        "noise_std": options.noise_std,
        "fgsm_epsilon": options.fgsm_epsilon,
    }


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
    if options.train is not None:
        steps.append({"step": "recalibrate"})
    if options.finetune:
        steps.append(_finetune(options, options.finetune))
    return steps


def _finetune(options: argparse.Namespace, epochs: int) -> dict[str, Any]:
    return {
        "step": "finetune",
        "epochs": epochs,
        "learning_rate": options.learning_rate,
        "batch_size": options.batch_size,
    }


def prune_step(options: argparse.Namespace) -> dict[str, Any]:
    budget = {name: getattr(options, name) for name in Budget.model_fields}
    given = {name: value for name, value in budget.items() if value is not None}
    return {"step": "prune", **({"budget": given} if given else {}), **chosen(options)}


def chosen(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of how to prune; the spec has a default for the rest."""
    # A comparison varies the criterion and the algorithm.
    said = {name: getattr(options, name, None) for name in ("criterion", *_PRUNE_OPTIONS)}
    if getattr(options, "option", None):
        name = options.criterion or Criterion.MAGNITUDE.value
        said["criterion"] = {"name": name, **dict(options.option)}
    if getattr(options, "round_finetune", 0):
        said["recover"] = [_finetune(options, options.round_finetune)]
    return {name: value for name, value in said.items() if value is not None}
