"""The errors themselves: each has a code of its own, and a route that says it may come."""

import ast
import inspect
from pathlib import Path

from secateur.problems import Problem
from service import errors
from service.errors import FileRefused, ServiceError
from service.problems import file_codes

# What the protocol or the router answers on any path, or on none of ours.
ANYWHERE = {
    "request.head_too_large",
    "request.malformed",
    "request.method",
    "route.not_found",
}


def leaves(kind=ServiceError):
    below = kind.__subclasses__()
    return [leaf for each in below for leaf in leaves(each)] if below else [kind]


def test_each_error_has_a_code_of_its_own():
    codes = [kind.code for kind in leaves() if kind is not FileRefused] + file_codes()
    assert len(set(codes)) == len(codes)


def test_each_error_says_its_status_and_title():
    for kind in leaves():
        assert kind.status.value >= 400
        assert kind.title
        assert not kind.title.endswith(".")


def test_the_tree_at_the_top_of_the_file_is_the_tree():
    listed = {
        line.split()[1]
        for line in inspect.getdoc(errors).splitlines()
        if line.strip().startswith(("* ", "x ", "- ")) and len(line.split()) > 1
    }
    defined = {
        node.name
        for node in ast.parse(Path(errors.__file__).read_text()).body
        if isinstance(node, ast.ClassDef)
    }
    assert listed == defined


def test_each_error_is_declared_by_a_route(app):
    declared = {}
    for path, operations in app.openapi()["paths"].items():
        for method, operation in operations.items():
            for status, response in operation["responses"].items():
                declared.setdefault(int(status), []).append((response["description"], method, path))
    for kind in leaves():
        codes = file_codes() if kind is FileRefused else [kind.code]
        for code in codes:
            if code not in ANYWHERE:
                descriptions = [said for said, _, _ in declared.get(kind.status.value, [])]
                assert any(f"`{code}`" in said for said in descriptions), code


def test_each_declared_error_is_a_problem_document(app):
    for operations in app.openapi()["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"]
    assert set(app.openapi()["components"]["schemas"]["Problem"]["required"]) == set(
        Problem.model_fields
    )
