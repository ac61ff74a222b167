"""Downloads: whole and right, or not there."""

import hashlib
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from secateur.client import Client
from secateur.errors import ConnectionFailed, DownloadCorrupt
from secateur.jobs import Artifact
from tests.client.answers import answer, answering
from tests.client.conftest import AT_ONCE, Service
from tests.client.test_client import model_id, spec
from tests.worker.programs import plan

__all__ = ["model_id"]

CONTENT = random.Random(0).randbytes(3_000_000)


def artifact(content: bytes, name: str = "model.pt2") -> Artifact:
    return Artifact(
        id="art_1",
        job_id="job_1",
        name=name,
        media_type="application/octet-stream",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        created_at=datetime.now(UTC),
    )


def cut(content: bytes, *, after: int) -> bytes:
    """An answer whose connection breaks in the middle."""
    whole = answer("200 OK", content)
    return whole[: len(whole) - len(content) + after]


def part(content: bytes, *, start: int) -> bytes:
    return answer("206 Partial Content", content[start:])


def test_what_a_job_made_arrives(
    client: Client, service: Service, model_id: str, tmp_path: Path
) -> None:
    job = client.create_job(spec(model_id))
    service.claim(job)
    service.succeed(job, plan([]), model__pt2=CONTENT, empty__json=b"")
    folder = tmp_path / "made"
    assert client.download_all(job, folder) == [folder / "empty.json", folder / "model.pt2"]
    assert (folder / "model.pt2").read_bytes() == CONTENT
    assert (folder / "empty.json").read_bytes() == b""
    assert len(list(folder.iterdir())) == 2


def test_a_broken_download_goes_on_where_it_was(download_folder: Path) -> None:
    told: list[int] = []
    with (
        answering(cut(CONTENT, after=1_000_000), part(CONTENT, start=1_000_000)) as script,
        Client(script.url, "key", retries=AT_ONCE) as client,
    ):
        path = client.download(
            artifact(CONTENT), download_folder, on_bytes=lambda done, _: told.append(done)
        )
    assert path.read_bytes() == CONTENT
    assert list(download_folder.iterdir()) == [path]
    assert b"\r\nRange: bytes=1000000-\r\n" in script.requests[1]
    assert f'If-Range: "{artifact(CONTENT).sha256}"'.encode() in script.requests[1]
    assert told == sorted(told)


def test_a_later_call_goes_on_too(download_folder: Path) -> None:
    with (
        answering(cut(CONTENT, after=1_000_000), b"", b"", b"", b"") as script,
        Client(script.url, "key", retries=AT_ONCE) as client,
        pytest.raises(ConnectionFailed),
    ):
        client.download(artifact(CONTENT), download_folder)
    assert not (download_folder / "model.pt2").exists()
    with (
        answering(part(CONTENT, start=1_000_000)) as script,
        Client(script.url, "key", retries=AT_ONCE) as client,
    ):
        assert client.download(artifact(CONTENT), download_folder).read_bytes() == CONTENT


def test_a_server_that_starts_over_is_understood(download_folder: Path) -> None:
    with (
        answering(cut(CONTENT, after=1_500_000), answer("200 OK", CONTENT)) as script,
        Client(script.url, "key", retries=AT_ONCE) as client,
    ):
        assert client.download(artifact(CONTENT), download_folder).read_bytes() == CONTENT


def test_what_is_not_what_was_announced_is_not_kept(download_folder: Path) -> None:
    wrong = bytes(len(CONTENT))
    with (
        answering(answer("200 OK", wrong)) as script,
        Client(script.url, "key", retries=AT_ONCE) as client,
        pytest.raises(DownloadCorrupt, match="expected sha256"),
    ):
        client.download(artifact(CONTENT), download_folder)
    assert list(download_folder.iterdir()) == []


def test_an_existing_file_is_replaced_whole(download_folder: Path) -> None:
    path = download_folder / "mine.pt2"
    path.write_bytes(b"before")
    with (
        answering(answer("200 OK", CONTENT)) as script,
        Client(script.url, "key", retries=AT_ONCE) as client,
    ):
        assert client.download(artifact(CONTENT), path) == path
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a\\b", "..", ""])
def test_a_name_that_leaves_the_folder_is_refused(download_folder: Path, name: str) -> None:
    with Client("http://127.0.0.1:1", "key") as client, pytest.raises(ValueError, match="no file"):
        client.download(artifact(CONTENT, name), download_folder)
