"""Apply a plan to a module of the user's own, in place.

PyTorch is the caller's: nothing here imports it. Tensors and modules are used by what they can do,
the layers of ``torch.nn`` are known by the names of their classes.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from secateur.errors import PlanMismatch
from secateur.layers import Layer, LayerRefused, flatten_recurrent, is_of_torch, rule_of
from secateur.plan import PLAN_FORMAT_VERSION, ChannelGroup, Member, Plan, WrittenSize
from secateur.pruning import Granularity

_SHOWN = 20
"""How many problems of one kind an error lists."""

Kept = list[int]
"""Indices of one dimension that stay, sorted."""


@dataclass(frozen=True)
class Applied:
    """What `apply_plan` did besides cutting tensors.

    Attributes:
        resized: Attributes that hold sizes and were set anew, such as ``conv1.out_channels``.
        notes: What the module's own code may still spell out, and nobody but its author can change.
    """

    resized: tuple[str, ...]
    notes: tuple[str, ...]


def apply_plan(module: Any, plan: Plan | Mapping[str, Any] | str | os.PathLike[str]) -> Applied:
    """Prune a module the way the service prunes its exported program.

    Parameters and buffers are cut in place, gradients are dropped, and the attributes of
    ``torch.nn`` layers follow. In evaluation mode the module then computes what the downloaded
    program computed right after pruning. Make optimizers anew, they hold the old shapes; a program
    exported from this module in the same process shares its tensors, and is broken then.

    Args:
        module: The ``torch.nn.Module`` that was exported, with the same parameter names.
        plan: ``plan.json`` of a job, as a path, as its document, or as a `Plan`.

    Raises:
        PlanMismatch: With all that is wrong. Nothing was changed.
    """
    document = _document(plan)
    cuts = _cuts(document)
    tensors = _Tensors.of(module, cuts)
    changes, notes = _attributes(module, tensors, document)
    merges = _merges(tensors, document)
    for merge in merges:
        merge.add()
    tensors.cut()
    for change in changes:
        setattr(change.module, change.name, change.value)
    for changed in {id(change.module): change.module for change in changes}.values():
        flatten_recurrent(changed)
    return Applied(tuple(change.path for change in changes), tuple(notes))


def _document(plan: Plan | Mapping[str, Any] | str | os.PathLike[str]) -> Plan:
    try:
        if isinstance(plan, str | os.PathLike):
            plan = Plan.model_validate_json(Path(plan).read_bytes())
        elif not isinstance(plan, Plan):
            plan = Plan.model_validate(plan)
    except ValidationError as error:
        found = error.errors()[0]
        place = ".".join(str(part) for part in found["loc"])
        raise PlanMismatch(
            f"{place or 'the document'}: {found['msg']}; give a whole plan as it was downloaded "
            f"(format_version {PLAN_FORMAT_VERSION}), edited in `keep` alone"
        ) from error
    if plan.format_version != PLAN_FORMAT_VERSION:
        raise PlanMismatch(
            f"its format_version is {plan.format_version}, {PLAN_FORMAT_VERSION} is needed: make "
            "the plan again"
        )
    return plan


# What goes from each parameter.


@dataclass(frozen=True)
class _Cut:
    """One dimension of a parameter: how long it is, and which of its indices stay."""

    size: int
    kept: Kept


def _cuts(plan: Plan) -> dict[str, dict[int, _Cut]]:
    """For each parameter that gets smaller, its dimensions that do."""
    cuts: dict[str, dict[int, _Cut]] = {}
    problems: list[str] = []
    for group in plan.channel_groups:
        if found := _group_problem(group):
            problems.append(found)
            continue
        for name, dim, cut in _members(group):
            dims = cuts.setdefault(name, {})
            kept = set(dims[dim].kept) & set(cut.kept) if dim in dims else cut.kept
            dims[dim] = _Cut(cut.size, sorted(kept))
    problems += [
        f"dimension {dim} of {name} would have nothing left: keep one of its channels at least"
        for name, dims in cuts.items()
        for dim, cut in dims.items()
        if not cut.kept
    ]
    if not cuts and not problems:
        problems.append("it keeps every channel of every group: there is nothing to remove")
    if problems:
        raise PlanMismatch(*problems)
    return cuts


def _group_problem(group: ChannelGroup) -> str | None:
    last = group.channel_count - 1
    if wrong := [channel for channel in group.keep if not 0 <= channel <= last]:
        return f"{group.id} ({group.name}): `keep` names channel {wrong[0]} of 0 to {last}"
    if len(set(group.keep)) < len(group.keep):
        return f"{group.id} ({group.name}): `keep` names a channel twice"
    if group.granularity is Granularity.LAYERS and len(group.keep) < group.channel_count:
        return (
            f"{group.id} ({group.name}) drops a whole block, which code has to leave out: use the "
            "downloaded program, or remove the block from the module and keep this group whole"
        )
    return None


def _members(group: ChannelGroup) -> Iterator[tuple[str, int, _Cut]]:
    kept = set(group.keep)
    for member in group.members:
        channels = member.channels or range(group.channel_count)
        stay = [at for at, channel in enumerate(channels) if channel < 0 or channel in kept]
        if len(stay) < len(channels):
            yield member.parameter, member.dim, _Cut(len(channels), stay)


# What a shift adds to the weights that stay.


@dataclass(frozen=True)
class _Merged:
    """Indices of a weight's dimension that are added, scaled, to others of it."""

    tensor: Any
    dim: int
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    scales: tuple[float, ...]

    def add(self) -> None:
        weight = self.tensor.detach().double()
        lines = weight.movedim(self.dim, 0)
        scales = lines.new_tensor(self.scales).reshape(-1, *[1] * (lines.dim() - 1))
        added = lines[list(self.sources)] * scales
        lines = lines.index_add(0, lines.new_tensor(self.targets).long(), added)
        self.tensor.data = lines.movedim(0, self.dim).to(self.tensor.dtype).contiguous()


