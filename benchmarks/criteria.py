"""Every criterion and every algorithm on the digits network, through the service.

``make compare`` runs it: it trains the demo's network, asks the service for sweeps, and prints what
they came to. With ``--write FOLDER`` it writes ``criteria.md`` and its pictures there. Everything
but latency and seconds is the same each time.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from secateur import Client
from secateur.comparison import Comparison, ComparisonRow
from secateur.progress import ProgressLine

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "examples"))

import digits_model as demo  # noqa: E402 (examples are no package)

AMOUNTS = (0.7, 0.5, 0.35)
ZEROS = (0.5, 0.3, 0.1)
# The jobs' own numbers are what matters; a few rounds say which is faster.
EVALUATION = {"batch_size": 450, "latency_batch_size": 64, "latency_rounds": 20}


def main() -> None:
    """Make the files that a user has, sweep, and say what came of it."""
    options = _options()
    with TemporaryDirectory() as folder, Client.from_environment() as client:
        files = Path(folder)
        train(files)
        data = {use: client.upload_dataset(files / f"{use}.npz").id for use in ("train", "test")}
        asked = Sweeps(client, data)
        cut = asked.grid(files / "digits.pt2", "cut", [{"macs": amount} for amount in AMOUNTS])
        shift = asked.grid(files / "digits.pt2", "shift", [{"macs": amount} for amount in AMOUNTS])
        zero = asked.grid(
            files / "digits.pt2", "zero", [{"parameters": amount} for amount in ZEROS], floor=0.01
        )
        doubled = asked.doubled(files / "doubled.pt2")
        page = _page(cut, shift, zero, doubled)
        print(page)
        if options.write is not None:
            (options.write / "criteria.md").write_text(page)
            for name, comparison in (("cut", cut), ("shift", shift), ("zero", zero)):
                picture = client.sweep_chart(comparison.sweep_id, "svg")
                (options.write / f"criteria-{name}.svg").write_bytes(picture)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write the page there")
    return parser.parse_args()


def train(files: Path) -> None:
    """The demo's network and data, and the same network with every hidden channel twice."""
    images, targets, test_images, test_targets = demo.digits()
    with redirect_stdout(io.StringIO()):
        network = demo.train(images, targets)
    demo.save(network, images, files / "digits.pt2")
    demo.save(doubled(network), images, files / "doubled.pt2")
    demo.save_rows(images, targets, files / "train.npz")
    demo.save_rows(test_images, test_targets, files / "test.npz")


class Doubled(demo.SmallCnn):
    """The demo's network with twice as many hidden channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 3)
        self.conv2 = nn.Conv2d(12, 32, 3)
        self.conv3 = nn.Conv2d(32, 64, 3)
        self.hidden = nn.Linear(64 * 3 * 3, 128)
        self.head = nn.Linear(128, 10)


def doubled(network: nn.Module) -> nn.Module:
    """The same function with a copy of every hidden channel, half as large and read twice as much.

    A channel and its copy share the work: each is read by half of the weights of before.
    """
    wide = Doubled().eval()
    state = network.state_dict()
    with torch.no_grad():
        for name in ("conv1", "conv2", "conv3", "hidden", "head"):
            weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
            if name != "conv1":
                # Half of the weight for the channel, and for its copy of half the size all of it.
                weight = torch.cat([weight / 2, weight], 1)
            if name != "head":
                weight, bias = torch.cat([weight, weight / 2]), torch.cat([bias, bias / 2])
            getattr(wide, name).weight.copy_(weight)
            getattr(wide, name).bias.copy_(bias)
    return wide


class Sweeps:
    """What is asked of the service."""

    def __init__(self, client: Client, data: dict[str, str]) -> None:
        self.client = client
        self.data = data

    def grid(
        self, model: Path, algorithm: str, budgets: Sequence[dict[str, float]], **prune: float
    ) -> Comparison:
        """All criteria that can, with one algorithm, to several budgets."""
        grid = {
            "criteria": "all",
            "algorithms": [algorithm],
            "budgets": list(budgets),
            "prune": prune,
        }
        return self.made(model, {"grid": grid, "label": f"digits, {algorithm}"})

    def doubled(self, model: Path) -> Comparison:
        """The network whose channels are all there twice, by redundancy, to half of its channels.

        Of every group half goes, so that cut and shift have the same MACs.
        """
        grid = {
            "criteria": ["cosine_similarity"],
            "algorithms": ["cut", "shift"],
            "budgets": [{"channel_ratio": 0.5}],
            "prune": {"scope": "local"},
        }
        return self.made(model, {"grid": grid})

    def made(self, model: Path, what: dict[str, Any]) -> Comparison:
        spec = {
            "model_id": self.client.upload_model(model).id,
            "data": self.data,
            "evaluation": EVALUATION,
            **what,
        }
        with ProgressLine() as line:
            sweep = self.client.wait_sweep(self.client.create_sweep(spec), on_update=line.sweep)
        return self.client.comparison(sweep)


def _page(cut: Comparison, shift: Comparison, zero: Comparison, doubled: Comparison) -> str:
    original = cut.rows[0]
    assert original.accuracy is not None
    assert original.macs is not None
    parts = [
        _HEAD.format(accuracy=f"{original.accuracy:.2%}", macs=f"{original.macs:,}"),
        _table([cut, shift], "macs", AMOUNTS, ("cut", "shift")),
        _AFTER_CHANNELS.format(**_sums(cut, shift)),
        _doubled_table(doubled),
        _ZERO,
        _table([zero], "parameters", ZEROS, ("zero",)),
    ]
    return "\n".join(parts) + "\n"


_HEAD = """# Criteria and algorithms compared

