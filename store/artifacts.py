"""Artifacts: the files that jobs made."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from secateur.jobs import Artifact
from store.ids import is_id, new_id
from store.rows import as_artifact
from store.tables import ArtifactRow


@dataclass(frozen=True)
class NewArtifact:
    """A file that an attempt made. Its bytes are a blob already."""

    name: str
    media_type: str
    sha256: str
    size_bytes: int


class Artifacts:
    """The repository of artifacts. They come as a job ends and go with `Jobs.delete`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, artifact_id: str) -> Artifact | None:
        row = self._session.get(ArtifactRow, artifact_id) if is_id(artifact_id) else None
        return None if row is None else as_artifact(row)

    def of_job(self, job_id: str) -> list[Artifact]:
        """What a job made, by name."""
        rows = self._session.scalars(
            select(ArtifactRow).where(ArtifactRow.job_id == job_id).order_by(ArtifactRow.name)
        )
        return [as_artifact(row) for row in rows]


def add_artifacts(
    session: Session, job_id: str, artifacts: Sequence[NewArtifact], now: datetime
) -> None:
    """Record what a job made; the method of `Jobs` that ends it calls this in its transaction."""
    session.add_all(
        ArtifactRow(
            id=new_id("art"),
            job_id=job_id,
            name=artifact.name,
            media_type=artifact.media_type,
            size_bytes=artifact.size_bytes,
            sha256=artifact.sha256,
            created_at=now,
        )
        for artifact in artifacts
    )
    session.flush()
