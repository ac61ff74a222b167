"""What a run has found so far: all that its report needs besides the programs."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from worker.engine.config import Origin
from worker.engine.graph.counts import Counts
from worker.engine.packed import NOTHING_PACKED, Packed
from worker.engine.prune.verify import Exactness
from worker.engine.recovery.remaining import Remaining


@dataclass
class Found:
    """What a run has found so far, which a checkpoint carries along.

    Attributes:
        before: What was measured on the original.
        after_prune: The same after the last step that prunes.
        seconds: Spent in each stage.
        warnings: What users should know, each once.
        exactness: The proof of each cut.
        planned: What the saved file must count.
        zeros: Names of the parameters whose zeros stay zero.
        origins: What the fractions of a step in rounds are of, by its place in the recipe.
        remaining: What is left of the original's parameters; None once anything was trained.
        trials: Of a search that has not ended.
        search: What came of one that has.
        latency_table: What a latency budget was met by.
        steps: What each step made that factorizes, quantizes or casts.
        packed: What the program makes from codes.
    """

    before: dict[str, Any] = field(default_factory=dict)
    after_prune: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    exactness: list[Exactness] = field(default_factory=list)
    planned: Counts | None = None
    zeros: set[str] = field(default_factory=set)
    origins: dict[int, Origin] = field(default_factory=dict)
    remaining: Remaining | None = None
    trials: list[dict[str, Any]] = field(default_factory=list)
    search: dict[str, Any] | None = None
    latency_table: list[dict[str, Any]] | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    packed: Packed = NOTHING_PACKED

    def warn(self, warning: str) -> None:
        if warning not in self.warnings:
            self.warnings.append(warning)

    def as_json(self) -> dict[str, Any]:
        remaining = None if self.remaining is None else self.remaining.as_json()
        # The rest first: tensors are nothing that dataclasses can copy into a document.
        plain = asdict(replace(self, remaining=None))
        return {**plain, "zeros": sorted(self.zeros), "remaining": remaining}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Found":
        """What :meth:`as_json` gave, after a way through a file.

        Raises:
            KeyError: It is something else.
            TypeError: The same.
        """
        exactness = [
            Exactness(each["max_relative_error"], tuple(each["exempt_operators"]))
            for each in document["exactness"]
        ]
        planned = document["planned"]
        remaining = document["remaining"]
        rest = {
            "remaining": None if remaining is None else Remaining.from_json(remaining),
            "exactness": exactness,
            "planned": None if planned is None else Counts(**planned),
            "zeros": set(document["zeros"]),
            "packed": Packed.from_json(document["packed"]),
            "origins": {int(at): Origin(**each) for at, each in document["origins"].items()},
        }
        return cls(**{**document, **rest})
