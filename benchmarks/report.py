"""Rows of results: as a line, as a summary, as a page."""

import json
import os
import platform
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from textwrap import shorten
from typing import Any

from benchmarks.ours import LEAST_REMOVED

_COLUMNS = (
    "Architecture",
    "Family",
    "Parameters",
    "Exported",
    "Removed",
    "MACs left",
    "Result",
    "Exported again",
    "Ours, s",
    "Torch-Pruning, s",
    "Ratio",
    "Torch-Pruning",
)
TIME_LIMIT = "time limit"
THEIR_SECONDS = 20
"""Torch-Pruning does not come back from some networks: it gets at most this long."""

_WEAK = 1e-4  # Outputs of two rows that differ by less than the tolerance of the proof.
_COMPARISONS = {
    "exact": "exact",
    "exempt": "not compared for a normalization that lost channels",
    "n/a": "not compared for another reason",
    "no": "different from the masked original",
}
_PACKAGES = ("torch", "torchvision", "timm", "transformers", "torch-pruning")


@dataclass
class Row:
    """What one architecture came to; each part as its process printed it, or empty."""

    name: str
    family: str
    ours: dict[str, Any] = field(default_factory=dict)
    theirs: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def from_json(cls, text: str) -> "Row":
        return cls(**json.loads(text))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def passed(self) -> bool:
        return not self.reason

    @property
    def reason(self) -> str:
        """Why ours does not pass; empty where it does."""
        ours = self.ours
        if not ours or ours.get("failure"):
            return ours.get("failure") or "not run"
        if ours["removed"] < LEAST_REMOVED:
            return f"removed: {ours['removed']:.1f}% of the parameters{_frozen(ours)}"
        return ""

    @property
    def theirs_work(self) -> bool:
        """Pruned by as much as is asked of ours, and runs."""
        return bool(self.theirs.get("runs")) and self.theirs["removed"] >= LEAST_REMOVED

    @property
    def ratio(self) -> float | None:
        return self.timing["theirs"] / self.timing["ours"] if self.timing else None


def line(row: Row) -> str:
    """One row for a terminal."""
    ours, mark = row.ours, "pass" if row.passed else "FAIL"
    text = f"{mark} {row.name:42} {row.seconds:5.0f}s"
    if "exported" in ours:
        seconds = " ".join(
            f"{stage} {ours['seconds'][stage]:.1f}"
            for stage in ("couple", "decide", "cut_module", "export")
            if stage in ours["seconds"]
        )
        text += f"  {ours['exported']:7} -{ours['removed']:4.1f}% {_exact(ours):9} ({seconds})"
    if row.theirs:
        text += f"  theirs: {_their_result(row)}"
    if row.ratio:
        text += f"  ratio {row.ratio:.2f}"
    return text if row.passed else f"{text}\n        {row.reason}"


def summary(rows: list[Row]) -> list[str]:
    """What the rows come to."""
    total, passed = len(rows), sum(row.passed for row in rows)
    exact = sum(row.passed and row.ours["exact"] == "exact" for row in rows)
    lines = [
        f"Architectures: {total}, of {len({row.family for row in rows})} families.",
        f"Passed: {passed} ({100 * passed / max(total, 1):.1f}%).",
        f"Exact: {exact}. Exact but for a normalization that lost channels: {passed - exact}.",
    ]
    weak = [row.name for row in rows if row.ours.get("difference", 1.0) < _WEAK]
    if weak:
        lines.append(f"Weak proof, as random weights leave little signal: {', '.join(weak)}.")
    compared = [row for row in rows if row.theirs]
    if compared:
        lines.append(_their_summary(compared))
    ratios = [row.ratio for row in rows if row.ratio]
    if ratios:
        lines.append(
            f"Time of Torch-Pruning over ours, median of {len(ratios)}: {median(ratios):.2f} "
            f"(from {min(ratios):.2f} to {max(ratios):.2f})."
        )
    return lines


def _their_summary(rows: list[Row]) -> str:
    work = [row for row in rows if row.theirs_work]
    kinds = {kind: sum(row.theirs["exact"] == kind for row in work) for kind in _COMPARISONS}
    found = ", ".join(f"{count} {_COMPARISONS[kind]}" for kind, count in kinds.items())
    late = sum(row.theirs.get("failure") == TIME_LIMIT for row in rows)
    return (
        f"Torch-Pruning, of {len(rows)}: {len(work)} lose {LEAST_REMOVED:.0f}% or more of their "
        f"parameters and run ({100 * len(work) / len(rows):.1f}%). Of these: {found}. "
        f"Time limit reached: {late}."
    )


