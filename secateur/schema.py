"""The two base classes of everything that crosses HTTP."""

from pydantic import BaseModel, ConfigDict


class Input(BaseModel):
    """What a caller sends. An unknown field is an error, so that a typo is never a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Output(BaseModel):
    """What the service answers. Fields have no defaults, so clients see each as always there.

    Unknown fields are kept out of the way rather than refused: a newer service may say more.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)
