"""What the tests of the service share."""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from sqlalchemy import func, select

from secateur.problems import Problem
from service.dependencies import Services
from service.settings import ServiceSettings
from store.session import read_scope
from store.tables import ArtifactRow, DatasetRow, JobRow, ModelRow, SweepRow

KEY = "key-of-the-tests"


def assert_problem(response: httpx.Response, status: int, code: str) -> Problem:
    """Every error has one shape: RFC 9457, with our fields, each of them there."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    document = response.json()
    assert set(document) == set(Problem.model_fields)
    problem = Problem.model_validate(document)
    assert (response.status_code, problem.status, problem.code) == (status, status, code), problem
    assert problem.type == f"/errors/{code}"
    assert problem.title
    assert problem.detail
    assert problem.instance == response.request.url.path
    assert problem.request_id == response.headers["x-request-id"]
    return problem


@dataclass(frozen=True)
class Kept:
    """What is left of everything that was sent."""

    blobs: int
    unfinished: int
    rows: int


NOTHING = Kept(blobs=0, unfinished=0, rows=0)


def services_of(app: FastAPI) -> Services:
    services: Services = app.state.services
    return services


def kept(app: FastAPI) -> Kept:
    services = services_of(app)
    with read_scope(services.engine) as session:
        rows = sum(
            session.scalar(select(func.count()).select_from(table)) or 0
            for table in (ModelRow, DatasetRow, JobRow, ArtifactRow, SweepRow)
        )
    unfinished = services.settings.blob_dir / "unfinished"
    return Kept(
        blobs=len(list(services.blobs.digests())),
        unfinished=len(list(unfinished.iterdir())),
        rows=rows,
    )


def repr_digest(content: bytes) -> str:
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    return f"sha-256=:{digest}:"


def prune_spec(model_id: str, **fields: Any) -> dict[str, Any]:
    recipe = [{"step": "prune", "budget": {"channel_ratio": 0.5}}]
    return {"model_id": model_id, "recipe": recipe, **fields}


def sweep_spec(model_id: str, **fields: Any) -> dict[str, Any]:
    """Two criteria with two budgets."""
    grid = {"criteria": ["magnitude", "random"], "budgets": [{"macs": 0.7}, {"macs": 0.5}]}
    return {"model_id": model_id, "grid": grid, **fields}


def report(*, accuracy: float | None = 0.9, macs: int = 500) -> dict[str, Any]:
    """What a job measured: the original has an accuracy of 0.95 and 1000 MACs."""

    def measured(accuracy: float | None, macs: int, p50_ms: float) -> dict[str, Any]:
        quality = {
            **dict.fromkeys(("top5_accuracy", "class_accuracy", "noise_accuracy", "fgsm_accuracy")),
            "row_count": 8,
            "accuracy": accuracy,
            "loss": 0.25,
            "agreement": 1.0,
        }
        return {
            "counts": counts(macs),
            "file_bytes": macs * 2,
            "sparsity": 0.0,
            "quality": {**quality, "output_mse": 0.5},
            "latency": {"p50_ms": p50_ms, "p95_ms": 3.0},
        }

    compared = {
        "round_count": 3,
        "batch_size": 1,
        "mode": "eager",
        "device": "cpu",
        "thread_count": 1,
    }
    return {
        "format_version": 1,
        "before": measured(None if accuracy is None else 0.95, 1000, 2.0),
        "after_prune": measured(None if accuracy is None else accuracy - 0.1, macs, 1.5),
        "after_recovery": measured(accuracy, macs, 1.5),
        "latency": {"speedup": 1.25, **compared},
        "search": None,
        "latency_table": None,
        "safety": None,
        "verification": {
            "is_exact": True,
            "max_relative_error": 0.0,
            "exempt_operators": [],
            "counts_match": True,
            "reload_matches": True,
        },
        "formats": [],
        "steps": [],
        "stage_seconds": {"loading": 1.5, "pruning": 2.0},
        "warnings": [],
    }


def trial(number: int, left: float, accuracy: float | None, **fields: Any) -> dict[str, Any]:
    """A model that was tried, with this fraction of 1000 MACs left."""
    return {
        "number": number,
        "reason": f"macs {left}",
        "counts": counts(int(1000 * left)),
        "latency_ratio": None,
        "accuracy": accuracy,
        "loss": None if accuracy is None else 1 - accuracy,
        "is_kept": accuracy is not None and accuracy >= 0.94,
        "is_confirmed": None,
        "is_on_front": True,
        "seconds": 1.5,
        **fields,
    }


def search(*trials: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """What a search reports that may lose one point of an accuracy of 0.95."""
    return {
        "outcome": "found",
        "ended_by": "converged",
        "budget": "accuracy",
        "allowed": 0.01,
        "minimize": "macs",
        "validation_row_count": 100,
        "original_accuracy": 0.95,
        "original_loss": 0.05,
        "original_counts": counts(1000),
        "delivered_trial": None,
        "trials": list(trials),
        "sensitivity": [],
        **fields,
    }


def counts(macs: int) -> dict[str, int]:
    return {"parameters": macs // 10, "macs": macs, "size_bytes": macs // 2}


def settings_in(folder: Path, **changes: Any) -> ServiceSettings:
    return ServiceSettings(
        **{"data_dir": folder, "broker_url": "memory://", "api_keys": KEY, **changes}
    )
