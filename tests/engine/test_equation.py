"""The notation of equations."""

import pytest

from worker.engine.graph.equation import Equation


def test_a_dimension_of_several_factors_is_read_slowest_first():
    equation = Equation.parse("n (g c) *, (g k) c * -> n (g k) *")
    assert equation.operands[0] == (("n",), ("g", "c"), ("*",))
    assert equation.output == (("n",), ("g", "k"), ("*",))


def test_sizes_follow_from_shapes_and_what_is_known():
    equation = Equation.parse("n (g c) *, (g k) c * -> n (g k) *").with_ranks([3, 3], 3)
    sizes = equation.factor_sizes([(2, 6, 9), (9, 2, 3)], {"g": 3})
    assert (sizes["n"], sizes["g"], sizes["c"], sizes["k"]) == (2, 3, 2, 3)


def test_an_ellipsis_lines_up_from_the_right():
    equation = Equation.parse("..., ... -> ...").with_ranks([3, 1], 3)
    assert equation.operands[1][0] == equation.operands[0][2]


def test_a_size_that_no_factor_explains_is_refused():
    equation = Equation.parse("n (g c) -> n").with_ranks([2], 1)
    with pytest.raises(ValueError, match="size 7"):
        equation.factor_sizes([(2, 7)], {"g": 3})


def test_a_missing_arrow_is_refused():
    with pytest.raises(ValueError, match="->"):
        Equation.parse("n c")


def test_a_tensor_of_another_rank_is_refused():
    with pytest.raises(ValueError, match="rank 3"):
        Equation.parse("n c -> n").with_ranks([3], 1)
