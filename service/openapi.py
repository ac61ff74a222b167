"""The OpenAPI document: what FastAPI does not write by itself.

`python -m service.openapi` writes docs/openapi.json, which a test compares with the service.
"""

import json
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from secateur.problems import Problem

PAGE = Path(__file__).parents[1] / "docs" / "openapi.json"

DESCRIPTION = """\
Upload a trained model, say what to make of it, and download a model that is smaller and faster,
with numbers that prove it.

1. `POST /v1/models` with the file that `torch.export.save` wrote.
2. `POST /v1/datasets` with examples, if the model is to be tuned or measured.
3. `POST /v1/jobs` with a spec: the model, a recipe, the data.
4. `GET /v1/jobs/{job_id}?wait=30` until the job has ended.
5. `GET /v1/jobs/{job_id}/result` for the numbers, `/artifacts` for the files.

`POST /v1/sweeps` does the same for many recipes at once, and compares what came out.

**Errors** are `application/problem+json` (RFC 9457). Program against `code`; `type` leads to what
it means and what to do. **A job that fails is no error**: it is a job in the state `failed`, with a
`failure`. **Every answer** has an `X-Request-Id`: yours, if you sent one.

Fields, codes and states are added in the course of time, and never renamed.
"""

TAGS = [
    {"name": "models", "description": "Trained models, as files. Immutable."},
    {"name": "data sets", "description": "Examples to tune and to measure with. Immutable."},
    {"name": "jobs", "description": "Requests to compress a model, and where they are."},
    {"name": "results", "description": "What jobs measured and made."},
    {"name": "sweeps", "description": "Many jobs of one model, and what they came to, compared."},
    {"name": "discovery", "description": "What can be asked for."},
    {"name": "operations", "description": "Health, readiness, version. No key needed."},
]


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """Add the problem document, and take out FastAPI's own, which is never sent."""
    schemas = document["components"]["schemas"]
    _, ours = models_json_schema(
        [(Problem, "serialization")], ref_template="#/components/schemas/{model}"
    )
    schemas.update(ours["$defs"])
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"] = dict(sorted(_sent(operation["responses"]).items()))
    return document


def _sent(responses: dict[str, Any]) -> dict[str, Any]:
    """Without the answer that FastAPI adds to every route with a parameter."""
    return {
        status: response
        for status, response in responses.items()
        if "HTTPValidationError" not in str(response)
    }


def as_text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write docs/openapi.json."""
    # Here, for the app imports this module.
    from tempfile import TemporaryDirectory

    from pydantic import SecretStr

    from service.app import create_app
    from service.settings import ServiceSettings

    with TemporaryDirectory() as folder:
        settings = ServiceSettings(
            data_dir=Path(folder), broker_url="memory://", api_keys=(SecretStr("any"),)
        )
        PAGE.write_text(as_text(create_app(settings).openapi()), encoding="utf-8")


if __name__ == "__main__":
    main()
