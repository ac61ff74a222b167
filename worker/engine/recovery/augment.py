"""Seeded changes of images that leave what they show."""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional

from worker.engine.config import TrainingConfig
from worker.engine.data import Rows
from worker.engine.errors import DataMismatchError

_IMAGE_DIMS = 4  # rows, channels, height, width


def check_augmentable(rows: Rows, config: TrainingConfig, *, reads_labels: bool) -> None:
    """Check that there are images to change, and no targets that would have to change with them.

    Raises:
        DataMismatchError: There are not, or there are.
    """
    if not config.augment:
        return
    shapes = [tuple(array.shape) for array in rows.inputs]
    if all(len(shape) != _IMAGE_DIMS for shape in shapes):
        raise DataMismatchError(
            f"augment changes images of shape (rows, channels, height, width), and the inputs "
            f"have shape {', '.join(map(str, shapes))}: leave it out",
            pointer="/augment",
        )
    if reads_labels and rows.targets is not None and len(rows.targets.shape) >= _IMAGE_DIMS - 1:
        raise DataMismatchError(
            f"augment moves the pixels of inputs, and targets of shape {rows.targets.shape} say "
            "something of each: leave it out",
            pointer="/augment",
        )


def augmented(
    inputs: Sequence[Tensor], config: TrainingConfig, generator: Generator
) -> list[Tensor]:
    """Change every image; inputs of other than 4 dimensions stay. All images of a row go along.

    Args:
        inputs: ``(n, c, h, w)`` for images, any dtype.
        config: Which changes, and the padding of a crop in pixels.
        generator: On the CPU.
    """
    for name in config.augment:
        inputs = CHANGES[name](inputs, config, generator)
    return list(inputs)


def _flip(inputs: Sequence[Tensor], config: TrainingConfig, generator: Generator) -> list[Tensor]:
    """Every row from left to right, with a chance of one half."""
    del config
    is_flipped = torch.rand(len(inputs[0]), generator=generator) < 0.5

    def flip(images: Tensor) -> Tensor:
        return torch.where(
            is_flipped.to(images.device)[:, None, None, None], images.flip(3), images
        )

    return [flip(each) if each.dim() == _IMAGE_DIMS else each for each in inputs]


def _crop(inputs: Sequence[Tensor], config: TrainingConfig, generator: Generator) -> list[Tensor]:
    """Every row from a place of its own in the image padded with zeros."""
    pad = config.crop_padding
    corners = torch.randint(2 * pad + 1, (2, len(inputs[0])), generator=generator)

    def crop(images: Tensor) -> Tensor:
        rows, channels, height, width = images.shape
        padded = functional.pad(images, (pad, pad, pad, pad))
        top, left = corners.to(images.device)
        at = [torch.arange(size, device=images.device) for size in (rows, channels, height, width)]
        y, x = top[:, None] + at[2], left[:, None] + at[3]
        return padded[
            at[0][:, None, None, None], at[1][:, None, None], y[:, None, :, None], x[:, None, None]
        ]

    return [crop(each) if each.dim() == _IMAGE_DIMS else each for each in inputs]


CHANGES: dict[str, Callable[[Sequence[Tensor], TrainingConfig, Generator], list[Tensor]]] = {
    "flip": _flip,
    "crop": _crop,
}
"""What each does; by the names of the API."""
