"""Writes docs/settings.md: ``python -m tests.docs.settings_page``."""

from pathlib import Path

from pydantic_core import PydanticUndefined

from service.settings import ServiceSettings
from store.settings import StoreSettings
from worker.settings import WorkerSettings

PAGE = Path("docs/settings.md")

_HEAD = """\
# Settings

Every setting is an environment variable. `make demo` and `make serve` need none of them; what they
set for their own processes gives way to what the environment says. This page is written by
`python -m tests.docs.settings_page`.
"""

_SECTIONS = (
    ("Service and worker", StoreSettings, "Where rows and blobs are kept. The same for both."),
    ("Service", ServiceSettings, "`python -m service`"),
    ("Worker", WorkerSettings, "`python -m worker`"),
)


def render() -> str:
    """The page."""
    seen: set[str] = set()
    parts = [_HEAD]
    for title, settings, note in _SECTIONS:
        rows = [
            f"| `SECATEUR_{name.upper()}` | {_default(field)} | {field.description} |"
            for name, field in settings.model_fields.items()
            if name not in seen
        ]
        if settings is StoreSettings:
            seen |= set(settings.model_fields)
        parts.append(f"## {title}\n\n{note}\n\n| name | default | what |\n| --- | --- | --- |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts[:1]) + "\n" + "\n".join(parts[1:])


def _default(field) -> str:
    if field.is_required():
        return "required"
    if field.default is PydanticUndefined:
        return ""
    return "" if field.default is None else f"`{field.default}`"


if __name__ == "__main__":
    PAGE.write_text(render())
