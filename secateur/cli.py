"""`secateur`: the service from a command line."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from secateur.asked import evaluation, grid, objective, prune_step, recipe
from secateur.client import Client
from secateur.compare import followed, write_comparison
from secateur.comparison import comparison_table
from secateur.errors import JobFailed, SecateurError
from secateur.grids import ALL
from secateur.jobs import Job, JobState
from secateur.misuse import MISUSED, check_amount, check_compare, check_compress
from secateur.models import ModelFormat
from secateur.options import (
    BUDGETS,
    add_job_options,
    add_model_options,
    add_output_options,
    add_prune_options,
    add_safety_options,
    add_ways,
    document,
    file,
)
from secateur.plan import Plan
from secateur.progress import ProgressLine
from secateur.storage_options import add_storage_options
from secateur.table import aligned, plan_table, report_table

DONE, FAILED, INTERRUPTED = 0, 1, 130
"""Exit codes: as asked; the service or the job said no; Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; give the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    key = os.environ.get("SECATEUR_API_KEY")
    if not options.url:
        parser.error("say where the service is: --url, or set SECATEUR_URL")
    if not key:
        parser.error("set SECATEUR_API_KEY to your key; it is no option, as others could see it")
    try:
        with Client(options.url, key) as client:
            options.run(client, options)
    except SecateurError as error:
        _say(f"secateur: {error}")
        return FAILED
    except ValidationError as error:
        found = error.errors()[0]
        # What is wrong with a spec as a whole has no place, and names one.
        place = ".".join(str(part) for part in found["loc"])
        message = found["msg"].removeprefix("Value error, ")
        _say(f"secateur: {place}: {message}" if place else f"secateur: {message}")
        return MISUSED
    except OSError as error:
        _say(f"secateur: {error}")
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return DONE


def compress(client: Client, options: argparse.Namespace) -> None:
    """Upload, start, follow, download, show."""
    folder = options.output or Path(f"{_name_of(options.model)}-compressed")
    with ProgressLine() as line:
        spec = {
            "model_id": _uploaded_model(client, options, line),
            "recipe": recipe(options),
            "data": _uploaded_data(client, options, line),
            "objective": objective(options),
            "evaluation": evaluation(options),
            "output_formats": options.to,
            "safety": {"max_drop": dict(options.max_drop)} if options.max_drop else None,
            "seed": options.seed,
            "label": options.label,
            "run_timeout_s": options.run_timeout,
        }
        job = client.create_job(spec)
        try:
            job = _followed(client, job, line)
        except JobFailed as failed:
            if failed.failure.code.has_result:
                line.clear()
                _fetch(client, failed.job, folder)
            raise
    _fetch(client, job, folder)


def _fetch(client: Client, job: Job, folder: Path) -> None:
    """Download what a job made, and show what it measured."""
    made = client.download_all(job, folder)
    report = client.report(job)
    if report.search is not None:
        picture = folder / "search.svg"
        picture.write_bytes(client.job_chart(job))
        made.append(picture)
    print(report_table(report), end="")
    _warn(report.warnings)
    print(f"\n{job.id}: {', '.join(path.name for path in made)} in {folder}")


def compare(client: Client, options: argparse.Namespace) -> None:
    """Upload, start a sweep, follow it, write what came out into a folder, show it."""
    folder = options.output or Path(f"{_name_of(options.model)}-compared")
    with ProgressLine() as line:
        spec = {
            "model_id": _uploaded_model(client, options, line),
            "grid": grid(options),
            "data": _uploaded_data(client, options, line),
            "objective": objective(options),
            "evaluation": evaluation(options),
            "output_formats": (),
            "seed": options.seed,
            "label": options.label,
            "run_timeout_s": options.run_timeout,
        }
        sweep = followed(client, client.create_sweep(spec), line)
        comparison = write_comparison(client, sweep, folder)
    print(comparison_table(comparison), end="")
    for child in sweep.children:
        if child.failure is not None:
            _say(f"{child.method}, {child.amount} failed: {child.failure.detail}")
    print(f"\n{sweep.id}: comparison.json, comparison.csv, chart.svg, chart.png in {folder}")


