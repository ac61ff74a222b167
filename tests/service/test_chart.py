"""A comparison as a picture."""

import re
import threading
from xml.etree import ElementTree

import pytest

from secateur.comparison import Comparison, ComparisonRow
from secateur.failures import FailureCode
from service.chart import _MARKERS, chart

NONE = dict.fromkeys(ComparisonRow.model_fields)
FRACTIONS = (0.2, 0.35, 0.5, 0.7)


def comparison(methods, *, measure="accuracy", label=None):
    rows = [{**NONE, "method": "original", "macs": 1000, measure: 0.95}]
    for number, method in enumerate(methods):
        for fraction in FRACTIONS:
            value = 0.95 - (1 - fraction) * (number + 1) / 100
            rows.append({**NONE, "method": method, "macs": int(1000 * fraction), measure: value})
    fields = {"sweep_id": "swp_1", "state": "succeeded", "model_id": "mdl_1", "label": label}
    return Comparison.model_validate({**fields, "rows": rows})


def svg(drawn):
    text = drawn.decode()
    ElementTree.fromstring(text)  # It is XML.
    return text


@pytest.mark.parametrize("file_format", ["svg", "png"])
def test_equal_comparisons_make_equal_bytes(file_format):
    drawn = chart(comparison(["a", "b"]), file_format)
    assert chart(comparison(["a", "b"]), file_format) == drawn
    assert chart(comparison(["a", "c"]), file_format) != drawn
    assert b"date" not in drawn.lower()


def test_fifteen_methods_are_told_apart_by_color_and_by_marker():
    text = svg(chart(comparison([f"method {n}" for n in range(15)]), "svg"))
    lines = re.findall(
        r'<g id="line2d_\d+">\s*<path d="[^"]*" clip-path="[^"]*" style="([^"]*)"', text
    )
    colors = [
        match[1]
        for style in lines
        if "stroke-width: 1.6" in style and (match := re.search(r"stroke: (#\w+)", style))
    ]
    assert len(colors) == len(set(colors)) == 15
    assert all(f"<!-- method {n} -->" in text for n in range(15))
    assert len(set(_MARKERS)) >= 15


def test_the_original_is_a_dashed_line():
    assert "stroke-dasharray" in svg(chart(comparison(["a"]), "svg"))


@pytest.mark.parametrize(
    ("measure", "title"),
    [
        ("accuracy", "accuracy"),
        ("agreement", "agreement with the original"),
        ("loss", "loss (lower is better)"),
        ("output_mse", "output MSE (lower is better)"),
    ],
)
def test_the_best_measure_that_there_is_is_shown(measure, title):
    assert f"<!-- {title} -->" in svg(chart(comparison(["a"], measure=measure), "svg"))


def test_zeros_are_drawn_against_what_is_not_zero():
    drawn = comparison(["a"])
    rows = [
        row.model_copy(update={"macs": 1000, "parameters": 100, "sparsity": sparsity})
        for row, sparsity in zip(drawn.rows, (0.0, 0.5, 0.9, 0.7), strict=False)
    ]
    text = svg(chart(drawn.model_copy(update={"rows": rows}), "svg"))
    assert "<!-- parameters other than zero left, fraction of the original -->" in text
    assert "<!-- MACs left, fraction of the original -->" in svg(chart(drawn, "svg"))


@pytest.mark.parametrize(
    ("bytes_each", "across"),
    [(1.0, "weight bytes"), (2.0, "weight bytes"), (3.9, "MACs"), (4.0, "MACs")],
)
def test_fewer_bits_are_drawn_against_the_bytes_that_are_left(bytes_each, across):
    drawn = comparison(["a"])
    sizes = [400, *(int(100 * bytes_each * fraction) for fraction in FRACTIONS)]
    counts = [100, *(int(100 * fraction) for fraction in FRACTIONS)]
    rows = [
        row.model_copy(update={"parameters": count, "size_bytes": size})
        for row, count, size in zip(drawn.rows, counts, sizes, strict=True)
    ]
    text = svg(chart(drawn.model_copy(update={"rows": rows}), "svg"))
    assert f"<!-- {across} left, fraction of the original -->" in text


def test_what_was_not_delivered_is_no_point():
    drawn = comparison(["a"])
    rows = [
        row.model_copy(update={"failure_code": FailureCode.SAFETY_PROMISE_BROKEN})
        for row in drawn.rows[1:]
    ]
    broken = drawn.model_copy(update={"rows": [drawn.rows[0], *rows]})
    assert "no job has numbers yet" in svg(chart(broken, "svg"))


def test_before_any_job_has_numbers_it_says_so():
    assert "no job has numbers yet" in svg(chart(comparison([]), "svg"))


@pytest.mark.parametrize(
    "name",
    [
        "$x$ and $",
        "$\\frac{",
        "_hidden",
        "<script>alert(1)</script>",
        "-->",
        "]]>&amp;",
        "\x01\x1b[0m\n",
        "網絡 🦊",
        "x" * 200,
    ],
)
def test_any_name_is_a_name_and_nothing_else(name):
    text = svg(chart(comparison([name], label=name), "svg"))
    assert "<script>" not in text
    assert chart(comparison([name], label=name), "png").startswith(b"\x89PNG")


def test_threads_draw_side_by_side():
    expected = chart(comparison(["a"]), "svg")
    drawn = []
    threads = [
        threading.Thread(target=lambda: drawn.append(chart(comparison(["a"]), "svg")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert drawn == [expected] * 4
