"""A job on the demo's network and data, through the service."""

import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from secateur import Client, Report
from secateur.progress import ProgressLine

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "examples"))

import digits_model as demo  # noqa: E402 (examples are no package)


def compressed(recipe: Sequence[dict[str, Any]], **fields: Any) -> tuple[Report, float]:
    """Train the network, and do a recipe with it.

    Args:
        recipe: As in a job's spec.
        fields: More of the spec.

    Returns:
        The job's report, and how many seconds it took with waiting.
    """
    with TemporaryDirectory() as folder, Client.from_environment() as client:
        files = Path(folder)
        images, targets, test_images, test_targets = demo.digits()
        with redirect_stdout(io.StringIO()):
            network = demo.train(images, targets)
        demo.save(network, images, files / "digits.pt2")
        demo.save_rows(images, targets, files / "train.npz")
        demo.save_rows(test_images, test_targets, files / "test.npz")
        spec = {
            "model_id": client.upload_model(files / "digits.pt2").id,
            "data": {
                use: client.upload_dataset(files / f"{use}.npz").id for use in ("train", "test")
            },
            "recipe": recipe,
            "evaluation": {"batch_size": 450, "latency_batch_size": 64},
            **fields,
        }
        began = perf_counter()
        with ProgressLine() as line:
            job = client.wait(client.create_job(spec), on_update=line.job)
        return client.report(job), perf_counter() - began


def points_lost(report: Report) -> float:
    """Accuracy that the smaller model has less, as a fraction."""
    before, after = report.before.quality, report.after_recovery.quality
    assert before is not None
    assert after is not None
    return (before.accuracy or 0.0) - (after.accuracy or 0.0)