Made by `make compare`, which anybody can run: it trains the demo's network (three convolutions, two
linear layers, on scikit-learn's digits), and has the service prune it by every criterion, without
any recovery. Accuracy is that of the {accuracy} network of {macs} MACs on 450 test images; one
image is 0.22 points. Same seed, same numbers; scope `global`, every option at its default.

## Channels: cut and shift

Accuracy with 70 %, 50 % and 35 % of the MACs.

![Accuracy against MACs for every criterion, cut](criteria-cut.svg)
![Accuracy against MACs for every criterion, shifted](criteria-shift.svg)
"""

_AFTER_CHANNELS = """
Shift is better than cut in {better} of {all} cells, the same in {same}, and worse in {worse}; on
average it is {mean:.1f} points better. A merge gives back what its stand-in can; where a criterion
leaves channels that resemble nothing, that is little.

## Channels that are there twice

The same network with a copy of every hidden channel, half as large: half of the channels of every
group, by cosine similarity.
"""

_ZERO = """
## Zeros

Accuracy with 50 %, 30 % and 10 % of the parameters other than zero; a hundredth of every weight
stays. MACs stay as they are: zeros keep their place, and a dense runtime gets no faster by them.

![Accuracy against parameters other than zero](criteria-zero.svg)
"""


def _table(
    comparisons: Sequence[Comparison],
    kind: str,
    amounts: Sequence[float],
    algorithms: Sequence[str],
) -> str:
    header = ["criterion", *(f"{algo} {amount:g}" for algo in algorithms for amount in amounts)]
    lines = [_line(header), _line(["---", *(["--:"] * (len(header) - 1))])]
    for criterion in _criteria(comparisons[0]):
        cells = [
            _accuracy(_row(comparison, f"{criterion}, {algorithm}", f"{kind} {amount:g}"))
            for comparison, algorithm in zip(comparisons, algorithms, strict=True)
            for amount in amounts
        ]
        lines.append(_line([f"`{criterion}`", *cells]))
    return "\n".join(lines)


def _criteria(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(row.method.partition(",")[0] for row in comparison.rows[1:]))


def _row(comparison: Comparison, method: str, amount: str) -> ComparisonRow | None:
    wanted = (row for row in comparison.rows if (row.method, row.amount) == (method, amount))
    return next(wanted, None)


def _accuracy(row: ComparisonRow | None) -> str:
    if row is None:
        return ""
    return f"{row.accuracy:.1%}" if row.accuracy is not None else str(row.failure_code)


def _sums(cut: Comparison, shift: Comparison) -> dict[str, Any]:
    """How often shift is better than cut with the same criterion and budget."""
    pairs = [
        (one.accuracy, other.accuracy)
        for one in cut.rows[1:]
        if (other := _row(shift, one.method.replace(", cut", ", shift"), one.amount or ""))
        if one.accuracy is not None and other.accuracy is not None
    ]
    gains = [other - one for one, other in pairs]
    return {
        "all": len(gains),
        "better": sum(gain > 0 for gain in gains),
        "same": sum(gain == 0 for gain in gains),
        "worse": sum(gain < 0 for gain in gains),
        "mean": 100 * sum(gains) / len(gains),
    }


def _doubled_table(comparison: Comparison) -> str:
    lines = [
        _line(["", "accuracy", "agreement", "mean squared change of the outputs", "MACs"]),
        _line(["---", "--:", "--:", "--:", "--:"]),
    ]
    for row in comparison.rows:
        change = "" if row.output_mse is None else f"{row.output_mse:.2g}"
        agreement = "" if row.agreement is None else f"{row.agreement:.2%}"
        lines.append(_line([row.method, _accuracy(row), agreement, change, f"{row.macs or 0:,}"]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
