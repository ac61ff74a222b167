"""The API's reference as one page of HTML, made from the OpenAPI document.

No script, nothing loaded from elsewhere: it reads the same on a laptop without a network.
"""

import re
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; margin-top: 2.5rem; }
h3 { border-top: 1px solid #8884; padding-top: 1rem; }
h3 small { font-weight: normal; display: block; }
code, pre { font: 0.9em/1.5 ui-monospace, monospace; }
.verb { color: #0a7d4f; }
nav a { display: block; }
table { border-collapse: collapse; width: 100%; }
td { border-top: 1px solid #8884; padding: 0.25rem 1rem 0.25rem 0; vertical-align: top; }
td:first-child { white-space: nowrap; }
td p, td ul { margin: 0; }
td ul { padding-left: 1rem; }
a { text-decoration: none; }
"""


def reference(document: dict[str, Any]) -> str:
    """The page.

    Args:
        document: An OpenAPI 3.1 document.
    """
    info = document["info"]
    operations = [
        (path, verb, operation)
        for path, verbs in document["paths"].items()
        for verb, operation in verbs.items()
    ]
    parts = [_prose(info["description"]), _contents(operations)]
    for tag in document["tags"]:
        own = [each for each in operations if tag["name"] in each[2]["tags"]]
        parts.append(f"<h2>{escape(tag['name'].capitalize())}</h2>{_prose(tag['description'])}")
        parts += [_operation(path, verb, operation) for path, verb, operation in own]
    parts.append("<h2>Schemas</h2>")
    schemas = document["components"]["schemas"]
    parts += [_schema(name, schema) for name, schema in schemas.items()]
    title = f"{info['title']} {info['version']}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<h1>{escape(title)}</h1><p>{escape(info['summary'])} "
        f'<a href="/openapi.json">OpenAPI</a></p>{"".join(parts)}</html>\n'
    )


def _contents(operations: list[tuple[str, str, dict[str, Any]]]) -> str:
    links = [
        f'<a href="#{operation["operationId"]}"><code><span class="verb">{verb.upper()}</span> '
        f"{escape(path)}</code> {escape(operation['summary'])}</a>"
        for path, verb, operation in operations
    ]
    return f"<nav>{''.join(links)}</nav>"


def _operation(path: str, verb: str, operation: dict[str, Any]) -> str:
    rows = [
        (f"<code>{escape(given['name'])}</code>", given["in"], given.get("description", ""))
        for given in operation.get("parameters", [])
    ]
    body = operation.get("requestBody", {}).get("content", {})
    rows += [("body", kind, _shape(content)) for kind, content in body.items()]
    rows += [
        (f"<b>{status}</b>", _answer(answer), answer["description"])
        for status, answer in operation["responses"].items()
    ]
    return (
        f'<h3 id="{operation["operationId"]}"><code><span class="verb">{verb.upper()}</span> '
        f"{escape(path)}</code><small>{escape(operation['summary'])}</small></h3>"
        f"{_prose(operation.get('description', ''))}{_table(rows)}"
    )


def _schema(name: str, schema: dict[str, Any]) -> str:
    rows = [
        (f"<code>{escape(field)}</code>", _type(about), about.get("description", ""))
        for field, about in schema.get("properties", {}).items()
    ]
    rows += [(f"<code>{escape(str(value))}</code>", "", "") for value in schema.get("enum", [])]
    return (
        f'<h3 id="schema-{name}"><code>{escape(name)}</code></h3>'
        f"{_prose(schema.get('description', ''))}{_table(rows)}"
    )


def _answer(answer: dict[str, Any]) -> str:
    shapes = [_type(content.get("schema", {})) for content in answer.get("content", {}).values()]
    return ", ".join(filter(None, dict.fromkeys(shapes)))


def _shape(content: dict[str, Any]) -> str:
    schema = content.get("schema", {})
    name = schema.get("$ref", "").rpartition("/")[2]
    return f"`{name}`" if name else schema.get("description", "")


def _type(schema: dict[str, Any]) -> str:
    """What a value is, in a word or two; the name of a schema leads to it."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#schema-{name}">{escape(name)}</a>'
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(_type(each) for each in schema[several]))
    if "const" in schema:
        return f"<code>{escape(str(schema['const']))}</code>"
    kind = escape(str(schema.get("type", "")))
    return f"{kind} of {_type(schema['items'])}" if "items" in schema else kind


def _table(rows: list[tuple[str, str, str]]) -> str:
    lines = [
        f"<tr><td>{first}<td>{second}<td>{_prose(third)}</tr>" for first, second, third in rows
    ]
    return f"<table>{''.join(lines)}</table>" if rows else ""


def _prose(markdown: str) -> str:
    """The little Markdown that docstrings use: paragraphs, lists, bold, code."""
    blocks = []
    for block in escape(markdown, quote=False).strip().split("\n\n"):
        items = re.split(r"(?:^|\n)(?:\*|-|\d+\.) ", block)
        if len(items) > 1:
            listed = "".join(f"<li>{_inline(item)}</li>" for item in items[1:])
            blocks.append(f"{_inline(items[0])}<ul>{listed}</ul>")
        elif block:
            blocks.append(f"<p>{_inline(block)}</p>")
    return "".join(blocks)


def _inline(text: str) -> str:
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", text)
