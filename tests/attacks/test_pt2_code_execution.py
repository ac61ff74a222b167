"""Files that run code in torch: each is proven to, and refused before torch sees it."""

import subprocess
import sys
from pathlib import Path

import pytest

from formats.errors import FormatError
from formats.pt2 import inspect_pt2
from tests.attacks import exploits, prove
from worker.engine.load import load_program


@pytest.fixture(scope="module")
def proven(honest_members, tmp_path_factory):
    """Names of the attacks that created their marker in a process of plain torch."""
    folder = tmp_path_factory.mktemp("proof")
    built = {
        exploit.__name__: exploits.build(exploit, honest_members, folder)
        for exploit in exploits.EVERY
    }
    script = Path(prove.__file__)
    paths = [str(path) for path, _ in built.values()]
    subprocess.run([sys.executable, script, *paths], cwd=folder, check=True, timeout=120)
    return {name for name, (_, marker) in built.items() if marker.exists()}


@pytest.mark.parametrize("exploit", exploits.ON_LOAD + exploits.ON_CALL)
def test_attack_runs_its_code_in_plain_torch(exploit, proven):
    assert exploit.__name__ in proven


@pytest.mark.parametrize("exploit", exploits.EVERY)
def test_attack_is_refused_by_the_check_and_leaves_no_marker(exploit, honest_members, tmp_path):
    path, marker = exploits.build(exploit, honest_members, tmp_path)
    with pytest.raises(FormatError) as refusal:
        inspect_pt2(path)
    assert refusal.value.code in {"file.unsafe", "model.unsupported", "model.not_an_archive"}
    assert not marker.exists()


@pytest.mark.parametrize("exploit", exploits.EVERY)
def test_attack_is_refused_by_the_engine_and_leaves_no_marker(exploit, honest_members, tmp_path):
    path, marker = exploits.build(exploit, honest_members, tmp_path)
    with pytest.raises(FormatError):
        load_program(path)
    assert not marker.exists()


def test_the_program_that_the_attacks_start_from_is_accepted(honest_members, tmp_path):
    path = exploits.write_members(honest_members, tmp_path / "honest.pt2")
    program = load_program(path)
    args, kwargs = program.example_inputs
    assert program.module()(*args, **kwargs).shape == (2, 3)
    assert inspect_pt2(path).has_example_inputs


def test_every_attack_is_listed_once():
    names = [exploit.__name__ for exploit in exploits.EVERY]
    assert len(names) == len(set(names))
