"""Take a plan as it is given: hold it against the program, and decide nothing."""

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.engine.config import ApplyPlanConfig, GroupConfig, MergeConfig
from worker.engine.errors import NothingToPruneError, PlanMismatchError
from worker.engine.graph.counts import count
from worker.engine.graph.coupling import ChannelGroup, Coupling
from worker.engine.prune.plan import Plan, unmatched_warnings
from worker.engine.prune.shift import Merge, Merges, mergeable


def given(coupling: Coupling, config: ApplyPlanConfig, *, model_sha256: str, seed: int) -> Plan:
    """The plan that was given, counted anew. Groups that it leaves out stay whole.

    Args:
        coupling: Made with the plan's own ``exclude`` and ``granularity``.
        config: The plan.
        model_sha256: Of the model that the program comes from.
        seed: Written into the plan; nothing is drawn here.

    Raises:
        PlanMismatchError: It was made for another model, names what is not there, or would empty
            a dimension.
        NothingToPruneError: It removes nothing.
    """
    if config.model_sha256 != model_sha256:
        raise PlanMismatchError(
            f"the plan was made for a model with sha256 {config.model_sha256}, this one has "
            f"{model_sha256}: make a plan of this model (POST /v1/plans)"
        )
    keep = _kept(coupling, config)
    if bool(keep.all()):
        raise NothingToPruneError(
            "the plan keeps every channel of every group: take the channels that may go out of "
            "`keep`"
        )
    _check_dimensions(coupling, keep)
    merges = _merges(coupling, config, keep)
    warnings = tuple(unmatched_warnings(coupling))
    baseline, predicted = count(coupling), count(coupling, keep)
    return Plan(coupling, config, seed, None, keep, baseline, predicted, warnings, merges)


def _kept(coupling: Coupling, config: ApplyPlanConfig) -> Tensor:
    groups = {group.id: group for group in coupling.groups}
    keep = coupling.everything()
    for asked in config.groups:
        group = groups.get(asked.id)
        if group is None:
            raise PlanMismatchError(
                f"the plan has a channel group {asked.id!r} and the program has none: "
                f"{_known(coupling)}; make the plan again, or leave the group out"
            )
        _check_channels(group, asked)
        keep[group.channels] = False
        keep[group.channels[list(asked.keep)]] = True
    return keep


def _merges(coupling: Coupling, config: ApplyPlanConfig, keep: Tensor) -> Merges:
    """The stand-ins of a shift, each held against what stays and what reads it."""
    found: dict[str, tuple[Merge, ...]] = {}
    if not any(asked.merges for asked in config.groups):
        return found
    groups = {group.id: group for group in coupling.groups}
    able = mergeable(coupling)
    for asked in config.groups:
        if not asked.merges:
            continue
        group = groups[asked.id]
        stays = keep[group.channels]
        for merge in asked.merges:
            _check_merge(group, merge, stays, able[group.id])
        found[group.id] = tuple(
            Merge(merge.source, merge.target, merge.scales) for merge in asked.merges
        )
    return found


def _check_merge(
    group: ChannelGroup, merge: MergeConfig, stays: Tensor, able: Sequence[frozenset[str]]
) -> None:
    where = f"channel group {group.id} ({group.name}): merge of {merge.source} into {merge.target}"
    if wrong := [at for at in (merge.source, merge.target) if not 0 <= at < len(group)]:
        raise PlanMismatchError(
            f"{where}: there is no channel {wrong[0]}; the group's channels are 0 to "
            f"{len(group) - 1}"
        )
    if bool(stays[merge.source]):
        raise PlanMismatchError(
            f"{where}: {merge.source} is in `keep`: take it out of there, or leave the merge out"
        )
    if not bool(stays[merge.target]):
        raise PlanMismatchError(f"{where}: {merge.target} is not in `keep`, so nothing can read it")
    names = frozenset[str]().union(*able)
    if foreign := merge.scales.keys() - names:
        raise PlanMismatchError(
            f"{where}: {min(foreign)} does not read these channels, or its part of them cannot be "
            f"added up; what can take a stand-in over: {', '.join(sorted(names)) or 'none'}"
        )
    for together in able:
        if len({merge.scales.get(name, 0.0) for name in together}) > 1:
            raise PlanMismatchError(
                f"{where}: {', '.join(sorted(together))} read one and the same tensor: give them "
                "one and the same scale"
            )


def _known(coupling: Coupling) -> str:
    if not coupling.groups:
        return "no dimension of it may shrink"
    first, last = coupling.groups[0].id, coupling.groups[-1].id
    return f"its groups are {first} to {last}, with the plan's own `exclude` and `granularity`"


def _check_channels(group: ChannelGroup, asked: GroupConfig) -> None:
    if asked.channel_count not in (None, len(group)):
        raise PlanMismatchError(
            f"channel group {group.id} ({group.name}) has {asked.channel_count} channels in the "
            f"plan and {len(group)} in the program: the plan was made before or after another "
            "step; make it again"
        )
    if wrong := [channel for channel in asked.keep if not 0 <= channel < len(group)]:
        raise PlanMismatchError(
            f"channel group {group.id} ({group.name}): `keep` names channel {wrong[0]}; the "
            f"group's channels are 0 to {len(group) - 1}"
        )


def _check_dimensions(coupling: Coupling, keep: Tensor) -> None:
    """Channels that fill a dimension alone may not all go, nor may all blocks."""
    if coupling.blocks and not bool(keep[:-1].any()):
        raise PlanMismatchError("every residual block would go: keep at least one")
    for channels in coupling.sets:
        if not bool(keep[channels].any()):
            raise PlanMismatchError(
                f"{_place(coupling, channels)} would have nothing left: keep at least one of its "
                f"{len(channels)} channels"
            )


def _place(coupling: Coupling, channels: Tensor) -> str:
    """Where these channels fill a dimension: a parameter's, or else between operators."""
    group = next(g for g in coupling.groups if bool(torch.isin(channels, g.channels).any()))
    for member in group.members:
        if set(member.channels.tolist()) == set(channels.tolist()):
            return f"dimension {member.dim} of {member.parameter} (channel group {group.id})"
    numbers = torch.isin(group.channels, channels).nonzero().flatten().tolist()
    shown = ", ".join(str(number) for number in numbers[:8])
    more = ", ..." if len(numbers) > 8 else ""
    return (
        f"a tensor that is made of channels {shown}{more} of group {group.id} ({group.name}) alone"
    )
