"""Whether what a spec measures and promises can be measured on its test data."""

import re
from collections.abc import Iterator

from secateur.models import Dataset, Model, TensorInfo
from secateur.problems import FieldProblem
from secateur.spec import JobFrame
from service.checks import TARGETS, Named

_FLOAT = re.compile(r"b?float\d.*")
_INTEGER = re.compile(r"u?int\d+")
_CLASSES = "class numbers"
_LABELS = "labels"
_TOP_COUNT = 5


def missing_test_data(spec: JobFrame, named: Named) -> list[FieldProblem]:
    """The measures and promises without the labels that they are about."""
    asking = [(f"/evaluation/{name}", name, _LABELS) for name in _probes(spec)]
    asking += [
        ("/data/test", f"the promise /safety/max_drop/{name}", _wanted(name))
        for name in _promises(spec)
    ]
    found = ((pointer, _lacking(spec, named, who, wanted)) for pointer, who, wanted in asking)
    return [
        FieldProblem(pointer=pointer, code="data.missing", detail=detail)
        for pointer, detail in found
        if detail is not None
    ]


def unmeasurable(spec: JobFrame, named: Named) -> list[FieldProblem]:
    """The measures and promises that make no sense for the model, or for its kind of targets."""
    found = [(f"/evaluation/{name}", _unprobed(name, named)) for name in _probes(spec)]
    if "top5_accuracy" in _promises(spec):
        found.append(("/safety/max_drop/top5_accuracy", _without_top5(named.model)))
    return [
        FieldProblem(pointer=pointer, code="data.mismatch", detail=detail)
        for pointer, detail in found
        if detail is not None
    ]


def _probes(spec: JobFrame) -> list[str]:
    """The fields that ask for accuracy on inputs which are made harder."""
    asked = {"noise_std": spec.evaluation.noise_std, "fgsm_epsilon": spec.evaluation.fgsm_epsilon}
    return [name for name, value in asked.items() if value is not None]


def _promises(spec: JobFrame) -> list[str]:
    return [] if spec.safety is None else list(spec.safety.max_drop.given)


def _wanted(promise: str) -> str:
    return _LABELS if promise == "loss" else _CLASSES


def _lacking(spec: JobFrame, named: Named, who: str, wanted: str) -> str | None:
    if spec.data.test is None:
        return f"{who} needs test data with {wanted}: give a data set in /data/test"
    if named.test is None:
        return None  # An id that is nobody's: that is said already.
    targets = _targets(named.test)
    if targets is None:
        names = ", ".join(array.name for array in named.test.arrays)
        return (
            f"{who} needs {wanted}, and the data set in /data/test has only {names}: add an array "
            f"{TARGETS!r} to it"
        )
    if wanted == _CLASSES and not _INTEGER.fullmatch(targets.dtype):
        return (
            f"{who} needs {wanted}, and the targets in /data/test are {targets.dtype}: add integer "
            "targets, or promise a loss"
        )
    return None


def _unprobed(name: str, named: Named) -> str | None:
    targets = None if named.test is None else _targets(named.test)
    if targets is not None and not _INTEGER.fullmatch(targets.dtype):
        return (
            f"{name} measures an accuracy, which needs class numbers as targets, and those in "
            f"/data/test are {targets.dtype}: add integer targets, or leave {name} out"
        )
    if named.model is None or any(_FLOAT.fullmatch(each.dtype) for each in named.model.inputs):
        return None
    return (
        f"{name} changes floating-point inputs by a little, and the model has none "
        f"({', '.join(_described(named.model))}): numbers of tokens and the like cannot be moved; "
        f"leave {name} out"
    )


def _without_top5(model: Model | None) -> str | None:
    shape = model.outputs[0].shape if model is not None and model.outputs else []
    count = shape[1] if len(shape) > 1 else None
    if not isinstance(count, int) or count > _TOP_COUNT:
        return None
    return (
        f"the promise top5_accuracy needs more than {_TOP_COUNT} classes, and the model gives "
        f"{count}: promise accuracy instead"
    )


def _described(model: Model) -> Iterator[str]:
    return (f"input {each.name!r} is {each.dtype}" for each in model.inputs)


def _targets(dataset: Dataset) -> TensorInfo | None:
    return next((array for array in dataset.arrays if array.name == TARGETS), None)
