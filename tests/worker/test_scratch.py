"""Scratch folders: gone when done with, and gone when those who made them are."""

import subprocess
import sys
from pathlib import Path

import pytest

from worker.scratch import remove_leftovers, scratch_folder


def test_a_folder_is_removed_whatever_happens(tmp_path: Path) -> None:
    def fail() -> None:
        with scratch_folder(tmp_path, prefix="job") as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / "file").write_text("left")
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_no_leftover(tmp_path: Path) -> None:
    with scratch_folder(tmp_path, prefix="job") as folder:
        remove_leftovers(tmp_path)
        assert folder.is_dir()


def test_the_folder_of_a_killed_process_is_a_leftover(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from worker.scratch import scratch_folder\n"
        "with scratch_folder(Path(sys.argv[1]), prefix='job') as folder:\n"
        "    (folder / 'file').write_text('left')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=Path.cwd())
    assert len(list(tmp_path.iterdir())) == 1
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "job-1").symlink_to(kept)
    remove_leftovers(scratch)
    assert kept.is_dir()


def test_without_a_folder_there_is_nothing_to_remove(tmp_path: Path) -> None:
    remove_leftovers(tmp_path / "none")
