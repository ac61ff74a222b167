"""Where things are kept."""

from pathlib import Path

import pytest

from store.settings import StoreSettings


def test_everything_is_in_the_data_folder_by_default(monkeypatch, tmp_path):
    monkeypatch.setenv("SECATEUR_DATA_DIR", str(tmp_path))
    settings = StoreSettings()
    assert settings.database_url == f"sqlite:///{tmp_path}/secateur.db"
    assert settings.blob_dir == tmp_path / "blobs"


def test_a_relative_folder_is_made_absolute_at_once(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert StoreSettings().data_dir == tmp_path / "secateur-data"
    assert StoreSettings(data_dir=Path("x")).blob_dir == tmp_path / "x" / "blobs"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_any_name_of_postgresql_gets_the_driver_that_is_there(scheme):
    settings = StoreSettings(database_url=f"{scheme}://user@host/name")
    assert settings.database_url == "postgresql+psycopg://user@host/name"
