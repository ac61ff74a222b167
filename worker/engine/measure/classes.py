"""Which classes are right: each by itself, and among the most likely ones."""

import torch
from torch import Tensor

TOP_COUNT = 5
CLASS_LIMIT = 2**15
"""A list for every class of a larger vocabulary would be most of the report, and nobody's to read.
"""


class ClassAccuracy:
    """How many of each class are right, counted over batches: two integers per class."""

    def __init__(self) -> None:
        self._right = torch.zeros(0, dtype=torch.int64)
        self._all = torch.zeros(0, dtype=torch.int64)

    def add(self, output: Tensor, targets: Tensor) -> None:
        """Count a batch.

        Args:
            output: ``(n, classes, ...)`` logits.
            targets: ``(n, ...)`` class numbers; every position counts as a row does.
        """
        count = output.shape[1]
        if not len(self._all):
            self._right, self._all = (torch.zeros(count, dtype=torch.int64) for _ in range(2))
        is_right = output.argmax(dim=1) == targets
        self._right += torch.bincount(targets[is_right].flatten().cpu(), minlength=count)
        self._all += torch.bincount(targets.flatten().cpu(), minlength=count)

    @property
    def value(self) -> list[float | None] | None:
        """Fraction right of each class, None for one without rows.

        None as a whole before the first batch, or for more than `CLASS_LIMIT` classes.
        """
        if not 0 < len(self._all) <= CLASS_LIMIT:
            return None
        pairs = zip(self._right.tolist(), self._all.tolist(), strict=True)
        return [right / all_ if all_ else None for right, all_ in pairs]


def top_share(output: Tensor, targets: Tensor) -> float | None:
    """Fraction whose class is among the five with the highest logits.

    Args:
        output: ``(n, classes, ...)`` logits.
        targets: ``(n, ...)`` class numbers.

    Returns:
        A fraction in [0, 1]; None for five classes or fewer, of which it would say nothing.
    """
    if output.shape[1] <= TOP_COUNT:
        return None
    likely = output.topk(TOP_COUNT, dim=1).indices
    is_among = (likely == targets.unsqueeze(1)).any(dim=1)
    return float(is_among.double().mean()) if is_among.numel() else 0.0
