"""The docs say what the code says."""

import re
from pathlib import Path

import pytest

from secateur.capabilities import CRITERIA, STEPS
from secateur.objective import Task
from secateur.spec import Granularity
from tests.docs.settings_page import PAGE, render

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/**/README.md")])


def test_the_page_of_settings_is_the_settings():
    assert (ROOT / PAGE).read_text() == render(), "run python -m tests.docs.settings_page"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("name", sorted(STEPS))
def test_every_step_is_in_the_recipe_page(name):
    assert f"## {name}" in (ROOT / "docs/recipes.md").read_text()


@pytest.mark.parametrize("name", sorted(Granularity))
def test_every_granularity_is_in_the_recipe_page(name):
    assert f"| `{name}` |" in (ROOT / "docs/recipes.md").read_text()


@pytest.mark.parametrize("name", sorted(Task))
def test_every_task_is_in_the_recipe_page(name):
    assert f"| `{name}` |" in (ROOT / "docs/recipes.md").read_text()


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_every_criterion_is_in_the_recipe_page(name):
    assert f"| `{name}` |" in (ROOT / "docs/recipes.md").read_text()
