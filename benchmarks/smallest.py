"""The smallest model within one point of accuracy, on the demo's network, through the service.

``make smallest`` runs it. It fails if the model that is found has more than a quarter of the MACs,
or loses more than a point on the test images.
"""

import io
import sys
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from secateur import Client
from secateur.progress import ProgressLine
from secateur.table import report_table

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "examples"))

import digits_model as demo  # noqa: E402 (examples are no package)

RECIPE = [
    {"step": "prune", "budget": {"accuracy": 0.01}},
    {"step": "reconstruct"},
    {"step": "finetune", "epochs": 10, "learning_rate": 0.003, "batch_size": 32},
]
_MOST_MACS = 0.25


def main() -> None:
    """Train, ask, show."""
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
            "recipe": RECIPE,
            "evaluation": {"batch_size": 450, "latency_batch_size": 64},
        }
        began = perf_counter()
        with ProgressLine() as line:
            job = client.wait(client.create_job(spec), on_update=line.job)
        seconds = perf_counter() - began
        report = client.report(job)
    print(report_table(report))
    before, after = report.before, report.after_recovery
    assert before.quality is not None
    assert after.quality is not None
    lost = (before.quality.accuracy or 0.0) - (after.quality.accuracy or 0.0)
    times = before.counts.macs / after.counts.macs
    print(f"{times:.1f} times fewer MACs, {100 * lost:.2f} points lost, {seconds:.0f} s.")
    if lost > 0.01 or after.counts.macs > _MOST_MACS * before.counts.macs:
        sys.exit("That is not what was asked for.")


if __name__ == "__main__":
    main()
