"""How much is removed: budgets, and what single layers get instead."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from secateur.schema import Input

SEARCHED_BUDGETS = ("accuracy", "loss")
"""Budgets that are met by trying models on labeled data, and not by counting."""

Fraction = Annotated[float, Field(gt=0, lt=1)]


class Amount(Input):
    """Base: how much of a group, or of a weight, each by itself."""

    channel_ratio: Fraction | None = Field(
        default=None,
        description="Fraction of channels removed, not of parameters: half the channels is about "
        "three quarters of the parameters.",
        examples=[0.5],
    )
    keep: int | None = Field(
        default=None,
        ge=1,
        le=2**31,
        strict=True,
        description="Channels that stay, the top of the ranking: in every channel group with scope "
        "`local`, in the whole model with `global`.",
        examples=[16],
    )
    threshold: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="Importance below which goes: the numbers of a plan's `importance`.",
        examples=[0.1],
    )
    sparsity: Fraction | None = Field(
        default=None,
        description="`algorithm: zero`: fraction of the weights that become zero.",
        examples=[0.5],
    )

    @property
    def given(self) -> dict[str, Any]:
        """The fields that say something."""
        return {name: value for name, value in self if value is not None}


class Budget(Amount):
    """How much to remove. Exactly one of the fields."""

    parameters: Fraction | None = Field(
        default=None,
        description="Fraction of the original's parameters that may remain; of those that are not "
        "zero with `algorithm: zero`.",
        examples=[0.5],
    )
    macs: Fraction | None = Field(
        default=None,
        description="Fraction of the original multiply-accumulates that may remain.",
        examples=[0.5],
    )
    bytes: Fraction | None = Field(
        default=None,
        description="Fraction of the original's weight bytes (parameters and buffers) that may "
        "remain.",
        examples=[0.5],
    )

    latency: Fraction | None = Field(
        default=None,
        description="Fraction of the original's latency that may remain, measured on the worker's "
        "device with `evaluation.latency_batch_size` rows, as `evaluation.latency_mode` says.",
        examples=[0.5],
    )
    accuracy: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] | None = Field(
        default=None,
        description="How much accuracy may be lost: the smallest model that loses no more is "
        "looked for, each tried one being recovered by the steps that follow. 0.01 is one point.",
        examples=[0.01],
    )
    loss: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="The same for the loss: how far it may rise, in its own unit.",
    )

    @property
    def is_searched(self) -> bool:
        """Whether it is met by trying models, and not by counting."""
        return any(name in self.given for name in SEARCHED_BUDGETS)

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(self.given) != 1:
            said = ", ".join(self.given) or "none"
            allowed = ", ".join(type(self).model_fields)
            raise ValueError(f"give exactly one of {allowed}; given: {said}")
        return self


Channel = Annotated[int, Field(ge=0, strict=True)]
Pair = tuple[Channel, Channel]


class Override(Amount):
    """An amount of their own for some layers. Exactly one of the fields besides `match`."""

    match: str = Field(
        min_length=1,
        max_length=500,
        description="Parameter names, exact or as a shell-style pattern: the channel groups that "
        "have one of them. The first override that matches counts.",
        examples=["layer1.*"],
    )
    pairs: Annotated[tuple[Pair, ...], Field(min_length=1, max_length=10_000)] | None = Field(
        default=None,
        description="`algorithm: shift`: channels that go, each with the channel of the same group "
        "that stands in for it, as `[from, to]`.",
        examples=[[[3, 1], [5, 1]]],
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in self.given if name != "match"]
        if len(given) != 1:
            said = ", ".join(given) or "none"
            raise ValueError(
                "give exactly one of channel_ratio, keep, threshold, sparsity, pairs; given: "
                f"{said}"
            )
        return self

    @model_validator(mode="after")
    def _pairs_are_a_merge(self) -> Self:
        gone: set[int] = set()
        for source, _ in self.pairs or ():
            if source in gone:
                raise ValueError(f"each channel goes once; {source} is the first of two pairs")
            gone.add(source)
        for source, target in self.pairs or ():
            if target in gone:
                how = "itself" if source == target else f"{target}, which goes too"
                raise ValueError(
                    f"pair [{source}, {target}]: {source} cannot move onto {how}; the second "
                    "channel has to stay"
                )
        return self
