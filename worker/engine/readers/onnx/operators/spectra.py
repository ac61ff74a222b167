"""Windows and Fourier transforms of signals."""

import math

import torch
import torch.nn.functional as F  # noqa: N812 (as everywhere in PyTorch)
from torch import Tensor

from worker.engine.readers.onnx.host import Host
from worker.engine.readers.onnx.registry import Call, Unmet, operator, torch_dtype


def _angles(call: Call, size: Host) -> Tensor:
    length = size.one()
    steps = torch.arange(length, dtype=torch.float64)
    return steps * 2 * math.pi / (length if call.get("periodic", 1) else length - 1)


def _window(call: Call, values: Tensor) -> Tensor:
    return values.to(torch_dtype(call.get("output_datatype", 1)))


@operator("HannWindow", host=(0,))
def hann_window(call: Call, size: Host) -> Tensor:
    """Compute a Hann window."""
    return _window(call, 0.5 - 0.5 * torch.cos(_angles(call, size)))


@operator("HammingWindow", host=(0,))
def hamming_window(call: Call, size: Host) -> Tensor:
    """Compute a Hamming window."""
    alpha = 25 / 46
    return _window(call, alpha - (1 - alpha) * torch.cos(_angles(call, size)))


@operator("BlackmanWindow", host=(0,))
def blackman_window(call: Call, size: Host) -> Tensor:
    """Compute a Blackman window."""
    angles = _angles(call, size)
    return _window(call, 0.42 - 0.5 * torch.cos(angles) + 0.08 * torch.cos(2 * angles))


@operator("DFT", host=(1, 2))
def dft(call: Call, x: Tensor, length: Host | None = None, axis: Host | None = None) -> Tensor:
    """Transform along an axis; the last one holds real and imaginary parts."""
    written = call.get("axis", 1) if call.opset < 20 else -2
    dim = (written if axis is None else int(axis.one())) % x.dim()
    count = x.shape[dim] if length is None else length.one()
    one_sided = bool(call.get("onesided", 0))
    inverse = bool(call.get("inverse", 0))
    signal = x.squeeze(-1) if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())
    if inverse and one_sided:
        count = 2 * (x.shape[dim] - 1) if length is None else count
        return torch.fft.irfft(signal, n=count, dim=dim).unsqueeze(-1)
    if inverse:
        made = torch.fft.ifft(signal, n=count, dim=dim)
    elif one_sided and not signal.is_complex():
        made = torch.fft.rfft(signal, n=count, dim=dim)
    else:
        made = torch.fft.fft(signal, n=count, dim=dim)
        made = made.narrow(dim, 0, count // 2 + 1) if one_sided else made
    return torch.view_as_real(made)


@operator("STFT", host=(1, 3))
def stft(
    call: Call,
    signal: Tensor,
    step: Host,
    window: Tensor | None = None,
    length: Host | None = None,
) -> Tensor:
    """Transform what is under a window that moves over a signal."""
    if signal.dim() == 3 and signal.shape[-1] == 2:
        raise Unmet("its signal is complex")
    flat = signal.squeeze(-1) if signal.dim() == 3 else signal
    size = window.shape[0] if window is not None else 0
    size = length.one() if length is not None else size
    frames = flat.unfold(-1, size, step.one())
    if window is not None:
        short = size - window.shape[0]
        frames = frames * (
            window if short == 0 else F.pad(window, [short // 2, short - short // 2])
        )
    made = torch.fft.rfft(frames) if call.get("onesided", 1) else torch.fft.fft(frames)
    return torch.view_as_real(made)
