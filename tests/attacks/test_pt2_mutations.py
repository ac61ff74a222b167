"""Honest files, changed at random: whatever becomes of them, the answer is one of ours."""

import contextlib
import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from formats.errors import FormatError
from formats.pt2 import inspect_pt2
from tests.attacks.exploits import EXAMPLES, PROGRAM, WEIGHTS_CONFIG, write_members
from worker.engine.errors import EngineError
from worker.engine.load import load_program

QUICK = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return tmp_path_factory.mktemp("mutated") / "mutated.pt2"


def check(path):
    with contextlib.suppress(FormatError):
        inspect_pt2(path)


def check_and_load(path):
    with contextlib.suppress(FormatError, EngineError):
        load_program(path)


changed_bytes = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4
)


def with_changed_bytes(data, changes):
    changed = bytearray(data)
    for position, value in changes:
        changed[int(position * len(changed))] = value
    return bytes(changed)


@given(changes=changed_bytes)
@settings(QUICK, max_examples=150)
def test_file_with_changed_bytes_is_accepted_or_refused_by_the_check(changes, honest_path, target):
    target.write_bytes(with_changed_bytes(honest_path.read_bytes(), changes))
    check(target)


@given(changes=changed_bytes)
@settings(QUICK, max_examples=25)
def test_file_with_changed_bytes_is_loaded_or_refused_by_the_engine(changes, honest_path, target):
    target.write_bytes(with_changed_bytes(honest_path.read_bytes(), changes))
    check_and_load(target)


@given(length=st.floats(0, 1, exclude_max=True))
@settings(QUICK, max_examples=60)
def test_file_that_is_cut_short_is_refused(length, honest_path, target):
    data = honest_path.read_bytes()
    target.write_bytes(data[: int(length * len(data))])
    with pytest.raises(FormatError):
        inspect_pt2(target)


# In members with right checksums, the change gets past the archive and into the readers.
@given(
    changes=changed_bytes,
    member=st.sampled_from([PROGRAM, WEIGHTS_CONFIG, EXAMPLES]),
)
@settings(QUICK, max_examples=150)
def test_member_with_changed_bytes_is_accepted_or_refused(changes, member, honest_members, target):
    changed = honest_members | {member: with_changed_bytes(honest_members[member], changes)}
    target.unlink(missing_ok=True)
    check(write_members(changed, target))


def nodes_of(tree, path=()):
    """List where everything in a JSON tree is."""
    yield path
    steps = tree.items() if isinstance(tree, dict) else enumerate(tree) if path_holds(tree) else ()
    for step, child in steps:
        yield from nodes_of(child, (*path, step))


def path_holds(tree):
    return isinstance(tree, list)


def replaced(tree, path, value):
    if not path:
        return value
    changed = copy.deepcopy(tree)
    parent = changed
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    return changed


any_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "x", "s0", "u3", "linear", "torch.ops.aten.relu.default", "[]"])
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["as_int", "as_name", "as_tensor", "a"]), inner, max_size=2
        )
    ),
    max_leaves=4,
)


@given(data=st.data(), member=st.sampled_from([PROGRAM, PROGRAM, WEIGHTS_CONFIG]))
@settings(QUICK, max_examples=100)
def test_program_with_another_value_somewhere_is_loaded_or_refused(
    data, member, honest_members, target
):
    tree = json.loads(honest_members[member])
    path = data.draw(st.sampled_from(list(nodes_of(tree))))
    changed = honest_members | {
        member: json.dumps(replaced(tree, path, data.draw(any_json))).encode()
    }
    target.unlink(missing_ok=True)
    check_and_load(write_members(changed, target))
