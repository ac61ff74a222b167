"""Budgets that are met by trying: what is to be least, and how long to look."""

from enum import StrEnum

from pydantic import Field

from secateur.schema import Input


class Minimize(StrEnum):
    """What the smallest model is smallest in."""

    MACS = "macs"
    PARAMETERS = "parameters"
    BYTES = "bytes"
    LATENCY = "latency"

    @property
    def label(self) -> str:
        """As it is called in tables and pictures."""
        return {Minimize.MACS: "MACs", Minimize.BYTES: "weight bytes"}.get(self, self.value)


class Search(Input):
    """How to look for the smallest model that keeps its promise."""

    minimize: Minimize = Field(default=Minimize.MACS, description="What is to be least.")
    trials: int = Field(
        default=24,
        ge=1,
        le=500,
        description="Most models to try. Each is pruned, recovered as the recipe says, and "
        "measured on the validation rows.",
    )
    seconds: int = Field(
        default=1200,
        ge=1,
        le=7 * 86400,
        description="After this no other trial begins; the best so far is delivered.",
    )
