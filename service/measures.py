"""Whether what a spec measures and promises can be measured on its test data."""

import re
from collections.abc import Iterator

from secateur.models import Dataset, Model, TensorInfo
from secateur.problems import FieldProblem
from secateur.spec import JobFrame
from service.checks import TARGETS, Named

_FLOAT = re.compile(r"b?float\d.*")
_CLASSES = "class numbers"
_LABELS = "labels"
_OF_CLASSES = ("top5_accuracy", "class_accuracy")
_OF_LABELS = ("loss", "noise_std", "fgsm_epsilon")
_TOP_COUNT = 5


def missing_test_data(spec: JobFrame, named: Named) -> list[FieldProblem]:
    """The measures and promises without the labels that they are about."""
    asking = [(f"/evaluation/{name}", name, name) for name in _probes(spec)]
    asking += [
        ("/data/test", f"the promise /safety/max_drop/{name}", name) for name in _promises(spec)
    ]
    found = ((pointer, _lacking(spec, named, who, measure)) for pointer, who, measure in asking)
    return [
        FieldProblem(pointer=pointer, code="data.missing", detail=detail)
        for pointer, detail in found
        if detail is not None
    ]


def unmeasurable(spec: JobFrame, named: Named) -> list[FieldProblem]:
    """The measures and promises that make no sense for the model, or for its kind of targets."""
    found = [(f"/evaluation/{name}", _unprobed(spec, name, named)) for name in _probes(spec)]
    found.append(("/objective/output", _without_output(spec, named.model)))
    if "top5_accuracy" in _promises(spec):
        found.append(("/safety/max_drop/top5_accuracy", _without_top5(spec, named)))
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


def _lacking(spec: JobFrame, named: Named, who: str, measure: str) -> str | None:
    wanted = _LABELS if measure in _OF_LABELS else _CLASSES
    if spec.data.test is None:
        return f"{who} needs test data with {wanted}: give a data set in /data/test"
    if named.test is None:
        return None  # An id that is nobody's: that is said already.
    if not spec.objective.has_targets(named.test.arrays):
        names = ", ".join(array.name for array in named.test.arrays)
        return (
            f"{who} needs {wanted}, and the data set in /data/test has only {names}: add an array "
            f"{TARGETS!r} to it"
        )
    task = spec.objective.task_on(named.test.arrays)
    is_told = task.has_classes if measure in _OF_CLASSES else task.has_accuracy
    if wanted == _CLASSES and not is_told:
        return (
            f"{who} needs {wanted}, and the targets in /data/test are {_targets(named.test)} of "
            f"task {task}: add integer targets, name another task in /objective/task, or promise "
            "a loss"
        )
    return None


def _unprobed(spec: JobFrame, name: str, named: Named) -> str | None:
    if named.test is not None and spec.objective.has_targets(named.test.arrays):
        task = spec.objective.task_on(named.test.arrays)
        if not task.has_accuracy:
            return (
                f"{name} measures an accuracy, which needs class numbers as targets, and those in "
                f"/data/test are {_targets(named.test)} of task {task}: add integer targets, name "
                f"another task in /objective/task, or leave {name} out"
            )
    inputs = None if named.model is None else named.model.inputs
    if inputs is None or any(_FLOAT.fullmatch(each.dtype) for each in inputs):
        return None
    return (
        f"{name} changes floating-point inputs by a little, and the model has none "
        f"({', '.join(_described(inputs))}): numbers of tokens and the like cannot be moved; "
        f"leave {name} out"
    )


def _without_output(spec: JobFrame, model: Model | None) -> str | None:
    output = spec.objective.output
    if model is None or model.outputs is None or output < max(1, len(model.outputs)):
        return None
    return (
        f"the objective's output is {output}, and the model has {len(model.outputs)}, numbered "
        "from 0: choose one of these"
    )


def _without_top5(spec: JobFrame, named: Named) -> str | None:
    outputs = None if named.model is None else named.model.outputs
    if outputs is None or spec.objective.output >= len(outputs):
        return None
    task = spec.objective.task_on(() if named.test is None else named.test.arrays)
    count = task.class_count(outputs[spec.objective.output])
    if count is None or count > _TOP_COUNT:
        return None
    return (
        f"the promise top5_accuracy needs more than {_TOP_COUNT} classes, and the model gives "
        f"{count}: promise accuracy instead"
    )


def _described(inputs: list[TensorInfo]) -> Iterator[str]:
    return (f"input {each.name!r} is {each.dtype}" for each in inputs)


def _targets(dataset: Dataset) -> str:
    """What dtype the targets have."""
    return next((array.dtype for array in dataset.arrays if array.name == TARGETS), "none")
