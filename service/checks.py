"""Whether a spec fits what was uploaded: its data, its shapes, the model of its plan."""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from secateur.capabilities import Needs, needs_of, needs_of_step
from secateur.models import MODEL_FORMATS, Dataset, Model, ModelFormat, TensorInfo
from secateur.outputs import OUTPUT_FORMATS
from secateur.precision import PRECISIONS, CastStep, Precision
from secateur.problems import FieldProblem
from secateur.pruning import PruneStep
from secateur.quantization import LEAST_ROWS, QuantizeStep
from secateur.spec import ApplyPlanStep, JobFrame, JobSpec

INPUTS = "inputs"
TARGETS = "targets"
_WITHOUT_LABELS = ", or set the criterion's option 'targets' to 'outputs'"


@dataclass(frozen=True)
class Named:
    """What a spec names by id; None where it names nothing, or nothing that is there."""

    model: Model | None
    train: Dataset | None
    test: Dataset | None
    readable: AbstractSet[ModelFormat] = frozenset(ModelFormat)
    """Formats of models that some worker reads which is up."""
    computable: AbstractSet[Precision] | None = None
    """Data types that some worker computes with which is up; None while none is up."""


def has_labels(spec: JobFrame, named: Named) -> bool:
    """Whether there is training data that says what is right."""
    return named.train is not None and spec.objective.has_targets(named.train.arrays)


def unknown_references(spec: JobFrame, named: Named) -> list[FieldProblem]:
    """The ids in a spec that are nobody's."""
    references = {
        "/model_id": (spec.model_id, named.model, "model"),
        "/data/train": (spec.data.train, named.train, "data set"),
        "/data/test": (spec.data.test, named.test, "data set"),
    }
    return [
        FieldProblem(
            pointer=pointer, code="spec.unknown_id", detail=f"no {what} has the id {given[:100]!r}"
        )
        for pointer, (given, found, what) in references.items()
        if given is not None and found is None
    ]


def missing_data(spec: JobSpec, named: Named) -> list[FieldProblem]:
    """The steps that need data which the job does not have."""
    problems = []
    for pointer, name, needs in _needs(spec):
        if needs.data and spec.data.train is None:
            detail = f"{name} needs training data: give a data set in /data/train"
        elif needs.labels and named.train is not None and not has_labels(spec, named):
            detail = (
                f"{name} needs labels, and the data set in /data/train has only "
                f"{', '.join(_arrays(named.train))}: add an array {TARGETS!r} to it"
                f"{_WITHOUT_LABELS if name.startswith('criterion') else ''}"
            )
        else:
            continue
        problems.append(FieldProblem(pointer=pointer, code="data.missing", detail=detail))
    return problems


def mismatched_data(named: Named) -> list[FieldProblem]:
    """The data sets whose arrays are not what the model reads."""
    if named.model is None or named.model.inputs is None:
        return []  # What the file does not tell, the job finds out.
    datasets = {"/data/train": named.train, "/data/test": named.test}
    return [
        FieldProblem(pointer=pointer, code="data.mismatch", detail=detail)
        for pointer, dataset in datasets.items()
        if dataset is not None
        for detail in _mismatches(named.model.inputs, dataset)
    ]


def too_few_rows(spec: JobSpec, named: Named) -> list[FieldProblem]:
    """The training data, if a step calibrates on it and there is too little."""
    is_calibrating = any(isinstance(step, QuantizeStep) and step.needs_data for step in spec.recipe)
    if named.train is None or named.train.row_count >= LEAST_ROWS or not is_calibrating:
        return []
    detail = (
        f"step 'quantize' calibrates on rows of training data, and {named.train.id} has "
        f"{named.train.row_count}: give at least {LEAST_ROWS}, of the kind that the model will "
        "see; 512 are enough for most models"
    )
    return [FieldProblem(pointer="/data/train", code="data.mismatch", detail=detail)]


def mismatched_plans(spec: JobSpec, named: Named) -> list[FieldProblem]:
    """The plans that were made for another model."""
    if named.model is None:
        return []
    return [
        FieldProblem(
            pointer=f"/recipe/{index}/plan/model_sha256",
            code="plan.mismatch",
            detail=f"the plan was made for a model with sha256 {step.plan.model_sha256}, "
            f"{named.model.id} has {named.model.sha256}: name the plan's model in /model_id, or "
            "make a plan of this one (POST /v1/plans)",
        )
        for index, step in enumerate(spec.recipe)
        if isinstance(step, ApplyPlanStep) and step.plan.model_sha256 != named.model.sha256
    ]


