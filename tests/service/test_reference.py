"""The reference that people read in a browser."""

import re
from html.parser import HTMLParser

import httpx


class _Links(HTMLParser):
    """What a page loads, leads to, and can be led to."""

    def __init__(self):
        super().__init__()
        self.loaded: list[str] = []
        self.followed: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.loaded += [given[name] for name in ("src", "data") if name in given]
        self.loaded += [given["href"]] if tag == "link" else []
        self.followed += [given["href"]] if tag == "a" else []
        self.ids |= {given["id"]} if "id" in given else set()


def test_the_reference_needs_no_key_and_names_every_operation(stranger, app):
    response = stranger.get("/docs")
    assert response.status_code == httpx.codes.OK
    assert response.headers["content-type"].startswith("text/html")
    for path, verbs in app.openapi()["paths"].items():
        for verb, operation in verbs.items():
            assert f'id="{operation["operationId"]}"' in response.text
            assert f">{verb.upper()}</span> {path}" in response.text


def test_the_reference_loads_nothing_and_its_links_lead_somewhere(stranger):
    text = stranger.get("/docs").text
    page = _Links()
    page.feed(text)
    assert page.loaded == []
    assert "<script" not in text
    inside = {link.removeprefix("#") for link in page.followed if link.startswith("#")}
    assert inside <= page.ids
    assert {link for link in page.followed if not link.startswith("#")} == {"/openapi.json"}


def test_what_the_document_says_is_escaped(stranger):
    assert "sha-256=:&lt;Base64&gt;:" in stranger.get("/docs").text
    assert not re.search(r"<Base64>", stranger.get("/docs").text)
