"""Run every architecture: ``python -m benchmarks.coverage``.

Each one has a process of its own, which is killed at the time limit: a crash or a kill is a row
of results like any other.
"""

import argparse
import json
import queue
import subprocess
import sys
import tempfile
import threading
from fnmatch import fnmatchcase
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.architecture import Architecture
from benchmarks.architectures import ARCHITECTURES
from benchmarks.report import THEIR_SECONDS, TIME_LIMIT, Row, causes, line, summary, write


def main() -> None:
    """Read the command line, run, print and write."""
    arguments = _arguments()
    rows: list[Row] = []
    if arguments.resume and arguments.json and arguments.json.exists():
        found = [Row.from_json(text) for text in arguments.json.read_text().splitlines()]
        rows = [row for row in found if row.name in ARCHITECTURES]
    done = {row.name for row in rows}
    chosen = [
        architecture
        for name, architecture in ARCHITECTURES.items()
        if any(fnmatchcase(name, pattern) for pattern in arguments.only) and name not in done
    ]
    if arguments.json and not arguments.resume:
        arguments.json.write_text("")
    for number, architecture in enumerate(chosen, 1):
        row = run(architecture, arguments)
        rows.append(row)
        print(f"{number:3}/{len(chosen)} {line(row)}", flush=True)
        if arguments.json:
            with arguments.json.open("a") as file:
                file.write(row.to_json() + "\n")
    order = list(ARCHITECTURES)
    rows.sort(key=lambda row: order.index(row.name))
    print("\n" + "\n".join(summary(rows)))
    for cause, names in causes(rows).items():
        print(f"\n{cause}\n    {', '.join(names)}")
    if arguments.write:
        write(arguments.write, rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of names, like 'hf/*'")
    parser.add_argument("--time-limit", type=float, default=300.0, help="seconds for each part")
    parser.add_argument("--rounds", type=int, default=3, help="of timing; 0 times nothing")
    parser.add_argument("--ours-only", action="store_true", help="leave Torch-Pruning out")
    parser.add_argument("--json", type=Path, help="one line of results for each architecture")
    parser.add_argument("--resume", action="store_true", help="keep the rows that --json holds")
    parser.add_argument("--write", type=Path, help="write the page of results to this file")
    return parser.parse_args()


def run(architecture: Architecture, arguments: argparse.Namespace) -> Row:
    """Measure one architecture in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.one", architecture.name]
    command += ["--rounds", str(arguments.rounds)]
    command += ["--ours-only"] * arguments.ours_only
    start = perf_counter()
    row = Row(architecture.name, architecture.family)
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            missing = _collect(child, row, arguments)
        finally:
            child.kill()
            code = child.wait()
        if missing:
            errors.seek(0)
            last = errors.read().strip().splitlines()[-1:] or ["nothing on stderr"]
            why = TIME_LIMIT if missing[1] else f"exit status {code}: {last[0][:300]}"
            _note_end(row, missing[0], why)
    row.seconds = perf_counter() - start
    return row


def _collect(
    child: subprocess.Popen[str], row: Row, arguments: argparse.Namespace
) -> tuple[str, bool] | None:
    """Fill the row with parts as they come; the part that did not, and whether for its time."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert child.stdout is not None
        for text in child.stdout:
            lines.put(text)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    limits = {"ours": arguments.time_limit, "theirs": min(THEIR_SECONDS, arguments.time_limit)}
    awaited = "ours"
    while True:
        try:
            text = lines.get(timeout=limits.get(awaited, arguments.time_limit))
        except queue.Empty:
            return awaited, True
        if text is None:
            # The child ends after ours, or after theirs, where there is nothing to compare.
            return (awaited, False) if child.wait() else None
        part: dict[str, Any] = json.loads(text)
        name = part.pop("part")
        setattr(row, name, part)
        awaited = {"ours": "theirs", "theirs": "timing"}.get(name, "end")


def _note_end(row: Row, part: str, why: str) -> None:
    if part == "ours":
        row.ours = {"failure": f"process: {why}"}
    elif part == "theirs":
        row.theirs = {"failure": why}


if __name__ == "__main__":
    main()
