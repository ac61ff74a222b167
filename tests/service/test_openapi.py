"""The published description of the API: what docs/openapi.json says is what the service says."""

import pytest

from service.openapi import PAGE, as_text


@pytest.fixture
def document(app):
    return app.openapi()


def operations(document):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_the_page_is_up_to_date(document):
    assert PAGE.read_text(encoding="utf-8") == as_text(document), (
        "the API has changed; if that is meant: python -m service.openapi"
    )


def test_each_operation_reads_well(document):
    tags = {tag["name"] for tag in document["tags"]}
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        assert set(operation["tags"]) <= tags, name
        assert operation["operationId"].isidentifier(), name


def test_each_operation_has_an_id_of_its_own(document):
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(ids)) == len(ids)


def test_nothing_is_referred_to_that_is_not_there(document):
    text = as_text(document)
    for name in set(text.split("#/components/schemas/")[1:]):
        assert name.split('"')[0] in document["components"]["schemas"]


def test_fields_of_answers_are_always_there(document):
    for name, schema in document["components"]["schemas"].items():
        if name in ("Job", "Model", "Dataset", "Artifact", "Problem", "Report", "Plan"):
            assert set(schema["required"]) == set(schema["properties"]), name
