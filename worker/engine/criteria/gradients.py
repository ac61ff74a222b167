"""Gradients of a loss on training rows."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.attention import SDPBackend, sdpa_kernel

from worker.engine.batch import Batch
from worker.engine.criteria.subject import Subject
from worker.engine.errors import CriterionError, DataMismatchError

Elements = dict[str, Tensor]
"""A tensor for each parameter, by every name it has, in its shape."""


@contextmanager
def trainable(subject: Subject) -> Iterator[dict[str, Parameter]]:
    """Let every floating-point parameter have gradients inside; gives them by name, each once."""
    parameters = {
        name: parameter
        for name, parameter in subject.program.module.named_parameters()
        if parameter.is_floating_point()
    }
    before = {name: parameter.requires_grad for name, parameter in parameters.items()}
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        # The fused attentions have no second derivatives.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            yield parameters
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(before[name])


def loss_on(subject: Subject, batch: Batch, targets: str) -> Tensor:
    """The mean loss of a batch, with a graph for its gradients.

    Args:
        subject: The program.
        batch: Rows.
        targets: ``labels``: the loss on the batch's targets. ``outputs``: half the squared
            distance to the outputs as they are, summed over an output and averaged over rows: it
            is zero, and so is its gradient; its Hessian is that of the outputs' change.

    Raises:
        DataMismatchError: The program does not run on the rows, the output that is judged has no
            gradient, or targets do not fit it.
    """
    objective = subject.objective
    output = objective.outputs_of(subject.program, batch)
    if not output.requires_grad:
        raise DataMismatchError(
            f"{objective.output} has no gradient to any parameter, so that no loss can score its "
            "channels; export it without detach and no_grad, or use another criterion"
        )
    if targets == "outputs":
        return 0.5 * (output - output.detach()).float().square().sum() / len(output)
    return objective.loss(output, objective.targets_of(batch), batch=batch)


def gradients(
    subject: Subject, *, sample_count: int, batch_size: int, targets: str
) -> Iterator[Elements]:
    """The gradient of every batch's mean loss, by every name of each parameter.

    Args:
        subject: The program, with training rows.
        sample_count: Rows in all.
        batch_size: Rows per batch.
        targets: ``labels``, or ``outputs``: the gradient of the outputs times a draw of standard
            normal numbers, whose square is on average the squared change of the outputs.
    """
    if targets == "labels":
        subject.check_targets()
    draw = _projection(subject) if targets == "outputs" else None
    with trainable(subject) as parameters:
        for batch in subject.batches(sample_count, batch_size):
            if draw is None:
                value = loss_on(subject, batch, targets)
            else:
                value = draw(subject.objective.outputs_of(subject.program, batch))
            yield _named(subject, parameters, differentiated(value, list(parameters.values())))


def curvatures(
    subject: Subject, *, sample_count: int, batch_size: int, targets: str
) -> Iterator[Elements]:
    """Estimates of the diagonal of the Hessian of the loss, one for each batch.

    Each is ``v * (H v)`` for a draw of signs ``v``: right on average.

    Raises:
        CriterionError: An operator of the model has no second derivative.
    """
    if targets == "labels":
        subject.check_targets()
    with trainable(subject) as parameters:
        tensors = list(parameters.values())
        for batch in subject.batches(sample_count, batch_size):
            value = loss_on(subject, batch, targets)
            first = differentiated(value, tensors, create_graph=True)
            signs = [_signs(subject, tensor) for tensor in tensors]
            along = torch.stack([(g * v).sum() for g, v in zip(first, signs, strict=True)]).sum()
            try:
                found = torch.autograd.grad(
                    along, tensors, allow_unused=True, materialize_grads=True
                )
            except RuntimeError as error:
                raise CriterionError(
                    "an operator of the model has no second derivative "
                    f"({str(error).splitlines()[0]}), which criterion 'hessian' needs; use "
                    "'fisher' or 'taylor'",
                    pointer="/criterion",
                ) from error
            products = [v * h for v, h in zip(signs, found, strict=True)]
            yield _named(subject, parameters, products)


def differentiated(
    value: Tensor, tensors: Sequence[Tensor], *, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """The gradient of a number to tensors, zeros for those that it does not depend on.

    Raises:
        CriterionError: The model overwrites what its gradient needs.
    """
    try:
        return torch.autograd.grad(
            value, tensors, create_graph=create_graph, allow_unused=True, materialize_grads=True
        )
    except RuntimeError as error:
        if "inplace operation" not in str(error):
            raise
        raise CriterionError(
            "the model writes in place into a tensor that its gradient needs, so that no criterion "
            "by gradients can score it: export it without writes such as x[:, :4] += 1, or use "
            "'magnitude', 'wanda' or 'reconstruction'",
            pointer="/criterion",
        ) from error


def _signs(subject: Subject, tensor: Tensor) -> Tensor:
    bits = torch.randint(0, 2, tensor.shape, generator=subject.generator)
    return (bits * 2 - 1).to(tensor)


def _projection(subject: Subject) -> Callable[[Tensor], Tensor]:
    def project(output: Tensor) -> Tensor:
        noise = torch.randn(output.shape, generator=subject.generator).to(output)
        along: Tensor = (output * noise).sum() / len(output) ** 0.5
        return along

    return project


def _named(subject: Subject, parameters: dict[str, Parameter], found: object) -> Elements:
    by_tensor = dict(zip(map(id, parameters.values()), found, strict=True))  # type: ignore[call-overload]
    every = subject.program.module.named_parameters(remove_duplicate=False)
    return {
        name: by_tensor[id(parameter)].detach().float().cpu()
        for name, parameter in every
        if id(parameter) in by_tensor
    }


def averaged(
    batches: Iterable[Elements], then: Callable[[Tensor], Tensor] = torch.Tensor.float
) -> Elements:
    """The mean over batches of what each gives, name by name.

    Args:
        batches: From :func:`gradients` or :func:`curvatures`.
        then: What to do with each tensor first, such as to square it.
    """
    sums: Elements = {}
    count = 0
    for found in batches:
        count += 1
        for name, tensor in found.items():
            sums[name] = sums[name] + then(tensor) if name in sums else then(tensor)
    return {name: total / count for name, total in sums.items()}


def weights(subject: Subject) -> Elements:
    """The weights themselves, as gradients are given."""
    every = subject.program.module.named_parameters(remove_duplicate=False)
    return {name: weight.detach().float().cpu() for name, weight in every}
