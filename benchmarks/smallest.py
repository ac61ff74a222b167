"""The smallest model within one point of accuracy, on the demo's network, through the service.

``make smallest`` runs it. It fails if the model that is found has more than a quarter of the MACs,
or loses more than a point on the test images.
"""

import sys

from benchmarks.digits import compressed, points_lost
from secateur.table import report_table

RECIPE = [
    {"step": "prune", "budget": {"accuracy": 0.01}},
    {"step": "reconstruct"},
    {"step": "finetune", "epochs": 10, "learning_rate": 0.003, "batch_size": 32},
]
_MOST_MACS = 0.25


def main() -> None:
    """Train, ask, show."""
    report, seconds = compressed(RECIPE)
    print(report_table(report))
    lost = points_lost(report)
    before, after = report.before.counts.macs, report.after_recovery.counts.macs
    print(f"{before / after:.1f} times fewer MACs, {100 * lost:.2f} points lost, {seconds:.0f} s.")
    if lost > 0.01 or after > _MOST_MACS * before:
        sys.exit("That is not what was asked for.")


if __name__ == "__main__":
    main()
