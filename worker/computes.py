"""The data types that this worker's device computes with: asked of torch, and of nothing else.

``python -m worker.computes DEVICE`` prints them, a line each. A process of its own: the worker
itself never imports PyTorch, and a GPU that was looked at here could be used in no forked child.
"""

import logging
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from secateur.precision import Precision
from worker.engine.config import CastConfig, Request
from worker.engine.errors import PrecisionUnavailableError

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

_PATIENCE_S = 120.0

CAPABILITIES: dict[Precision, tuple[int, int]] = {
    Precision.FLOAT16: (5, 3),
    Precision.BFLOAT16: (8, 0),
    Precision.FLOAT8_E4M3: (8, 9),
}
"""The compute capability from which a CUDA device has a type in its hardware."""


def precisions_of(device: str) -> tuple[Precision, ...]:
    """The types that a device computes with.

    Of a GPU, those that its compute capability has. Of a processor, those in which torch does a
    convolution, a linear layer, a product and a recurrent layer; float8 is none of them.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` for a GPU if there is one.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        has = torch.cuda.get_device_capability(device)
        return tuple(each for each, needed in CAPABILITIES.items() if has >= needed)
    tried = (Precision.FLOAT16, Precision.BFLOAT16)
    return tuple(each for each in tried if _computes(getattr(torch, each.value)))


def _computes(dtype: "torch.dtype") -> bool:
    """Whether torch has the layers of most models in a type, on a processor."""
    import torch
    from torch import nn

    try:
        with torch.no_grad():
            image = torch.ones(1, 2, 4, 4).to(dtype)
            nn.Conv2d(2, 2, 3).to(dtype)(image)
            nn.Linear(4, 4).to(dtype)(image)
            image @ image
            nn.LSTM(4, 4).to(dtype)(image[0])
    except (RuntimeError, NotImplementedError):
        return False
    return True


def check_precisions(request: Request) -> None:
    """Check that a recipe casts to nothing that its device does not compute with.

    Raises:
        PrecisionUnavailableError: It does; with the pointer to the type.
    """
    casts = [at for at, step in enumerate(request.recipe) if isinstance(step, CastConfig)]
    precisions = precisions_of(request.device) if casts else ()
    for at in casts:
        step = request.recipe[at]
        assert isinstance(step, CastConfig)
        if step.dtype not in precisions:
            raise PrecisionUnavailableError(
                f"the device of this worker ({request.device}) does not compute with {step.dtype}: "
                f"it has {', '.join(precisions) or 'float32 alone'}; cast to one of these, or send "
                "the job again for another worker",
                pointer=f"/recipe/{at}/dtype",
                in_step=False,
            )


class Probe:
    """Asks once, in a process of its own, while the worker goes on."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._found: tuple[Precision, ...] | None = None

    def begin(self) -> None:
        """Start the process, and do not wait for it."""
        with self._lock:
            self._begin()

    def precisions(self) -> tuple[Precision, ...]:
        """The types; the first call may wait for the process. None of them where that fails."""
        with self._lock:
            if self._found is None:
                self._found = _answer(self._begin())
            return self._found

    def _begin(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(  # noqa: S603 (this interpreter, on our own module)
                [sys.executable, "-m", "worker.computes", self._device],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
            )
        return self._process


def _answer(process: subprocess.Popen[str]) -> tuple[Precision, ...]:
    try:
        said, _ = process.communicate(timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
    if process.returncode:
        _log.warning("what the device computes with cannot be told: casts go to other workers")
        return ()
    return tuple(map(Precision, said.split()))


if __name__ == "__main__":
    sys.stdout.write("\n".join(precisions_of(sys.argv[1])))