def plan(client: Client, options: argparse.Namespace) -> None:
    """Like `compress`, up to the decision."""
    with ProgressLine() as line:
        spec = {
            "model_id": _uploaded_model(client, options, line),
            "prune": prune_step(options),
            "data": _uploaded_data(client, options, line),
            "objective": objective(options),
            "seed": options.seed,
            "label": options.label,
        }
        job = _followed(client, client.create_plan(spec), line)
    result = client.result(job)
    assert isinstance(result, Plan)
    print(plan_table(result), end="")
    _warn(result.warnings)
    if options.output is not None:
        options.output.write_text(json.dumps(result.model_dump(mode="json"), indent=2) + "\n")


def jobs(client: Client, options: argparse.Namespace) -> None:
    """List jobs, newest first."""
    rows = [("job", "state", "kind", "created", "label")]
    rows += [
        (job.id, job.state, job.kind, f"{job.created_at:%Y-%m-%d %H:%M:%S}", job.label or "")
        for job in client.jobs(state=options.state, label=options.label)
    ]
    print(aligned(rows), end="")


def cancel(client: Client, options: argparse.Namespace) -> None:
    """Ask for jobs to stop."""
    for job_id in options.job:
        job = client.cancel(job_id)
        print(f"{job.id} {job.state}")


def capabilities(client: Client, options: argparse.Namespace) -> None:
    """What the service can do, as JSON for programs or as text."""
    found = client.capabilities()
    if options.json:
        print(json.dumps(found.model_dump(mode="json"), indent=2))
        return
    print(f"Secateur {found.version} at {options.url}")
    print(f"data: {', '.join(found.dataset_formats)}")
    print(f"scopes: {', '.join(found.scopes)}; latency: {', '.join(found.latency_modes)}")
    print(f"algorithms: {', '.join(found.algorithms)}")
    print(f"granularities: {', '.join(found.granularities)}")
    print(f"minimize: {', '.join(found.minimize)}")
    tables = {
        "models": {
            each.name: f"{each.summary}{'' if each.is_available else ' (no worker is up)'}"
            for each in found.models
        },
        "output formats": {each.name: each.summary for each in found.output_formats},
        "steps": {step.name: step.summary for step in found.steps},
        "budgets": {budget.name: budget.summary for budget in found.budgets},
        "tasks": {task.name: task.summary for task in found.tasks},
        "criteria": {criterion.name: criterion.summary for criterion in found.criteria},
    }
    width = max(len(name) for table in tables.values() for name in table)
    for title, table in tables.items():
        print(f"{title}:")
        for name, summary in table.items():
            print(f"  {name:<{width}}  {summary}")


def _name_of(model: Path) -> str:
    """A model's file or folder without its suffix, also where it is called `.`."""
    return model.resolve().name.partition(".")[0] or "model"


def _uploaded_model(client: Client, options: argparse.Namespace, line: ProgressLine) -> str:
    return client.upload_model(
        options.model,
        file_format=None if options.format is None else ModelFormat(options.format),
        architecture=options.architecture,
        on_bytes=partial(line.bytes, "model"),
    ).id


def _uploaded_data(
    client: Client, options: argparse.Namespace, line: ProgressLine
) -> dict[str, str | float]:
    data: dict[str, str | float] = {
        use: client.upload_dataset(path, on_bytes=partial(line.bytes, f"{use} data")).id
        for use in ("train", "test")
        if (path := getattr(options, use, None)) is not None
    }
    fraction = getattr(options, "validation_fraction", None)  # A plan holds no rows out.
    return data if fraction is None else {**data, "validation_fraction": fraction}


