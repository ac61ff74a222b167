"""Logs: an event's name, and fields."""

import json
import logging
import time
from typing import Any

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class FieldFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123Z INFO secateur.service.request method=GET status=200`."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name.
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        said = "".join(f" {name}={_shown(value)}" for name, value in fields.items())
        return f"{self.formatTime(record)} {record.levelname} {record.message}{said}"


def _shown(value: Any) -> str:
    """One word, so that no value can look like another field or another line."""
    text = str(value)
    # JSON escapes line breaks and quotes, and all that is not ASCII; of ASCII not the last.
    quoted = json.dumps(text).replace("\x7f", "\\u007f")
    return text if quoted == f'"{text}"' and " " not in text and text else quoted


def configure_logs() -> None:
    """Send everything to standard error. uvicorn's own access log is replaced by ours."""
    handler = logging.StreamHandler()
    handler.setFormatter(FieldFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("uvicorn.access").disabled = True
    # Alembic and httpx tell the ordinary at INFO.
    for name in ("alembic", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
