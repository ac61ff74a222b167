"""What will be done: every channel group, its scores and what it keeps, before a weight changes."""

import hashlib
import json

from pydantic import Field

from secateur.amounts import Budget
from secateur.criteria import Aggregation, ChosenCriterion, Normalization
from secateur.pruning import Algorithm, Granularity, Scope
from secateur.schema import Output

PLAN_FORMAT_VERSION = 3


class Counts(Output):
    """What a program costs."""

    parameters: int = Field(description="Elements of all parameters; buffers are not counted.")
    macs: int = Field(description="Multiply-accumulates at the example inputs; 1 MAC is 2 FLOPs.")
    size_bytes: int = Field(description="Bytes of all parameters and buffers.")


class Member(Output):
    """A dimension of a parameter whose indices belong to the channels of a group."""

    parameter: str = Field(
        description="Full name of the parameter or buffer.", examples=["conv1.weight"]
    )
    dim: int = Field(description="The dimension that gets shorter.")
    channels: list[int] | None = Field(
        description="For each index of the dimension, the channel of the group that it belongs to; "
        "-1 where it belongs to none and stays. Null where index i is channel i."
    )


class Merge(Output):
    """A channel that goes, and the one of the same group that stands in for it."""

    source: int = Field(description="The channel that goes.")
    target: int = Field(description="The channel that stays.")
    scales: dict[str, float] = Field(
        description="For each weight that reads both, what the stand-in is multiplied by: the "
        "weights for `source` are added, so scaled, to those for `target`.",
        examples=[{"conv2.weight": 0.93}],
    )


class ChannelGroup(Output):
    """All slices, over all parameters, that keep and lose the same channels."""

    id: str = Field(description="The same for the same model file.", examples=["g3"])
    name: str = Field(description="The first parameter that has these channels.")
    granularity: Granularity = Field(description="What one channel of this group is.")
    channel_count: int
    channel_names: list[str] | None = Field(
        description="What each channel is, where it has a name: a residual block has; else null."
    )
    keep: list[int] = Field(description="Channels that stay, sorted; counted from 0.")
    importance: list[float] | None = Field(
        description="One score per channel, normalized as asked; higher is kept. Null where a "
        "given plan was applied."
    )
    merges: list[Merge] = Field(description="Of algorithm `shift`; empty for the others.")
    members: list[Member]


class WrittenSize(Output):
    """A call that spells out sizes which this cut changes."""

    module: str = Field(description="Path of the module that calls; empty for the top.")
    operator: str = Field(examples=["aten.view.default"])
    before: list[int]
    after: list[int]


class SparseWeight(Output):
    """A weight that gets zeros and keeps its shape."""

    parameter: str
    shape: list[int]
    zero_count: int = Field(description="Elements that are zero afterwards.")


class FrozenOperator(Output):
    """An operator that may not lose channels, and why."""

    node: str
    operator: str = Field(examples=["aten.softmax.int"])
    module: str = Field(description="Path of the module it came from; empty for the top.")
    reason: str


class Plan(Output):
    """A decision that can be read, compared, and applied."""

    format_version: int
    model_sha256: str
    algorithm: Algorithm | None = Field(description="Null where a given plan was applied.")
    criterion: ChosenCriterion | None = Field(description="Null where a given plan was applied.")
    scope: Scope | None = Field(description="Null where a given plan was applied.")
    aggregation: Aggregation | None = Field(description="Null where a given plan was applied.")
    normalization: Normalization | None = Field(description="Null where a given plan was applied.")
    granularity: Granularity
    budget: Budget | None = Field(
        description="Null where a given plan was applied, or overrides or a pattern say it all."
    )
    exclude: list[str]
    seed: int
    baseline: Counts
    predicted: Counts
    channel_groups: list[ChannelGroup] = Field(description="Empty with algorithm `zero`.")
    sparse: list[SparseWeight] = Field(description="Of algorithm `zero`; empty for the others.")
    keep_sha256: str = Field(
        description="What `predicted` and `sizes` were computed for: the SHA-256 of the compact "
        "JSON `[[id, keep], ...]` of the channel groups. After an edit it no longer fits.",
    )
    sizes: list[WrittenSize] = Field(
        description="Every size that the program spells out and that this cut changes: what a "
        "module's own code may have to follow."
    )
    frozen: list[FrozenOperator]
    warnings: list[str]

    @property
    def is_edited(self) -> bool:
        """Whether it keeps something else than it did when `predicted` and `sizes` were made."""
        kept = [[group.id, group.keep] for group in self.channel_groups]
        written = json.dumps(kept, separators=(",", ":"))
        return self.keep_sha256 != hashlib.sha256(written.encode()).hexdigest()
