"""Half of the MACs and a quarter of the bits, on the demo's network, through the service.

``make quantize`` runs it: prune, reconstruct, int8 weights and activations, no training. It fails
if more than a sixth of the weights' bytes is left, or more than a point of accuracy is lost on the
test images.
"""

import sys

from benchmarks.digits import compressed, points_lost
from secateur.table import report_table

RECIPE = [
    {"step": "prune", "budget": {"macs": 0.5}},
    {"step": "reconstruct"},
    {"step": "quantize", "weights": "int8", "activations": "static"},
]
_MOST_BYTES = 1 / 6


def main() -> None:
    """Train, ask, show."""
    report, seconds = compressed(RECIPE, output_formats=["onnx"])
    print(report_table(report))
    lost = points_lost(report)
    before, after = report.before.counts.size_bytes, report.after_recovery.counts.size_bytes
    print(f"{before / after:.1f} times fewer bytes, {100 * lost:.2f} points lost, {seconds:.0f} s.")
    if lost > 0.01 or after > _MOST_BYTES * before:
        sys.exit("That is not what was asked for.")


if __name__ == "__main__":
    main()