def _merges(tensors: "_Tensors", plan: Plan) -> list[_Merged]:
    """What the plan's stand-ins take over, weight by weight."""
    problems: list[str] = []
    found: list[_Merged] = []
    for group in plan.channel_groups:
        kept = set(group.keep)
        wrong = [m for m in group.merges if m.source in kept or m.target not in kept]
        problems += [
            f"{group.id} ({group.name}): channel {m.source} is merged into {m.target}, of which "
            "`keep` must have the second alone: edit the merge too, or leave it out"
            for m in wrong[:1]
        ]
        for name in () if wrong else sorted({n for merge in group.merges for n in merge.scales}):
            members = [member for member in group.members if member.parameter == name]
            if len(members) == 1 and name in tensors.named:
                found.append(_merged(tensors.named[name], group, members[0]))
            else:
                problems.append(
                    f"{group.id} ({group.name}): its merges scale {name}, which reads none of its "
                    "channels, or makes them too: use the downloaded program"
                )
    if problems:
        raise PlanMismatch(*problems)
    return found


def _merged(tensor: Any, group: ChannelGroup, member: Member) -> _Merged:
    channels = member.channels or range(group.channel_count)
    places: dict[int, list[int]] = {}
    for at, channel in enumerate(channels):
        places.setdefault(channel, []).append(at)
    moves = [
        (source, target, merge.scales[member.parameter])
        for merge in group.merges
        if member.parameter in merge.scales
        for source, target in zip(
            places.get(merge.source, ()), places.get(merge.target, ()), strict=False
        )
    ]
    sources, targets, scales = zip(*moves, strict=True) if moves else ((), (), ())
    return _Merged(tensor, member.dim, sources, targets, scales)


# The tensors of the module.


@dataclass(frozen=True)
class _Tensors:
    """A module's tensors that get smaller, each once, as a tied weight is."""

    modules: dict[str, Any]
    named: dict[str, Any]
    tensors: dict[int, Any]
    kept: dict[int, dict[int, Kept]]
    trained: frozenset[int]

    @classmethod
    def of(cls, module: Any, cuts: Mapping[str, Mapping[int, _Cut]]) -> "_Tensors":
        parameters = dict(module.named_parameters(remove_duplicate=False))
        named = {**parameters, **dict(module.named_buffers(remove_duplicate=False))}
        if problems := _tensor_problems(named, cuts):
            raise PlanMismatch(*problems)
        kept: dict[int, dict[int, Kept]] = {}
        for name, dims in cuts.items():
            wanted = {dim: cut.kept for dim, cut in dims.items()}
            if kept.setdefault(id(named[name]), wanted) != wanted:
                raise PlanMismatch(
                    f"{name} is tied to another parameter, from which the plan takes other parts"
                )
        return cls(
            modules=dict(module.named_modules(remove_duplicate=False)),
            named=named,
            tensors={id(named[name]): named[name] for name in cuts},
            kept=kept,
            trained=frozenset(id(each) for each in parameters.values()),
        )

    def kept_along(self, tensor: Any, dim: int) -> Kept | None:
        """The indices that stay, or None where all do."""
        return self.kept.get(id(tensor), {}).get(dim)

    def shape(self, tensor: Any) -> tuple[int, ...]:
        """The shape after the cut."""
        dims = self.kept.get(id(tensor), {})
        return tuple(
            len(dims[dim]) if dim in dims else size for dim, size in enumerate(tensor.shape)
        )

    def cut(self) -> None:
        for key, tensor in self.tensors.items():
            sliced = tensor.detach()
            for dim, kept in self.kept[key].items():
                sliced = sliced[(slice(None),) * dim + (kept,)]
            if key in self.trained:
                tensor.grad = None
            tensor.data = sliced.contiguous()


