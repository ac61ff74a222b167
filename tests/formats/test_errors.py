"""What users are told."""

import re

import pytest

from formats import errors
from formats.errors import FormatError, shown


def leaves(cls=FormatError):
    children = cls.__subclasses__()
    return [leaf for child in children for leaf in leaves(child)] if children else [cls]


def test_each_error_has_a_code_of_its_own_in_the_tree():
    codes = [leaf.code for leaf in leaves()]
    assert len(set(codes)) == len(codes)
    for leaf in leaves():
        assert re.search(rf"x {leaf.__name__} +{re.escape(leaf.code)}\n", errors.__doc__ + "\n")
        assert re.fullmatch(r"(file|model|dataset)\.[a-z_]+", leaf.code)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a\nb", "'a\\nb'"),
        ("\x1b[31m", "'\\x1b[31m'"),
        ("x" * 5000, "'" + "x" * 80 + "'..."),
        ({"a": 1}, "a dict"),
        (None, "None"),
        (7, "7"),
    ],
)
def test_what_comes_from_the_file_is_shown_escaped_and_short(value, expected):
    assert shown(value) == expected


def test_error_carries_its_message_as_detail():
    error = errors.UnsafeFile("models/model.json", "it runs code")
    assert error.detail == str(error)
    assert "models/model.json" in error.detail
