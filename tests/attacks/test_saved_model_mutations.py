"""Honest SavedModels, changed at random: whatever becomes of them, the answer is one of ours."""

import contextlib
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats.errors import FormatError
from formats.saved_model import inspect_saved_model, open_saved_model
from tests.attacks.test_pt2_mutations import QUICK, changed_bytes, with_changed_bytes
from tests.formats.saved_models import DATA, members, saved_model, tar_of, zip_of

GRAPH = saved_model()
with zipfile.ZipFile(DATA / "recurrent.zip") as _archive:
    BY_KERAS = {
        name.removeprefix("recurrent/"): _archive.read(name) for name in _archive.namelist()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mutated")


def check(path):
    with contextlib.suppress(FormatError):
        inspect_saved_model(path)


@given(changes=changed_bytes)
@settings(QUICK, max_examples=300)
def test_graph_with_changed_bytes_is_accepted_or_refused(changes, folder):
    check(zip_of(members(with_changed_bytes(GRAPH, changes)), folder / "m.zip"))


@given(start=st.floats(0, 1, exclude_max=True), length=st.integers(1, 40), again=st.booleans())
@settings(QUICK, max_examples=150)
def test_graph_with_bytes_left_out_or_repeated_is_accepted_or_refused(start, length, again, folder):
    place = int(start * len(GRAPH))
    end = min(place + length, len(GRAPH))
    changed = GRAPH[:end] + GRAPH[place if again else end + 1 :]
    check(zip_of(members(changed), folder / "m.zip"))


@given(changes=changed_bytes)
@settings(QUICK, max_examples=60)
def test_graph_of_keras_with_changed_bytes_is_accepted_or_refused(changes, folder):
    changed = with_changed_bytes(BY_KERAS["saved_model.pb"], changes)
    path = zip_of({**BY_KERAS, "saved_model.pb": changed}, folder / "k.zip")
    with contextlib.suppress(FormatError), open_saved_model(path) as model:
        # What is written anew passes the same check.
        clean = {**BY_KERAS, "saved_model.pb": model._clean}
        assert inspect_saved_model(zip_of(clean, folder / "c.zip")) == model.info


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@given(changes=changed_bytes)
@settings(QUICK, max_examples=150)
def test_tar_with_changed_bytes_is_accepted_or_refused(changes, mode, folder):
    path = tar_of(members(), folder / "m.tar", mode=mode)
    path.write_bytes(with_changed_bytes(path.read_bytes(), changes))
    check(path)


@given(changes=changed_bytes)
@settings(QUICK, max_examples=100)
def test_zip_with_changed_bytes_is_accepted_or_refused(changes, folder):
    path = zip_of(members(), folder / "m.zip")
    path.write_bytes(with_changed_bytes(path.read_bytes(), changes))
    check(path)
