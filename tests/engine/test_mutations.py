"""The exactness property must notice a wrong rule, or it proves nothing."""

import pytest
import torch

from tests.engine.test_rules import analyzed, outputs_agree
from tests.zoo.operators import CASES, Case
from worker.engine.graph.coupling import Coupling
from worker.engine.graph.registry import RESIZES, RULES

aten = torch.ops.aten


def _case(operator, *, at: int = 0) -> Case:
    return [case for case in CASES if case.operator == operator][at]


def _equation(text: str, *names: str, **sizes: int):
    """A rule of one equation, right or wrong."""

    def rule(call):
        operands = [call.value(name) for name in names]
        return call.coupler.equate(text, *operands, output=call.output, sizes=sizes)

    return rule


def _survives(coupling: Coupling) -> bool:
    """Whether removing any one channel, alone, passes the property."""
    for channel in range(coupling.channel_count):
        keep = coupling.everything()
        keep[channel] = False
        if not all(keep[channels].any() for channels in coupling.sets):
            continue
        try:
            if not outputs_agree(coupling, keep):
                return False
        except (RuntimeError, AssertionError):
            return False  # The cut program does not even run, or its planes are not rectangular.
    return True


MUTANTS = {
    "linear reads nothing from its input": (
        _case(aten.linear.default),
        _equation("... d, k c, k -> ... k", "input", "weight", "bias"),
    ),
    "linear leaves its bias behind": (
        _case(aten.linear.default),
        _equation("... c, k c, b -> ... k", "input", "weight", "bias"),
    ),
    "matmul keeps the wrong factor": (
        _case(aten.matmul.default, at=2),
        _equation("b m k, b l n -> b m n", "self", "other"),
    ),
    "a convolution takes its inputs for its outputs": (
        _case(aten.conv2d.default),
        _equation("n c * *, k c * * -> n c * *", "input", "weight"),
    ),
    "a grouped convolution is taken for a dense one": (
        _case(aten.conv2d.default, at=1),
        _equation("n i * *, k c * *, k -> n k * *", "input", "weight", "bias"),
    ),
    "a batch norm forgets its weight": (
        _case(aten.batch_norm.default),
        _equation(
            "n c *, d, c, c, c -> n c *", "input", "weight", "bias", "running_mean", "running_var"
        ),
    ),
    "a maximum lets go of what it looks through": (
        _case(aten.amin.default),
        _equation("m n -> m", "self"),
    ),
    "a softmax lets go of what it runs over": (
        _case(aten.softmax.int),
        _equation("m n -> m n", "self"),
    ),
    "a look-up takes any place for every place": (
        _case(aten.gather.default),
        _equation("m n, m k -> m k", "self", "index"),
    ),
    "a cell lets go of a gate's row": (
        _case(aten.gru_cell.default),
        _equation("n i, n h, r i, r h, r, r -> n h", "input", "hx", "w_ih", "w_hh", "b_ih", "b_hh"),
    ),
    "a shuffle loses single channels": (
        _case(aten.channel_shuffle.default),
        _equation("n (g c) * * -> n (c g) * *", "self", g=2),
    ),
    "one of a pair goes": (
        _case(aten.view_as_complex.default),
        _equation("m n r -> m n", "self"),
    ),
    "a bag lets go of rows": (
        _case(aten.embedding_bag.default),
        lambda call: (
            [call.coupler.equate("r d, *, * -> * d", *call.tensors(), output=call.first_output)] * 4
        ),
    ),
    "a group norm loses single channels": (
        _case(aten.group_norm.default),
        _equation("n c *, c, c -> n c *", "input", "weight", "bias"),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_rule_is_noticed(name, monkeypatch):
    case, mutant = MUTANTS[name]
    assert _survives(analyzed(case)), "the right rule passes"
    monkeypatch.setitem(RULES, case.operator, mutant)
    assert not _survives(analyzed(case))


@pytest.mark.parametrize(
    "operator",
    [
        aten.view.default,
        aten.layer_norm.default,
        aten.slice.Tensor,
        aten.split_with_sizes.default,
        aten.scaled_dot_product_attention.default,
        aten.zeros.default,
        aten.unflatten.int,
        aten.expand.default,
        aten.group_norm.default,
        aten.index_select.default,
        aten.tensor_split.indices,
    ],
    ids=str,
)
def test_a_size_that_is_not_rewritten_is_noticed(operator, monkeypatch):
    case = _case(operator)
    monkeypatch.delitem(RESIZES, operator)
    assert not _survives(analyzed(case))
