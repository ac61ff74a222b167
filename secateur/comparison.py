"""What the jobs of a sweep came to, side by side: as a document, as CSV, as a table."""

import csv
import io
from collections.abc import Callable

from pydantic import Field

from secateur.failures import FailureCode
from secateur.jobs import JobState
from secateur.report import Measurement, Report
from secateur.schema import Output
from secateur.sweeps import Sweep, SweepJob, SweepState
from secateur.table import aligned

ORIGINAL = "original"
"""The method of the first row: nothing was removed."""

_MISSING = "-"


class ComparisonRow(Output):
    """One job's numbers, as its report has them; null where unknown."""

    method: str = Field(description="`original` for the first row.", examples=["magnitude"])
    amount: str | None = Field(examples=["macs 0.5"])
    job_id: str | None
    state: JobState | None
    failure_code: FailureCode | None = Field(description="Why it failed.")
    accuracy: float | None = Field(description="Fraction right, after recovery.")
    accuracy_after_prune: float | None = Field(description="Fraction right, before recovery.")
    agreement: float | None = Field(
        description="Fraction of rows with the original's predicted class."
    )
    loss: float | None = Field(description="Mean loss on the test data.")
    output_mse: float | None = Field(
        description="Mean squared difference from the original's outputs."
    )
    parameters: int | None
    macs: int | None = Field(description="Multiply-accumulates at the example inputs.")
    size_bytes: int | None = Field(description="Bytes of the weights, codes and scales included.")
    sparsity: float | None = Field(description="Fraction of the parameters that are zero.")
    file_bytes: int | None = Field(description="Bytes of the saved file.")
    file_ratio: float | None = Field(
        description="Bytes of the saved file over those of the upload."
    )
    latency_p50_ms: float | None
    speedup: float | None = Field(
        description="Original time over compressed time, measured in turn; > 1 is faster."
    )
    seconds: float | None = Field(description="What all stages of the job took together.")


class Comparison(Output):
    """The jobs of a sweep side by side, below the original. Partial while the sweep runs."""

    sweep_id: str
    state: SweepState
    model_id: str
    label: str | None
    rows: list[ComparisonRow] = Field(description="The original, then a row for each job.")


def compared(sweep: Sweep, reports: dict[str, Report]) -> Comparison:
    """What is known by now of the jobs of a sweep.

    Args:
        sweep: The sweep.
        reports: Those of the jobs that have one, by job: also of a job that broke a promise.
    """
    first = next((reports[job.job_id] for job in sweep.children if job.job_id in reports), None)
    return Comparison(
        sweep_id=sweep.id,
        state=sweep.state,
        model_id=sweep.model_id,
        label=sweep.label,
        rows=[_original(first), *(_row(job, reports.get(job.job_id)) for job in sweep.children)],
    )


def comparison_csv(comparison: Comparison) -> str:
    """The rows as CSV (RFC 4180) with a line of names, empty where unknown.

    A text that a spreadsheet would take for a formula has an apostrophe before it.
    """
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(ComparisonRow.model_fields)
    for row in comparison.rows:
        writer.writerow(_csv_cell(value) for value in row.model_dump(mode="json").values())
    return file.getvalue()


def comparison_table(comparison: Comparison) -> str:
    """The rows for people, without the columns that nobody has a value in."""
    shown = [
        (title, cell)
        for title, cell in _COLUMNS
        if any(cell(row) is not None for row in comparison.rows)
    ]
    rows = [["method", "amount", *(title for title, _ in shown)]]
    for row in comparison.rows:
        cells = (cell(row) for _, cell in shown)
        rows.append([row.method, row.amount or "", *(cell or _MISSING for cell in cells)])
    return aligned(rows)


def _original(report: Report | None) -> ComparisonRow:
    row = _known(report.before if report is not None else None)
    return ComparisonRow.model_validate(
        {
            **row,
            "method": ORIGINAL,
            "amount": None,
            "job_id": None,
            "state": None,
            "failure_code": None,
            "accuracy_after_prune": None,
            "file_ratio": None if row["file_bytes"] is None else 1.0,
            "speedup": None,
            "seconds": None,
        }
    )


def _row(job: SweepJob, report: Report | None) -> ComparisonRow:
    row = _known(report.after_recovery if report is not None else None)
    pruned = report.after_prune.quality if report is not None and report.after_prune else None
    latency = report.latency if report is not None else None
    return ComparisonRow.model_validate(
        {
            **row,
            "method": job.method,
            "amount": job.amount,
            "job_id": job.job_id,
            "state": job.state,
            "failure_code": job.failure.code if job.failure is not None else None,
            "accuracy_after_prune": pruned.accuracy if pruned is not None else None,
            "file_ratio": _file_ratio(report) if report is not None else None,
            "speedup": latency.speedup if latency is not None else None,
            "seconds": sum(report.stage_seconds.values()) if report is not None else None,
        }
    )


def _file_ratio(report: Report) -> float | None:
    before, after = report.before.file_bytes, report.after_recovery.file_bytes
    return after / before if before and after is not None else None


def _known(measured: Measurement | None) -> dict[str, float | None]:
    quality = measured.quality if measured is not None else None
    counts = measured.counts if measured is not None else None
    latency = measured.latency if measured is not None else None
    return {
        "accuracy": quality.accuracy if quality is not None else None,
        "agreement": quality.agreement if quality is not None else None,
        "loss": quality.loss if quality is not None else None,
        "output_mse": quality.output_mse if quality is not None else None,
        "parameters": counts.parameters if counts is not None else None,
        "macs": counts.macs if counts is not None else None,
        "size_bytes": counts.size_bytes if counts is not None else None,
        "sparsity": measured.sparsity if measured is not None else None,
        "file_bytes": measured.file_bytes if measured is not None else None,
        "latency_p50_ms": latency.p50_ms if latency is not None else None,
    }


def _csv_cell(value: str | float | None) -> str | float | None:
    # As OWASP has it: these begin a formula, or hide the beginning of one.
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r\n") else value


def _shown(name: str, show: Callable[[float], str]) -> Callable[[ComparisonRow], str | None]:
    def cell(row: ComparisonRow) -> str | None:
        value = getattr(row, name)
        return None if value is None else show(value)

    return cell


def _ended(row: ComparisonRow) -> str | None:
    """What there is to say of a job without numbers."""
    if row.failure_code is not None:
        return row.failure_code
    return None if row.state in (None, JobState.SUCCEEDED) else row.state


def _zeros(row: ComparisonRow) -> str | None:
    return f"{row.sparsity:.1%}" if row.sparsity else None


_COLUMNS: tuple[tuple[str, Callable[[ComparisonRow], str | None]], ...] = (
    ("accuracy", _shown("accuracy", "{:.2%}".format)),
    ("pruned", _shown("accuracy_after_prune", "{:.2%}".format)),
    ("agreement", _shown("agreement", "{:.2%}".format)),
    ("loss", _shown("loss", "{:.4g}".format)),
    ("parameters", _shown("parameters", "{:,}".format)),
    ("MACs", _shown("macs", "{:,}".format)),
    ("zeros", _zeros),
    ("weight bytes", _shown("size_bytes", "{:,}".format)),
    ("file bytes", _shown("file_bytes", "{:,}".format)),
    ("of file", _shown("file_ratio", "{:.1%}".format)),
    ("latency p50", _shown("latency_p50_ms", "{:.3f} ms".format)),
    ("speedup", _shown("speedup", "{:.2f}x".format)),
    ("seconds", _shown("seconds", "{:.1f}".format)),
    ("", _ended),
)
"""The columns after method and amount: a title, and what is shown of a row."""
