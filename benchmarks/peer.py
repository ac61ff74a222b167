"""What Torch-Pruning makes of a network, down to a number of MACs, by each of its criteria."""

import copy
from collections.abc import Callable
from typing import Any

import torch_pruning
from torch import Tensor, nn
from torch.nn import functional

_importance = torch_pruning.importance
CRITERIA: dict[str, Callable[[], Any]] = {
    "magnitude l1": lambda: _importance.GroupMagnitudeImportance(p=1),
    "magnitude l2": lambda: _importance.GroupMagnitudeImportance(p=2),
    "bn scale": _importance.BNScaleImportance,
    "lamp": lambda: _importance.LAMPImportance(p=2),
    "fpgm": lambda: _importance.FPGMImportance(p=2),
    "taylor": _importance.GroupTaylorImportance,
    "random": _importance.RandomImportance,
}
"""As its documentation builds them; `obd` and `hessian` need more than a loss's gradients."""

_HALVINGS = 9


def pruned_to(
    network: nn.Module,
    criterion: str,
    inputs: Tensor,
    targets: Tensor,
    *,
    fraction: float,
    ignored: Callable[[nn.Module], list[nn.Module]],
) -> nn.Module:
    """The largest pruned network with at most a fraction of the MACs, by bisection of its ratio.

    Args:
        network: Not changed.
        criterion: A name in `CRITERIA`.
        inputs: For gradients, and as an example.
        targets: Classes, for gradients.
        fraction: Of the MACs.
        ignored: Gives the layers of a copy that must keep their outputs.
    """
    whole, _ = torch_pruning.utils.count_ops_and_params(network, inputs[:1])
    low, high, best = 0.0, 0.95, None
    for _ in range(_HALVINGS):
        ratio = (low + high) / 2
        candidate = _pruned(network, criterion, inputs, targets, ratio, ignored)
        macs, _ = torch_pruning.utils.count_ops_and_params(candidate, inputs[:1])
        if macs <= fraction * whole:
            best, high = candidate, ratio
        else:
            low = ratio
    assert best is not None, "nineteen of twenty channels gone leave less than a third"
    return best


def _pruned(
    network: nn.Module,
    criterion: str,
    inputs: Tensor,
    targets: Tensor,
    ratio: float,
    ignored: Callable[[nn.Module], list[nn.Module]],
) -> nn.Module:
    own = copy.deepcopy(network)
    pruner = torch_pruning.pruner.BasePruner(
        own,
        (inputs[:1],),
        importance=CRITERIA[criterion](),
        pruning_ratio=ratio,
        max_pruning_ratio=0.9,  # The same floor as ours.
        global_pruning=True,
        ignored_layers=ignored(own),
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
    )
    if criterion == "taylor":
        own.zero_grad()
        functional.cross_entropy(own(inputs), targets).backward()
    pruner.step()
    own.zero_grad()
    return own.eval()
