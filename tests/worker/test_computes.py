"""What a device computes with: asked of torch, and told of by a process of its own."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from secateur.precision import Precision
from worker import computes
from worker.computes import Probe, check_precisions, precisions_of
from worker.engine.config import CastConfig, PruneConfig, Request
from worker.engine.errors import PrecisionUnavailableError

ON_A_PROCESSOR = (Precision.FLOAT16, Precision.BFLOAT16)


def test_a_processor_has_what_torch_does_on_it() -> None:
    assert precisions_of("cpu") == ON_A_PROCESSOR


def test_a_processor_without_a_kernel_has_not_the_type(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(cell: torch.nn.LSTM, read: torch.Tensor) -> None:
        if read.dtype == torch.float16:
            raise RuntimeError("not implemented for 'Half'")

    monkeypatch.setattr(torch.nn.LSTM, "forward", refusing)
    assert precisions_of("cpu") == (Precision.BFLOAT16,)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((5, 0), ()),
        ((7, 5), (Precision.FLOAT16,)),
        ((8, 0), ON_A_PROCESSOR),
        ((8, 6), ON_A_PROCESSOR),
        ((8, 9), tuple(Precision)),
        ((9, 0), tuple(Precision)),
        ((10, 0), tuple(Precision)),
    ],
)
@pytest.mark.parametrize("device", ["cuda:1", "auto"])
def test_a_gpu_has_what_its_compute_capability_has(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    capability: tuple[int, int],
    expected: tuple[Precision, ...],
) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda which: asked.append(which) or capability
    )
    assert precisions_of(device) == expected
    assert asked == ["cuda" if device == "auto" else device]


def test_the_probe_is_a_process_that_says_the_same() -> None:
    probe = Probe("cpu")
    probe.begin()
    assert probe.precisions() == ON_A_PROCESSOR
    assert probe.precisions() == ON_A_PROCESSOR


def test_a_probe_that_fails_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert Probe("nowhere:7" if torch.cuda.is_available() else "cuda").precisions() == ()
    assert "cannot be told" in caplog.text


def test_a_job_that_casts_to_what_the_device_has_not_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = Request(
        Path("model.pt2"), "0" * 64, (PruneConfig(), CastConfig("float8_e4m3fn")), Path("output")
    )
    with pytest.raises(PrecisionUnavailableError, match="it has float16, bfloat16") as caught:
        check_precisions(request)
    assert (caught.value.pointer, caught.value.in_step) == ("/recipe/1/dtype", False)
    check_precisions(replace(request, recipe=(CastConfig("bfloat16"),)))
    # The device is asked only where a recipe casts: to ask a GPU takes a while.
    monkeypatch.setattr(computes, "precisions_of", lambda _: pytest.fail("asked"))
    check_precisions(replace(request, recipe=(PruneConfig(),)))
