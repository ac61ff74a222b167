"""Archives made to write elsewhere, to whoever unpacks a SavedModel from them."""

import io
import stat
import tarfile
import warnings
import zipfile

import pytest

from formats.errors import FormatError, UnsafeFile
from formats.saved_model import inspect_saved_model, open_saved_model
from tests.formats.saved_models import members

INDEX = "variables/variables.index"


def add(archive, name, data=b"", /, **changes):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in changes.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(data))


def link_then_file_through_it(archive, outside):
    """A link, then a member "in" it, as it gets past those who look at names alone."""
    add(archive, "variables", type=tarfile.SYMTYPE, linkname=str(outside))
    add(archive, "variables/marker", b"x")


def absolute(archive, outside):
    add(archive, f"{outside}/marker", b"x")


def parent(archive, outside):
    add(archive, f"../{outside.name}/marker", b"x")


def hard_link_to_a_file_of_others(archive, outside):
    add(archive, "saved_model.pb", type=tarfile.LNKTYPE, linkname=str(outside / "secret"))


def link_to_a_file_of_others(archive, outside):
    add(archive, INDEX, type=tarfile.SYMTYPE, linkname=str(outside / "secret"))


ATTACKS = [
    link_then_file_through_it,
    absolute,
    parent,
    hard_link_to_a_file_of_others,
    link_to_a_file_of_others,
]


@pytest.fixture
def outside(tmp_path):
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    return folder


def build(attack, outside, path, *, rest):
    with tarfile.open(path, "w:gz") as archive:
        attack(archive, outside)
        for name, data in rest.items():
            add(archive, name, data)
    return path


def has_harmed(outside, target):
    secrets = [
        path for path in target.rglob("*") if path.is_file() and path.read_text() == "secret"
    ]
    return (outside / "marker").exists() or bool(secrets)


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_works_on_whoever_unpacks_with_tarfile(attack, outside, tmp_path):
    path = build(attack, outside, tmp_path / "model.tgz", rest={})
    target = tmp_path / "target"
    target.mkdir()
    with tarfile.open(path) as archive, warnings.catch_warnings():
        # Python 3.12 and 3.13 warn that 3.14 filters by itself.
        warnings.simplefilter("ignore", DeprecationWarning)
        archive.extraction_filter = staticmethod(lambda member, _: member)
        archive.extractall(target)
    assert has_harmed(outside, target)


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_is_refused(attack, outside, tmp_path):
    path = build(attack, outside, tmp_path / "model.tgz", rest=members())
    with pytest.raises(UnsafeFile):
        inspect_saved_model(path)
    assert not (outside / "marker").exists()


@pytest.mark.parametrize("name", ["../outside/marker", "/marker", "variables/../../marker"])
def test_attack_in_a_zip_is_refused(name, outside, tmp_path):
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in {**members(), name: b"x"}.items():
            archive.writestr(zipfile.ZipInfo(member), data)
    with pytest.raises(UnsafeFile):
        inspect_saved_model(path)


def test_link_in_a_zip_is_refused(outside, tmp_path):
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members().items():
            info = zipfile.ZipInfo(member)
            if member == INDEX:
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, data)
    with pytest.raises(UnsafeFile, match="link"):
        inspect_saved_model(path)


def test_only_what_is_known_is_unpacked(tmp_path):
    path = tmp_path / "model.tar"
    more = {"variables/marker": b"x", "assets/marker": b"x", "marker": b"x"}
    with tarfile.open(path, "w") as archive:
        for name, data in {**members(), **more}.items():
            add(archive, name, data)
    with open_saved_model(path) as model:
        model.unpack(tmp_path / "target")
    assert not list((tmp_path / "target").rglob("marker"))


def test_file_that_changes_after_the_check_is_not_read_again(tmp_path):
    path = tmp_path / "model.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in members().items():
            add(archive, name, data)
    with open_saved_model(path) as model:
        path.unlink()
        path.write_bytes(b"another")
        model.unpack(tmp_path / "target")
    assert (tmp_path / "target" / INDEX).read_bytes() == b"index"
    with pytest.raises(FormatError):
        inspect_saved_model(path)
