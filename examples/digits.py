"""The main job on real data: train, export, upload, plan, compress, download, check.

``make demo`` runs it. It needs SECATEUR_URL and SECATEUR_API_KEY, and leaves its files in
``demo-output/``.
"""

import json
import subprocess
import sys
from pathlib import Path

import digits_model as demo

from secateur import Client, Report
from secateur.progress import ProgressLine
from secateur.table import plan_table, report_table

OUTPUT = Path("demo-output")

PRUNE = {"step": "prune", "criterion": "magnitude", "scope": "global", "budget": {"macs": 0.5}}
RECIPE = [PRUNE, {"step": "finetune", "epochs": 5, "learning_rate": 0.002, "batch_size": 32}]


def main() -> None:
    OUTPUT.mkdir(exist_ok=True)
    model, train, test = (OUTPUT / name for name in ("digits.pt2", "train.npz", "test.npz"))
    make_files(model, train, test)
    with Client.from_environment() as client:
        report = compress(client, model, train, test)
    print(report_table(report))
    check(report, test)
    print(f"The files are in {OUTPUT.resolve()}")


def make_files(model: Path, train: Path, test: Path) -> None:
    """What a user has: a trained model as a file, and data."""
    print(f"Training the small CNN on scikit-learn's digits, {demo.EPOCHS} epochs ...")
    images, targets, test_images, test_targets = demo.digits()
    network = demo.train(images, targets)
    print(f"  accuracy {demo.accuracy(network, test_images, test_targets):.2%}")
    demo.save(network, images, model)
    demo.save_rows(images, targets, train)
    demo.save_rows(test_images, test_targets, test)


def compress(client: Client, model: Path, train: Path, test: Path) -> Report:
    """What the service does, over HTTP alone."""
    print("Uploading the model and both data sets ...")
    model_id = client.upload_model(model).id
    data = {"train": client.upload_dataset(train).id, "test": client.upload_dataset(test).id}

    print("Asking for a plan: half the MACs, one ranking over all channels, by magnitude ...")
    plan = client.create_plan({"model_id": model_id, "prune": PRUNE})
    print(plan_table(client.plan(client.wait(plan))))

    print("Compressing: prune as planned, fine-tune for five epochs, measure ...")
    evaluation = {"latency_batch_size": 64, "latency_rounds": 100}
    job = client.create_job(
        {"model_id": model_id, "recipe": RECIPE, "data": data, "evaluation": evaluation}
    )
    with ProgressLine() as progress:
        client.wait(job, on_update=progress.job)
    client.download_all(job, OUTPUT)
    return client.report(job)


def check(report: Report, test: Path) -> None:
    """Believe nothing: load the file in a process of its own, and compare with the report."""
    command = [
        sys.executable,
        Path(__file__).with_name("digits_check.py"),
        OUTPUT / "model.pt2",
        test,
    ]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    before, after = report.before, report.after_recovery
    assert before.quality is not None
    assert after.quality is not None
    print(f"Loaded again in a fresh process: accuracy {found['accuracy']:.2%}, ", end="")
    print(f"{found['parameters']:,} parameters, as reported.")
    wrong = []
    if abs(found["accuracy"] - (after.quality.accuracy or 0.0)) > 1e-9:
        wrong.append("the accuracy is not the reported one")
    if found["parameters"] != after.counts.parameters:
        wrong.append("the number of parameters is not the reported one")
    if after.counts.macs > before.counts.macs / 2:
        wrong.append("more than half of the MACs are left")
    if (before.quality.accuracy or 0.0) - (after.quality.accuracy or 0.0) > 0.01:
        wrong.append("more than one point of accuracy is lost")
    if wrong:
        sys.exit(f"The demo is not what it promises: {'; '.join(wrong)}.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Interrupted; what was started is being stopped.")