def unavailable_outputs(spec: JobFrame, named: Named) -> list[FieldProblem]:
    """The formats of a result that the model's own format does not lead to."""
    if named.model is None:
        return []
    problems = []
    for index, output in enumerate(spec.output_formats or ()):
        uploads = OUTPUT_FORMATS[output].uploads
        if uploads is not None and named.model.format not in uploads:
            given = [
                each
                for each, info in OUTPUT_FORMATS.items()
                if info.uploads is None or named.model.format in info.uploads
            ]
            problems.append(
                FieldProblem(
                    pointer=f"/output_formats/{index}",
                    code="output.unavailable",
                    detail=f"{output} is for models uploaded as {' or '.join(sorted(uploads))}, "
                    f"and {named.model.id} was uploaded as {named.model.format}: choose among "
                    f"{', '.join(given)}",
                )
            )
    return problems


def unread_format(named: Named) -> list[FieldProblem]:
    """The model, if only some workers read its format and none of them is up."""
    if named.model is None or named.model.format in named.readable:
        return []
    info = MODEL_FORMATS[named.model.format]
    if info.extra is None:
        return []
    detail = (
        f"no worker is up that reads {named.model.format}: {info.otherwise}; or have the "
        f"operator start a worker that was installed with the extra [{info.extra}]"
    )
    return [FieldProblem(pointer="/model_id", code="model.no_worker", detail=detail)]


def uncomputed_precisions(spec: JobSpec, named: Named) -> list[FieldProblem]:
    """The steps that cast to what no worker computes with that is up.

    While none is up, what every worker may be expected to have is waited for.
    """
    everywhere = frozenset(each for each, info in PRECISIONS.items() if info.is_everywhere)
    computable = everywhere if named.computable is None else named.computable
    others = ", ".join(sorted(computable)) or "none"
    return [
        FieldProblem(
            pointer=f"/recipe/{index}/dtype",
            code="precision.unavailable",
            detail=f"no worker is up whose device computes with {step.dtype}: cast to a type that "
            f"one has ({others}), or have the operator start a worker on a device that has it",
        )
        for index, step in enumerate(spec.recipe)
        if isinstance(step, CastStep) and step.dtype not in computable
    ]


def _needs(spec: JobSpec) -> Iterator[tuple[str, str, Needs]]:
    """Each choice in the recipe: where it is, what it is called, and what it needs."""
    for index, step in enumerate(spec.recipe):
        yield f"/recipe/{index}", f"step {step.step!r}", needs_of_step(step)
        if isinstance(step, PruneStep):
            for pointer, name, needs in needs_of(step):
                yield f"/recipe/{index}{pointer}", name, needs


def _arrays(dataset: Dataset) -> Mapping[str, TensorInfo]:
    return {array.name: array for array in dataset.arrays}


def _mismatches(inputs: list[TensorInfo], dataset: Dataset) -> Iterator[str]:
    arrays = _arrays(dataset)
    input_count = sum(name != TARGETS for name in arrays)
    if input_count > len(inputs):
        yield f"{dataset.id} has {input_count} input arrays, the model {len(inputs)} inputs"
    for array_name, wanted in _wanted(inputs, arrays).items():
        array = arrays.get(array_name)
        if array is None:
            yield (
                f"{dataset.id} has no array {array_name!r} for the model's input {wanted.name!r}; "
                f"it has {', '.join(sorted(arrays))}"
            )
        elif array.dtype != wanted.dtype or not _fits(wanted.shape[1:], array.shape[1:]):
            yield (
                f"the model's input {wanted.name!r} is {_described(wanted)}, and the array "
                f"{array_name!r} of {dataset.id} is {_described(array)}: all but the first "
                "dimension, which counts rows, and the dtype have to be equal"
            )


def _wanted(inputs: list[TensorInfo], arrays: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The model's inputs, by the name of the array that is read for each."""
    if len(inputs) == 1 and f"{INPUTS}_0" not in arrays:
        return {INPUTS: inputs[0]}
    return {f"{INPUTS}_{index}": tensor for index, tensor in enumerate(inputs)}


def _fits(wanted: list[int | str], given: list[int | str]) -> bool:
    """Whether sizes agree; a dynamic dimension takes any."""
    return len(wanted) == len(given) and all(
        isinstance(want, str) or want == have for want, have in zip(wanted, given, strict=True)
    )


def _described(tensor: TensorInfo) -> str:
    return f"{tensor.dtype} [{', '.join(str(size) for size in tensor.shape)}]"