def causes(rows: list[Row]) -> dict[str, list[str]]:
    """Names of those that do not pass, by reason."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if not row.passed:
            found[row.reason].append(row.name)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


_OTHERS = "\n## ONNX\n"
"""Where what other benchmarks wrote begins."""


def write(path: Path, rows: list[Row]) -> None:
    """Write the page of results; what others wrote at its end stays."""
    _, mark, others = path.read_text().partition(_OTHERS) if path.exists() else ("", "", "")
    failed = [row for row in rows if not row.passed]
    lines = [
        "# Benchmarks",
        "",
        "Half of the channels of every layer are removed (criterion magnitude, scope local) from",
        "networks with random weights. One passes if it exports, loses at least",
        f"{LEAST_REMOVED:.0f}% of its parameters, runs, computes what the original with those",
        "channels silenced computes, and exports again. Torch-Pruning gets the same network, the",
        "same ratio and no hints; its result is compared with the original with the removed",
        f"channels masked. It gets {THEIR_SECONDS} seconds for a network; most take one or less.",
        "",
        "*Exact*: the outputs are those of the original with the removed channels silenced, within",
        "rounding. *Exempt*: the same, but a normalization (layer, RMS or group norm), an average",
        "or a maximum lost channels, so that it is taken over fewer. Ours is compared all the",
        "same, with a reference that takes it over the channels that stay; Torch-Pruning's result",
        "is not compared then.",
        "",
        "    export OMP_NUM_THREADS=1",
        "    python -m benchmarks.coverage --json results.jsonl --write docs/benchmarks.md",
        "",
        f"{_versions()}; {os.cpu_count()} CPU cores ({platform.machine()}).",
        "",
        *(f"- {text}" for text in summary(rows)),
        "",
        "Seconds are those of the analysis, the decision and the cut of the module: for ours from",
        "an exported program, for Torch-Pruning from the module. Medians of rounds that take turns",
        "in one process of one thread: whatever else the machine does, the ratio holds.",
        "",
        "## All architectures",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        "|---|---|--:|---|--:|--:|---|---|--:|--:|--:|---|",
        *(_cells(row) for row in rows),
        "",
        "## Those that do not pass",
        "",
        *(f"- `{row.name}`: {_plain(row.reason)}" for row in failed),
        *([] if failed else ["None."]),
    ]
    path.write_text("\n".join(lines) + "\n" + mark + others)


def _cells(row: Row) -> str:
    ours, timing = row.ours, row.timing
    if "exported" not in ours:
        ours = {"exported": "no", "removed": 0, "macs": 100, "reexported": False, "parameters": 0}
    own = timing.get("ours") or _own_seconds(ours)
    cells = [
        f"`{row.name}`",
        row.family,
        f"{ours['parameters'] / 1e6:.1f} M",
        ours["exported"],
        f"{ours['removed']:.0f}%",
        f"{ours['macs']:.0f}%",
        _exact(ours) if row.passed else "**does not pass**",
        "yes" if ours["reexported"] else "no",
        f"{own:.2f}" if own else "",
        f"{timing['theirs']:.2f}" if timing else "",
        f"{row.ratio:.2f}" if row.ratio else "",
        _plain(_their_result(row)),
    ]
    return f"| {' | '.join(cells)} |"


def _own_seconds(ours: dict[str, Any]) -> float:
    stages = ours.get("seconds", {})
    return sum(stages.get(stage, 0.0) for stage in ("couple", "decide", "cut_module"))


def _exact(ours: dict[str, Any]) -> str:
    return ours.get("exact", "no")


def _their_result(row: Row) -> str:
    theirs = row.theirs
    if not theirs:
        return "not run"
    if not theirs.get("runs"):
        return f"fails: {shorten(theirs['failure'], 90, placeholder=' ...')}"
    removed = f"-{theirs['removed']:.0f}%"
    if theirs["exact"] in {"exact", "exempt"}:
        return f"{removed}, {theirs['exact']}"
    return f"{removed}, {shorten(theirs['failure'], 90, placeholder=' ...')}"


def _frozen(ours: dict[str, Any]) -> str:
    return f"; frozen: {'; '.join(ours['frozen'])[:600]}" if ours["frozen"] else ""


def _plain(text: str) -> str:
    """Text that breaks no table."""
    return " ".join(text.replace("|", "/").replace("<", "&lt;").split())


def _versions() -> str:
    found = []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