def _followed(client: Client, job: Job, line: ProgressLine) -> Job:
    """Wait for the job. Ctrl-C cancels it: nobody would be there to fetch what it makes."""
    try:
        return client.wait(job, on_update=line.job)
    except KeyboardInterrupt:
        line.clear()
        state = client.cancel(job).state
        _say(f"secateur: {job.id} is {state}")
        raise


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        _say(f"warning: {warning}")


def _say(message: str) -> None:
    print(message, file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="secateur",
        description="Make trained neural networks smaller and faster. The key is read from "
        "SECATEUR_API_KEY.",
    )
    parser.add_argument(
        "--url",
        default=os.environ.get("SECATEUR_URL"),
        help="where the service is (default: SECATEUR_URL)",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_compress(commands)
    _add_compare(commands)
    _add_plan(commands)
    _add_jobs(commands)
    command = commands.add_parser("cancel", help="stop jobs", description=cancel.__doc__)
    command.add_argument("job", nargs="+", help="the id of a job")
    command.set_defaults(run=cancel)
    command = commands.add_parser("capabilities", help="show what the service can do")
    command.add_argument("--json", action="store_true", help="as JSON, for programs")
    command.set_defaults(run=capabilities)
    return parser


def _add_compress(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "compress",
        help="make a model smaller",
        description="Upload a model, prune it, take its layers apart, store it in fewer bits, "
        "recover it with your data, measure both, and download the result.",
    )
    how_much = add_prune_options(command)
    how_much.add_argument(
        "--plan",
        type=document,
        metavar="JSON",
        help="remove what this plan says, made by `secateur plan -o` and perhaps edited",
    )
    how_much.add_argument(
        "--recipe",
        type=document,
        metavar="JSON",
        help="do the steps of this file, a list as in a job's spec: what no options say",
    )
    add_storage_options(command)
    add_job_options(command)
    add_safety_options(command)
    add_output_options(command)
    command.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="(default: MODEL-compressed)"
    )
    command.set_defaults(run=_checked_compress)


def _add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "compare",
        help="make a model smaller in many ways, and compare",
        description="Upload a model, prune it by every criterion to every budget, recover and "
        "measure each, and write the comparison: a table, CSV, JSON and a chart.",
    )
    add_model_options(command)
    command.add_argument(
        "--criteria",
        nargs="+",
        required=True,
        metavar="NAME",
        help=f"how channels are scored, or {ALL!r}: all that need no more than is given",
    )
    budget = command.add_mutually_exclusive_group(required=True)
    for budget_name, kind, metavar, what in BUDGETS:
        budget.add_argument(f"--{budget_name}", nargs="+", type=kind, metavar=metavar, help=what)
    command.add_argument(
        "--algorithms",
        nargs="+",
        default=[],
        metavar="NAME",
        help="what becomes of what is chosen: cut, shift, zero (default: cut)",
    )
    add_ways(command)
    add_storage_options(command)
    add_job_options(command)
    command.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="(default: MODEL-compared)"
    )
    command.set_defaults(run=_checked_compare)


def _checked_compare(client: Client, options: argparse.Namespace) -> None:
    check_compare(options)
    compare(client, options)


def _checked_compress(client: Client, options: argparse.Namespace) -> None:
    check_compress(options)
    compress(client, options)


def _checked_plan(client: Client, options: argparse.Namespace) -> None:
    check_amount(options)
    plan(client, options)


def _add_plan(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "plan",
        help="show what would be removed",
        description="Upload a model and show what pruning it would remove; change nothing.",
    )
    add_prune_options(command)
    command.add_argument("--train", type=file, metavar="NPZ", help="for criteria that need data")
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the plan here")
    command.set_defaults(run=_checked_plan)


def _add_jobs(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("jobs", help="list jobs", description=jobs.__doc__)
    command.add_argument("--state", type=JobState, choices=list(JobState), help="only these")
    command.add_argument("--label", help="only jobs with this label")
    command.set_defaults(run=jobs)


if __name__ == "__main__":
    sys.exit(main())
