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
from store.tables import ArtifactRow, DatasetRow, JobRow, ModelRow

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
            for table in (ModelRow, DatasetRow, JobRow, ArtifactRow)
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


def settings_in(folder: Path, **changes: Any) -> ServiceSettings:
    return ServiceSettings(
        **{"data_dir": folder, "broker_url": "memory://", "api_keys": KEY, **changes}
    )
