"""Every code that a caller can see has a section in docs/errors.md, and no others have."""

import re
from pathlib import Path

import pytest

from secateur.failures import FailureCode
from service import errors
from service.errors import FileRefused, ServiceError
from service.problems import file_codes
from service.routes.operations import explain_error

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^### `(.+)`$", PAGE, re.MULTILINE)


def request_codes():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return {
        kind.code
        for kind in kinds
        if issubclass(kind, ServiceError) and kind is not FileRefused and hasattr(kind, "code")
    }


def test_every_code_has_one_section_and_every_section_a_code():
    assert len(set(HEADINGS)) == len(HEADINGS)
    assert set(HEADINGS) == request_codes() | set(file_codes()) | set(FailureCode)


@pytest.mark.parametrize("code", HEADINGS)
def test_a_section_says_what_it_means_and_what_to_do(code):
    heading, meaning, *rest = bytes(explain_error(code).body).decode().strip().split("\n\n")
    assert heading == f"### `{code}`"
    assert meaning
    assert any(paragraph.startswith("What to do:") for paragraph in rest)
    assert not any(paragraph.startswith("## ") for paragraph in rest)


@pytest.mark.parametrize("code", sorted(request_codes()))
def test_a_section_says_the_status(code):
    [kind] = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and getattr(kind, "code", None) == code
    ]
    meaning = bytes(explain_error(code).body).decode().split("\n\n")[1]
    assert meaning.startswith(str(kind.status.value))


def test_links_within_the_page_lead_somewhere():
    anchors = {heading.lower() for heading in re.findall(r"^## (.+)$", PAGE, re.MULTILINE)}
    assert set(re.findall(r"\(#(.+?)\)", PAGE)) <= anchors
