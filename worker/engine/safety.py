"""Promises: how much of each measure may be lost, held against two quality documents.

Plain values and pure functions, so that whoever looks for the largest cut that keeps its promises
asks the same question as the pipeline does at its end.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

Quality = Mapping[str, Any]
"""What `measure.quality` gives for one program."""

_ROUNDING = 1e-9
"""What a sum of floats may be off by: a drop of 0.3 - 0.2 is allowed where 0.1 is."""

_NEEDS = {
    "accuracy": "class numbers or labels as targets",
    "top5_accuracy": "class numbers as targets, and 6 classes or more",
    "agreement": "class numbers or labels as targets",
    "loss": "targets",
    "class_accuracy": "class numbers as targets, and 32768 classes or fewer",
    "noise_accuracy": "noise_std in the evaluation",
    "fgsm_accuracy": "fgsm_epsilon in the evaluation",
}


@dataclass(frozen=True)
class SafetyConfig:
    """How much of each measure may be lost, >= 0; None where nothing is promised.

    Fractions of rows, but for ``loss``: an increase in its own unit. ``class_accuracy`` is for each
    class, ``agreement`` is 1 - agreement.
    """

    accuracy: float | None = None
    top5_accuracy: float | None = None
    agreement: float | None = None
    loss: float | None = None
    class_accuracy: float | None = None
    noise_accuracy: float | None = None
    fgsm_accuracy: float | None = None

    @property
    def given(self) -> dict[str, float]:
        """What is promised, by the name of the measure, in the order above."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Promise:
    """One promise, and what became of it. ``drop`` is what was lost; a gain is negative.

    Of ``class_accuracy``, the numbers are those of ``worst_class``, and ``broken_classes`` are
    those that lost more than allowed, the worst first.
    """

    name: str
    before: float
    after: float
    drop: float
    allowed: float
    worst_class: int | None = None
    broken_classes: tuple[int, ...] | None = None

    @property
    def is_kept(self) -> bool:
        """Whether no more was lost than allowed; what is no number is no promise kept."""
        return _is_within(self.drop, self.allowed)

    def as_json(self) -> dict[str, Any]:
        """The document of a report."""
        classes = self.broken_classes
        return {
            "name": self.name,
            "before": self.before,
            "after": self.after,
            "drop": self.drop,
            "allowed": self.allowed,
            "is_kept": self.is_kept,
            "worst_class": self.worst_class,
            "broken_classes": None if classes is None else list(classes),
        }


def unmeasured(quality: Quality | None, promises: SafetyConfig) -> list[str]:
    """The promises that nobody can hold against this document, each with what it needs."""
    return [
        f"{name} needs {_NEEDS[name]}"
        for name in promises.given
        if quality is None or not _is_measured(quality[name])
    ]


def judged(before: Quality, after: Quality, promises: SafetyConfig) -> list[Promise]:
    """What became of each promise.

    Args:
        before: Quality of the original.
        after: Quality of the compressed program on the same rows.
        promises: None of them `unmeasured` in either document.
    """
    return [
        _class_promise(before[name], after[name], allowed)
        if name == "class_accuracy"
        else _promise(name, before[name], after[name], allowed)
        for name, allowed in promises.given.items()
    ]


def broken(before: Quality, after: Quality, promises: SafetyConfig) -> list[Promise]:
    """The promises that are not kept. See `judged`."""
    return [promise for promise in judged(before, after, promises) if not promise.is_kept]


def told(promises: list[Promise]) -> str:
    """Broken promises as a sentence: what was lost of what, and what might have been."""
    return "; ".join(_told(promise) for promise in promises)


def _is_measured(value: Any) -> bool:
    return any(each is not None for each in value) if isinstance(value, list) else value is not None


def _is_within(drop: float, allowed: float) -> bool:
    return drop <= allowed + _ROUNDING


def _promise(name: str, before: float, after: float, allowed: float) -> Promise:
    drop = after - before if name == "loss" else before - after
    return Promise(name, before, after, drop, allowed)


def _class_promise(
    before: list[float | None], after: list[float | None], allowed: float
) -> Promise:
    # A class without rows has no accuracy, and loses none.
    pairs = {
        number: (was, now)
        for number, (was, now) in enumerate(zip(before, after, strict=True))
        if was is not None and now is not None
    }
    drops = {number: was - now for number, (was, now) in pairs.items()}
    worst_first = sorted(drops, key=lambda number: -drops[number])
    worst = worst_first[0]
    return Promise(
        "class_accuracy",
        *pairs[worst],
        drops[worst],
        allowed,
        worst_class=worst,
        broken_classes=tuple(n for n in worst_first if not _is_within(drops[n], allowed)),
    )


def _told(promise: Promise) -> str:
    verb, direction = ("rose", "rise") if promise.name == "loss" else ("fell", "fall")
    what = promise.name
    if promise.broken_classes is not None:
        others = len(promise.broken_classes) - 1
        what += f" of class {promise.worst_class}" + (f" (and of {others} more)" if others else "")
    return (
        f"{what} {verb} by {promise.drop:.4g}, from {promise.before:.4g} to {promise.after:.4g}, "
        f"and may {direction} by {promise.allowed:.4g}"
    )
