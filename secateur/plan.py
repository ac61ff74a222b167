"""What will be done: every channel group, its scores and what it keeps, before a weight changes."""

import hashlib
import json

from pydantic import Field

from secateur.schema import Output
from secateur.spec import Budget, Criterion, Granularity, Scope

PLAN_FORMAT_VERSION = 2


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
        description="One score per channel; higher is kept. Null where a given plan was applied."
    )
    members: list[Member]


class WrittenSize(Output):
    """A call that spells out sizes which this cut changes."""

    module: str = Field(description="Path of the module that calls; empty for the top.")
    operator: str = Field(examples=["aten.view.default"])
    before: list[int]
    after: list[int]


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
    criterion: Criterion | None = Field(description="Null where a given plan was applied.")
    scope: Scope | None = Field(description="Null where a given plan was applied.")
    granularity: Granularity
    budget: Budget | None = Field(description="Null where a given plan was applied.")
    exclude: list[str]
    seed: int
    baseline: Counts
    predicted: Counts
    channel_groups: list[ChannelGroup]
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
