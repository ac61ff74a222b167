"""Where rows and blobs are kept."""

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def _database_in(validated: dict[str, Any]) -> str:
    return f"sqlite:///{validated['data_dir'] / 'secateur.db'}"


def _blobs_in(validated: dict[str, Any]) -> Path:
    folder: Path = validated["data_dir"] / "blobs"
    return folder


class StoreSettings(BaseSettings):
    """Read from the environment, each name with `SECATEUR_` before it."""

    model_config = SettingsConfigDict(env_prefix="SECATEUR_", frozen=True)

    data_dir: Path = Field(
        default=Path("secateur-data"),
        description="Folder of everything that is kept on this machine.",
    )
    database_url: str = Field(
        default_factory=_database_in,
        description="SQLAlchemy URL of the database, PostgreSQL or SQLite; "
        "by default a SQLite file in the data folder.",
    )
    blob_dir: Path = Field(
        default_factory=_blobs_in,
        description="Folder of the blobs; by default in the data folder. "
        "Unfinished uploads are in the same file system, so that finishing one is a rename.",
    )
    database_lock_wait_s: float = Field(
        default=30.0, gt=0, description="How long a SQLite writer waits for another one."
    )
    database_pool_size: int = Field(
        default=20,
        ge=1,
        description="Connections that a process keeps open; it may open as many more.",
    )

    @field_validator("data_dir", "blob_dir")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.absolute()

    @field_validator("database_url")
    @classmethod
    def _one_driver(cls, url: str) -> str:
        """Hosting providers write `postgres://`; the driver we ship is psycopg 3."""
        scheme, separator, rest = url.partition("://")
        if scheme in ("postgres", "postgresql"):
            scheme = "postgresql+psycopg"
        return f"{scheme}{separator}{rest}"
