"""How the service is set up."""

import hashlib
import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from store.settings import StoreSettings

_DIGEST_FORM = re.compile(r"sha256:([0-9a-f]{64})")


class ServiceSettings(StoreSettings):
    """Read from the environment, each name with `SECATEUR_` before it."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port; 0 takes a free one.")
    socket_path: Path | None = Field(
        default=None, description="A unix socket to listen on, instead of host and port."
    )
    url_file: Path | None = Field(
        default=None, description="A file to write the service's URL to when it is ready."
    )
    broker_url: str = Field(
        default="redis://localhost:6379/0",
        description="Celery's broker. With Redis, waiting requests are woken through it too.",
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        min_length=1,
        description="Keys that callers may use, separated by commas; each as it is, or as "
        "`sha256:` and the digest of it in hexadecimal.",
    )
    model_max_bytes: int = Field(default=8 << 30, ge=1, description="Largest model file taken.")
    dataset_max_bytes: int = Field(
        default=64 << 30, ge=1, description="Largest data set file taken."
    )
    body_max_bytes: int = Field(
        default=16 << 20,
        ge=1,
        description="Largest body of any other request; a plan to apply is the largest of these.",
    )
    wait_max_s: float = Field(default=60.0, ge=0, description="Longest that a request may wait.")
    retry_after_s: int = Field(
        default=2, ge=1, description="When to ask again about a job, where waiting does not work."
    )
    shutdown_grace_s: int = Field(
        default=10, ge=0, description="How long requests may go on once the service stops."
    )

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split(cls, keys: object) -> object:
        if isinstance(keys, str):
            return tuple(key.strip() for key in keys.split(",") if key.strip())
        return keys

    @property
    def api_key_digests(self) -> tuple[bytes, ...]:
        """The sha256 of every key."""
        return tuple(_digest(key.get_secret_value()) for key in self.api_keys)


def _digest(key: str) -> bytes:
    given = _DIGEST_FORM.fullmatch(key)
    return bytes.fromhex(given[1]) if given else hashlib.sha256(key.encode()).digest()