def _tensor_problems(named: Mapping[str, Any], cuts: Mapping[str, Mapping[int, _Cut]]) -> list[str]:
    missing = sorted(name for name in cuts if name not in named)
    other = [
        f"{name} has shape {list(named[name].shape)}, the plan says {cut.size} in dimension {dim}"
        for name, dims in cuts.items()
        if name in named
        for dim, cut in dims.items()
        if list(named[name].shape[dim : dim + 1]) != [cut.size]
    ]
    problems = []
    if missing:
        problems.append(
            f"the module has no parameter or buffer {_listed(missing)}: give the module that was "
            "exported itself, not a part or a wrapper of it; for a constant that stands in the "
            "code, register it as a buffer and export again, or keep its channel group whole"
        )
    if other:
        problems.append(
            f"{_listed(other)}: give the module in the shape in which it was exported, before any "
            "plan was applied to it"
        )
    return problems


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more


# The attributes that hold sizes.


@dataclass(frozen=True)
class _Change:
    """An attribute to set."""

    module: Any
    path: str
    name: str
    value: Any


def _attributes(module: Any, tensors: _Tensors, plan: Plan) -> tuple[list[_Change], list[str]]:
    """What to set, and what to tell.

    Raises:
        PlanMismatch: A layer cannot be told what is left of it.
    """
    changes: list[_Change] = []
    problems: list[str] = []
    sizes, notes = _current_sizes(plan)
    notes += [
        f"the module has no part {_path(size)!r}, where {size.operator} spells out {size.before}"
        for size in sizes
        if _path(size) not in tensors.modules
    ]
    for path, each in module.named_modules():
        written = [size for size in sizes if tensors.modules.get(_path(size)) is each]
        try:
            new, told = _new_sizes(each, path, tensors, written)
        except LayerRefused as refused:
            problems.append(f"{_called(each, path)}: {refused}")
            continue
        notes += told
        changes += [
            _Change(each, f"{path}.{name}" if path else name, name, value)
            for name, value in new.items()
            if getattr(each, name) != value
        ]
    if problems:
        raise PlanMismatch(*problems)
    return changes, notes


def _current_sizes(plan: Plan) -> tuple[list[WrittenSize], list[str]]:
    """The sizes that the plan says will change, unless it was edited after they were written."""
    if not plan.is_edited:
        return plan.sizes, []
    places = sorted({_path(size) or "the top" for size in plan.sizes})
    named = f" ({_listed(places)})" if places else ""
    note = (
        "the plan was edited after it was made (its keep_sha256 is of another `keep`), "
        f"so that sizes which are written in code may be others than it says{named}: none was set. "
        "Submit the plan in an `apply_plan` step, and apply the plan.json of that job"
    )
    return [], [note]


def _new_sizes(
    module: Any, path: str, tensors: _Tensors, written: Sequence[WrittenSize]
) -> tuple[Mapping[str, Any], list[str]]:
    rule = rule_of(module)
    if rule is None:
        return _own_sizes(module, path, written)
    layer = Layer(module, tensors.shape, tensors.kept_along, written)
    return (rule(layer) if layer.is_cut else {}), []


def _own_sizes(
    module: Any, path: str, written: Sequence[WrittenSize]
) -> tuple[Mapping[str, int], list[str]]:
    """A size that one attribute alone holds is set; of all others somebody has to be told."""
    new: dict[str, int] = {}
    notes: list[str] = []
    attributes = {} if is_of_torch(type(module)) else vars(module)
    for before, after, operators in _replaced(written):
        holders = [name for name, value in attributes.items() if _is_int(value) and value == before]
        if len(after) == 1 and len(holders) == 1:
            new[holders[0]] = after[0]
            continue
        became = " or ".join(str(size) for size in after)
        found = f"its attributes {', '.join(holders)} hold" if holders else "no attribute holds"
        notes.append(
            f"{_called(module, path)}: {before} is {became} now in {', '.join(operators)}, and "
            f"{found} it: if its code spells this size out, change it there"
        )
    return new, notes


def _replaced(written: Iterable[WrittenSize]) -> Iterator[tuple[int, list[int], list[str]]]:
    """Each old number, the numbers that it became, and the operators that say so."""
    found: dict[int, tuple[set[int], set[str]]] = {}
    for size in written:
        for before, after in zip(size.before, size.after, strict=False):
            if before != after and before >= 0:  # -1 is left open or computed: no code holds it.
                numbers, operators = found.setdefault(before, (set(), set()))
                numbers.add(after)
                operators.add(size.operator)
    for before, (numbers, operators) in found.items():
        yield before, sorted(numbers), sorted(operators)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _path(size: WrittenSize) -> str:
    """The path of a module; the exporter numbers further calls of it, as in ``block@1``."""
    return size.module.partition("@")[0]


def _called(module: Any, path: str) -> str:
    return f"{path or 'the module'} ({type(module).__name__})"
