"""Honest ONNX models, changed at random: whatever becomes of them, the answer is one of ours."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from formats.errors import FormatError
from formats.onnx import inspect_onnx
from tests.attacks.test_pt2_mutations import QUICK, changed_bytes, with_changed_bytes
from tests.formats.onnx_models import external, linear, value, zip_of
from worker.engine.errors import EngineError
from worker.engine.readers.onnx_file import read_checked_onnx


def honest_model():
    model = linear()
    branch = helper.make_graph(
        [helper.make_node("Relu", ["h"], ["r"])], "branch", [], [value("r", ["batch", 3])]
    )
    model.graph.node.append(
        helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    )
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value_float=1.0))
    return model


HONEST = honest_model().SerializeToString()


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return tmp_path_factory.mktemp("mutated") / "mutated.onnx"


def check_and_read(path):
    with contextlib.suppress(FormatError):
        inspect_onnx(path)
        # What passes the check, ONNX can parse, or says so in our words.
        with contextlib.suppress(EngineError):
            read_checked_onnx(path)


def test_the_model_that_is_changed_is_accepted(target):
    target.write_bytes(HONEST)
    assert inspect_onnx(target).operators["If"] == 1
    assert read_checked_onnx(target).SerializeToString() == HONEST


@given(changes=changed_bytes)
@settings(QUICK, max_examples=400)
def test_model_with_changed_bytes_is_read_or_refused(changes, target):
    target.write_bytes(with_changed_bytes(HONEST, changes))
    check_and_read(target)


@given(start=st.floats(0, 1, exclude_max=True), length=st.integers(1, 30), again=st.booleans())
@settings(QUICK, max_examples=150)
def test_model_with_bytes_left_out_or_repeated_is_read_or_refused(start, length, again, target):
    place = int(start * len(HONEST))
    end = min(place + length, len(HONEST))
    target.write_bytes(HONEST[:end] + HONEST[place if again else end + 1 :])
    check_and_read(target)


@given(changes=changed_bytes)
@settings(QUICK, max_examples=150)
def test_archive_with_changed_bytes_is_read_or_refused(changes, target):
    model, data = external(offset=0, length=48)
    zip_of({"m/m.onnx": model, "m/weights.bin": data}, target)
    target.write_bytes(with_changed_bytes(target.read_bytes(), changes))
    check_and_read(target)


@given(changes=changed_bytes)
@settings(QUICK, max_examples=150)
def test_model_with_changed_bytes_in_an_archive_is_read_or_refused(changes, target):
    model, data = external(offset=0, length=48)
    changed = with_changed_bytes(model.SerializeToString(), changes)
    zip_of({"m/m.onnx": changed, "m/weights.bin": data}, target)
    check_and_read(target)
