"""Every format in, every format out, every family: ``python -m benchmarks.formats``.

A small model of each family is written by the tool of its format, loses half of its channels, and
is asked for in all formats. A cell is "yes", with the largest difference of outputs between the
file, in a fresh process of its own runtime, and the program; or the reason why there is no file.
"""

import argparse
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.format_models import FAMILIES, FORMATS
from benchmarks.page import put
from formats import inspect_model
from formats.errors import FormatError
from secateur.models import MODEL_FORMATS, ModelFormat
from secateur.outputs import OUTPUT_FORMATS, OutputFormat
from worker.engine.compress import compress
from worker.engine.config import EvaluationConfig, PruneConfig, Request
from worker.engine.errors import EngineError
from worker.reads import readable_formats


@dataclass
class Table:
    """Cells by upload, family and output; reasons are numbered in the order they come up."""

    rows: list[list[str]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def note(self, reason: str) -> str:
        if reason not in self.reasons:
            self.reasons.append(reason)
        return f"no ({self.reasons.index(reason) + 1})"

    def add(self, upload: str, family: str, cells: dict[str, str]) -> None:
        row = [f"`{upload}`", family, *(cells[output] for output in OutputFormat)]
        self.rows.append(row)
        print("  ".join(row), flush=True)

    def markdown(self) -> str:
        head = ["in", "family", *(f"`{output}`" for output in OutputFormat)]
        lines = [head, ["---"] * len(head), *self.rows]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        notes = "\n".join(f"{at}. {reason}" for at, reason in enumerate(self.reasons, 1))
        return f"{table}\n\n{notes}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=FORMATS, default=FORMATS, help="uploads")
    parser.add_argument("--write", type=Path, help="put the table into this page")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    table = Table()
    for upload in arguments.only:
        for family in FAMILIES:
            with tempfile.TemporaryDirectory() as folder:
                table.add(upload, family, cells(upload, family, Path(folder), table))
    print(f"\n{table.markdown()}")
    if arguments.write:
        put(arguments.write, "python -m benchmarks.formats", [table.markdown()])


def cells(upload: str, family: str, folder: Path, table: Table) -> dict[str, str]:
    """What became of one model in each format."""
    everywhere = dict.fromkeys(OutputFormat, "")
    if ModelFormat(upload) not in readable_formats():
        extra = MODEL_FORMATS[ModelFormat(upload)].extra
        return {each: table.note(f"not run: [{extra}] is not installed") for each in everywhere}
    made = subprocess.run(
        [sys.executable, "-m", "benchmarks.format_models", upload, family, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        return {each: table.note(made.stderr.strip().splitlines()[-1]) for each in everywhere}
    path = Path(made.stdout.strip().splitlines()[-1])
    allowed = [
        output
        for output, info in OUTPUT_FORMATS.items()
        if info.uploads is None or upload in info.uploads
    ]
    try:
        inspect_model(path, upload)
        report = pruned(path, upload, [each.value for each in allowed], folder)
    except (EngineError, FormatError) as error:
        return {each: table.note(str(error)) for each in everywhere}
    found = {each["format"]: each for each in report["formats"]}
    return {output: cell(output, found.get(output), table) for output in OutputFormat}


def cell(output: OutputFormat, found: dict[str, Any] | None, table: Table) -> str:
    if output in (OutputFormat.PT2, OutputFormat.SAFETENSORS):
        return "yes"  # Without them there is no report.
    if found is None:
        uploads = sorted(OUTPUT_FORMATS[output].uploads or ())
        return table.note(f"`{output}` is for models uploaded as {' or '.join(uploads)}")
    if found["reason"] is not None:
        return table.note(found["reason"])
    return f"yes ({found['max_relative_error']:.0e})"


def pruned(path: Path, upload: str, outputs: list[str], folder: Path) -> dict[str, Any]:
    """The report on a model without half of its channels."""
    output = folder / "output"
    output.mkdir()
    request = Request(
        model=path,
        model_sha256="0" * 64,
        model_format=upload,
        recipe=(PruneConfig(scope="local", channel_ratio=0.5),),
        output_dir=output,
        output_formats=tuple(outputs),
        evaluation=EvaluationConfig(latency_rounds=0),
    )
    return compress(request, on_progress=lambda *_: None)


if __name__ == "__main__":
    main()
