"""The data folder: one stack at a time, one key, sockets that fit."""

from pathlib import Path

import pytest

from stack.errors import FolderInUse, ProcessFailed
from stack.folder import data_folder, socket_path


def test_two_stacks_do_not_share_a_folder(tmp_path: Path) -> None:
    with data_folder(tmp_path), pytest.raises(FolderInUse, match="--data"):
        data_folder(tmp_path).__enter__()
    with data_folder(tmp_path):
        """Free again."""


def test_a_temporary_folder_is_removed() -> None:
    with data_folder(None) as folder:
        assert folder.logs.is_dir()
    assert not folder.root.exists()


def test_the_key_is_made_once(tmp_path: Path) -> None:
    with data_folder(tmp_path) as folder:
        key = folder.api_key()
        assert folder.api_key() == key
        assert len(key) > 40


def test_a_socket_is_in_the_folder_where_it_fits(tmp_path: Path) -> None:
    with data_folder(None) as folder, socket_path(folder) as socket:
        assert socket.is_relative_to(folder.root)
    with data_folder(tmp_path / ("long" * 25)) as folder, socket_path(folder) as socket:
        assert not socket.is_relative_to(folder.root)
        assert len(str(socket)) < 100
        assert socket.parent.is_dir()
    assert not socket.parent.exists()


def test_a_failure_shows_the_last_lines_and_no_more(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    said = str(ProcessFailed("service", exit_code=-9, log=log))
    assert said.startswith("the service ended with signal 9; the last lines of ")
    assert "line 99" in said
    assert "line 79\n" not in said
