"""Prune, then run == run, then prune: the property that every rule must have."""

import warnings
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

from tests.zoo.operators import CASES, Case, OneCall
from worker.engine.difference import TOLERANCE, relative_error
from worker.engine.graph.coupling import Coupling, channels_of, kept_along
from worker.engine.graph.propagate import _Walk
from worker.engine.graph.registry import RULES
from worker.engine.graph.rules.pointwise import is_pointwise
from worker.engine.graph.rules.refused import REASONS
from worker.engine.graph.silence import SilencedProgram
from worker.engine.program import Program
from worker.engine.prune.cut import cut_module

SEEN = Path(__file__).parents[1] / "zoo" / "operators_seen.txt"
"""The operators that exports of well-known architectures use."""


def analyzed(case: Case) -> Coupling:
    """A case's coupling with its outputs left free: the operator alone decides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of the exporter, about parameters made on the fly.
        exported = torch.export.export(OneCall(case).eval(), ())
    program = Program.from_exported(exported)
    walk = _Walk(program)
    for node in program.graph.nodes:
        if node.op != "output":
            walk.visit(node)
    return channels_of(program, walk.found())


@cache
def coupling_of(case: Case) -> Coupling:
    return analyzed(case)


def outputs_agree(coupling: Coupling, keep: torch.Tensor) -> bool:
    """Whether the cut call's outputs are the silenced call's outputs, sliced."""
    graph = coupling.program.graph
    (returned,) = (node for node in graph.nodes if node.op == "output")
    with torch.no_grad():
        reference = pytree.tree_leaves(SilencedProgram(coupling, keep).run())
        found = pytree.tree_leaves(cut_module(coupling, keep)())
    sources = [node for node in pytree.tree_leaves(returned.args) if node is not None]
    expected = []
    for value, node in zip(reference, sources, strict=True):
        lines = coupling.node_lines[node][0][1]
        for dim in {at for at, _ in lines}:
            kept = kept_along(lines, dim, value.shape[dim], keep)
            value = value.index_select(dim, kept.nonzero().flatten())
        expected.append(value)
    return relative_error(found, expected) <= TOLERANCE


def keeps(coupling: Coupling) -> st.SearchStrategy[torch.Tensor]:
    """Any choice of channels that leaves one in every dimension."""

    def repaired(chosen: list[bool]) -> torch.Tensor:
        keep = torch.tensor([*chosen, True])
        for channels in coupling.sets:
            if not keep[channels].any():
                keep[channels[0]] = True
        return keep

    count = coupling.channel_count
    return st.lists(st.booleans(), min_size=count, max_size=count).map(repaired)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_prune_then_run_is_run_then_prune(case):
    coupling = coupling_of(case)
    assert not coupling.frozen

    @settings(max_examples=12, deadline=None, derandomize=True)
    @given(keeps(coupling))
    def holds(keep):
        assert outputs_agree(coupling, keep)

    holds()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_rule_finds_all_the_channels_that_there_are(case):
    assert coupling_of(case).channel_count == case.channels


def test_every_rule_has_a_case():
    # A size is a number, no tensor: every pattern with a recurrent layer reads one.
    numbers = {torch.ops.aten.sym_size.int, torch.ops.aten._assert_scalar.default}
    covered = {case.operator for case in CASES} | numbers
    assert set(RULES) - set(REASONS) == covered & set(RULES)


def test_every_operator_of_the_field_has_a_rule_or_a_reason():
    """All 162 of ATen that 199 exported architectures of three libraries call."""
    unknown = [
        name
        for name in SEEN.read_text().split()
        if (operator := _operator(name)) not in RULES and not is_pointwise(operator)
    ]
    assert unknown == []


def _operator(name: str) -> object:
    namespace, operator, overload = name.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), operator), overload)
