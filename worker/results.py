"""What a child left in its output folder, as blobs and as artifacts.

The child may have been taken over by the file that it read. So nothing is followed, only known
names are taken, and every document is checked before anybody is told that it is one.
"""

import json
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel

from secateur.jobs import JobKind
from secateur.outputs import OUTPUT_FORMATS
from secateur.plan import Plan
from secateur.report import Manifest, ManifestFile, Report
from store.artifacts import NewArtifact
from store.blobs import CHUNK_BYTES, BlobStore, BlobWriter
from store.claims import Claim
from worker.order import OUTPUT_FOLDER, Outcome

_log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1

_JSON = "application/json"
_BINARY = "application/octet-stream"

RESULTS: Mapping[JobKind, type[BaseModel]] = {JobKind.COMPRESS: Report, JobKind.PLAN: Plan}
"""What each kind of job answers with."""

REQUIRED: Mapping[JobKind, frozenset[str]] = {
    JobKind.COMPRESS: frozenset({"model.pt2", "model.safetensors", "report.json"}),
    JobKind.PLAN: frozenset({"plan.json"}),
}
"""The files without which a job has not succeeded."""

REQUIRED_OF_FAILED: Mapping[JobKind, frozenset[str]] = {
    JobKind.COMPRESS: frozenset({"report.json"}),
}
"""The same for a job that failed with a result, by the kinds that may."""

_WITHHELD = re.compile(r"model\..*")
"""What a job that failed made, and does not deliver."""

_MEDIA_TYPES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"model\.(pt2|safetensors|sparse\.safetensors)"), _BINARY),
    (re.compile("|".join(re.escape(info.file) for info in OUTPUT_FORMATS.values())), _BINARY),
    (re.compile(r"(report|plan(-\d{1,3})?)\.json"), _JSON),
)


class BadResult(Exception):
    """What the child left is not what the engine leaves."""


@dataclass
class Delivery:
    """Everything that a job answers with: written, and not yet anybody's."""

    result: dict[str, Any]
    artifacts: list[NewArtifact]
    writers: list[BlobWriter]
    is_committed: bool = False

    def commit(self) -> None:
        """Make blobs of what was written; once, however often the transaction has to be tried."""
        if not self.is_committed:
            for writer in self.writers:
                writer.commit()
        self.is_committed = True

    @property
    def digests(self) -> list[str]:
        return [artifact.sha256 for artifact in self.artifacts]


@contextmanager
def delivery(
    claim: Claim, outcome: Outcome, folder: Path, blobs: BlobStore, *, idle: Callable[[], None]
) -> Iterator[Delivery]:
    """Write what a child left as blobs, which are gone at the end unless they were committed.

    Args:
        claim: The attempt.
        outcome: What the child said; it holds a result.
        folder: The attempt's scratch folder.
        blobs: Where to write.
        idle: Called between chunks: large files take longer than a heartbeat.

    Raises:
        BadResult: A file is missing, or the result is not of its kind, or it says that the job
            ended in another way.
    """
    result = _checked(claim, outcome)
    with ExitStack() as stack:
        artifacts, writers = [], []
        for name, media_type in _outputs(claim, outcome, folder / OUTPUT_FOLDER):
            writer = stack.enter_context(blobs.writer())
            with opened(folder / OUTPUT_FOLDER / name) as file:
                while chunk := file.read(CHUNK_BYTES):
                    writer.write(chunk)
                    idle()
            artifacts.append(_artifact(name, media_type, writer))
            writers.append(writer)
        manifest = stack.enter_context(blobs.writer())
        manifest.write(_manifest(claim, outcome, artifacts))
        artifacts.append(_artifact(MANIFEST, _JSON, manifest))
        writers.append(manifest)
        yield Delivery(result, artifacts, writers)


def _checked(claim: Claim, outcome: Outcome) -> dict[str, Any]:
    kind = RESULTS[claim.kind]
    try:
        result = kind.model_validate(outcome.result)
    except ValueError as error:
        raise BadResult(f"the result is no {kind.__name__}: {error}") from error
    if isinstance(result, Report):
        _check_promises(claim, outcome, result)
    return result.model_dump(mode="json")


def _check_promises(claim: Claim, outcome: Outcome, report: Report) -> None:
    """Hold the report against the spec: a model is delivered if and only if promises are kept."""
    asked = {} if claim.spec.safety is None else claim.spec.safety.max_drop.given
    found = [] if report.safety is None else report.safety.promises
    if {promise.name: promise.allowed for promise in found} != asked:
        raise BadResult(f"the spec promises {asked}, and the report is about {found}")
    is_broken = outcome.failure is not None
    if is_broken is all(promise.is_kept for promise in found):
        raise BadResult(
            f"a promise is {'' if is_broken else 'not '}broken, the report says {found}"
        )


def _outputs(claim: Claim, outcome: Outcome, folder: Path) -> list[tuple[str, str]]:
    """The files that are kept, with their media types."""
    kept = []
    has_failed = outcome.failure is not None
    required = (REQUIRED_OF_FAILED if has_failed else REQUIRED).get(claim.kind)
    if required is None:
        raise BadResult(f"a job of the kind {claim.kind} failed with a result")
    for name in sorted(path.name for path in folder.iterdir()):
        if has_failed and _WITHHELD.fullmatch(name):
            continue
        media_type = next((to for known, to in _MEDIA_TYPES if known.fullmatch(name)), None)
        if media_type is None:
            _log.warning("an output called %r is not kept", name)
        else:
            kept.append((name, media_type))
    missing = required - {name for name, _ in kept}
    if missing:
        raise BadResult(f"no {', '.join(sorted(missing))} among the outputs")
    return kept


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file that a child left, if it is a plain one of its own.

    Raises:
        BadResult: It is a link, a pipe, another's, or cannot be opened.
    """
    # O_NONBLOCK: opening a pipe that somebody put there must not wait for a writer.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise BadResult(f"{path.name} cannot be opened: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        # A second name could be another's file, linked here.
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise BadResult(f"{path.name} is not a plain file")
        yield file


def _artifact(name: str, media_type: str, writer: BlobWriter) -> NewArtifact:
    sha256 = writer.seal()
    return NewArtifact(name, media_type, sha256=sha256, size_bytes=writer.size_bytes)


def _manifest(claim: Claim, outcome: Outcome, artifacts: list[NewArtifact]) -> bytes:
    inputs = {"model": claim.model, "train": claim.train, "test": claim.test}
    manifest = Manifest(
        format_version=MANIFEST_VERSION,
        job_id=claim.job_id,
        spec=claim.spec.model_dump(mode="json"),
        spec_sha256=claim.spec.sha256,
        seed=claim.spec.seed,
        versions=outcome.versions,
        device=outcome.device,
        inputs=[
            ManifestFile(name=name, sha256=file.sha256, size_bytes=file.size_bytes)
            for name, file in inputs.items()
            if file is not None
        ],
        outputs=[
            ManifestFile(name=each.name, sha256=each.sha256, size_bytes=each.size_bytes)
            for each in artifacts
        ],
    )
    return json.dumps(manifest.model_dump(mode="json"), indent=2).encode() + b"\n"
