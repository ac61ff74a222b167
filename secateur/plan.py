"""What will be done: every channel group, its scores and what it keeps, before a weight changes."""

from pydantic import Field

from secateur.schema import Output
from secateur.spec import Budget, Criterion, Scope


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


class ChannelGroup(Output):
    """All slices, over all parameters, that keep and lose the same channels."""

    id: str = Field(description="The same for the same model file.", examples=["g3"])
    name: str = Field(description="The first parameter that has these channels.")
    channel_count: int
    keep: list[int] = Field(description="Channels that stay, sorted.")
    importance: list[float] = Field(description="One score per channel; higher is kept.")
    members: list[Member]


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
    criterion: Criterion
    scope: Scope
    budget: Budget
    seed: int
    baseline: Counts
    predicted: Counts
    channel_groups: list[ChannelGroup]
    frozen: list[FrozenOperator]
    warnings: list[str]
