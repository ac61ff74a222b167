"""A sweep from start to finish: it is followed, and what came out is put into a folder."""

import json
import sys
from pathlib import Path

from secateur.client import Client
from secateur.comparison import Comparison, comparison_csv
from secateur.progress import ProgressLine
from secateur.sweeps import Sweep


def followed(client: Client, sweep: Sweep, line: ProgressLine) -> Sweep:
    """Wait for a sweep. Ctrl-C cancels it: nobody would be there to look at what comes out."""
    try:
        return client.wait_sweep(sweep, on_update=line.sweep)
    except KeyboardInterrupt:
        line.clear()
        state = client.cancel_sweep(sweep).state
        sys.stderr.write(f"secateur: {sweep.id} is {_canceling(state)}\n")
        raise


def write_comparison(client: Client, sweep: Sweep, folder: Path) -> Comparison:
    """Put a comparison into a folder, which is made if need be: as JSON, CSV and pictures."""
    comparison = client.comparison(sweep)
    folder.mkdir(parents=True, exist_ok=True)
    document = json.dumps(comparison.model_dump(mode="json"), indent=2) + "\n"
    (folder / "comparison.json").write_text(document, encoding="utf-8")
    (folder / "comparison.csv").write_text(comparison_csv(comparison), encoding="utf-8", newline="")
    (folder / "chart.svg").write_bytes(client.sweep_chart(sweep, "svg"))
    (folder / "chart.png").write_bytes(client.sweep_chart(sweep, "png"))
    return comparison


def _canceling(state: str) -> str:
    return "being canceled" if state == "running" else state
