"""The OpenAPI description as a page for people: every call with a line to try it, its examples and its refusals.

One file without a script or a font from elsewhere, because the page is read where there is no way out to the internet.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from typing import Any

_JSON = "application/json"
_SHORT_LINES = 30
"""Longer examples are folded."""

_STYLE = """
:root{--text:#1c2024;--soft:#5b6570;--line:#d9dee3;--back:#fff;--code:#f5f7f9;--link:#0b5cad;--get:#0b6e4f;--post:#8a4b08}
@media(prefers-color-scheme:dark){:root{--text:#e6e9ec;--soft:#9aa5b0;--line:#333b43;--back:#15191d;--code:#1e242a;
--link:#7ab8ff;--get:#4fc59b;--post:#e0a25a}}
*{box-sizing:border-box}
body{font:16px/1.55 system-ui,sans-serif;color:var(--text);background:var(--back);max-width:58rem;margin:0 auto;
padding:2rem 1.25rem 6rem}
h1{font-size:1.75rem;margin:0 0 .5rem}
h2{font:600 1.1rem/1.4 ui-monospace,monospace;margin:3rem 0 .25rem;padding-top:1.25rem;border-top:1px solid var(--line);
overflow-wrap:anywhere}
h3{font-size:.85rem;color:var(--soft);margin:1.25rem 0 .35rem}
p{margin:.35rem 0}
a{color:var(--link)}
h2 code{font:inherit}
code,pre{font:.85rem/1.5 ui-monospace,monospace}
pre{background:var(--code);border:1px solid var(--line);border-radius:6px;padding:.75rem 1rem;margin:.35rem 0;
overflow:auto;max-height:30rem}
summary{cursor:pointer;color:var(--link)}
nav ul{list-style:none;padding:0;margin:1.5rem 0;display:grid;gap:.3rem}
table{border-collapse:collapse;width:100%;font-size:.9rem}
td{border-top:1px solid var(--line);padding:.35rem .75rem .35rem 0;vertical-align:top}
td:first-child{white-space:nowrap;font-family:ui-monospace,monospace}
.get{color:var(--get)}.post{color:var(--post)}.soft{color:var(--soft)}
"""


def page(described: Mapping[str, Any]) -> str:
    """Show a description."""
    info = described["info"]
    calls = list(_calls(described))
    contents = "".join(
        f"<li><a href='#{_anchor(method, path)}'>{_name(method, path)}</a> "
        f"<span class=soft>{html.escape(operation['summary'])}</span></li>"
        for method, path, operation in calls
    )
    sections = "".join(_section(method, path, operation) for method, path, operation in calls)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'><link rel=icon href='data:,'>"
        f"<title>{html.escape(info['title'])}</title><style>{_STYLE}</style><main><h1>{html.escape(info['title'])}</h1>"
        f"<p>{html.escape(info['description'])}</p>"
        "<p><a href=/docs/try>Try a call in this browser</a>. For machines: <a href=/openapi.json>openapi.json</a></p>"
        f"<nav><ul>{contents}</ul></nav>{sections}</main></html>"
    )


def _calls(described: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def _section(method: str, path: str, operation: Mapping[str, Any]) -> str:
    scopes = [scope for requirement in operation["security"] for scope in requirement["bearer"]]
    needs = f"Scope <code>{', '.join(scopes)}</code>" if scopes else "No token"
    parts = [
        f"<h2 id='{_anchor(method, path)}'>{_name(method, path)}</h2>",
        f"<p>{html.escape(operation['summary'])}. <span class=soft>{needs}.</span></p>",
        _rows("Parameters", {_parameter(one): one.get("description", "") for one in operation.get("parameters", ())}),
        f"<h3>Try it</h3><pre>{html.escape(_curl(method, path, operation))}</pre>",
    ]
    body = operation.get("requestBody", {}).get("content", {}).get(_JSON)
    if body is not None:
        parts.append(_example("Request", body["example"]))
    refusals = {}
    for status, answer in operation["responses"].items():
        shown = answer.get("content", {}).get(_JSON, {}).get("example")
        if not status.startswith("2"):
            refusals[status] = answer["description"]
        elif shown is not None:
            parts.append(_example(f"Answer {status}", shown))
    return "".join([*parts, _rows("Refusals", refusals)])


def _curl(method: str, path: str, operation: Mapping[str, Any]) -> str:
    words = ["curl"]
    if operation["security"]:
        words.append('-H "Authorization: Bearer $TOKEN"')
    if method == "post":
        words += ["-H 'Content-Type: application/json'", "-d @request.json"]
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", str(parameter["example"]))
    return " \\\n  ".join([*words, f"$URL{path}"])


def _parameter(parameter: Mapping[str, Any]) -> str:
    return f"{parameter['name']} ({parameter['in']})"


def _rows(title: str, rows: Mapping[str, str]) -> str:
    cells = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(text)}</td></tr>" for name, text in rows.items())
    return f"<h3>{title}</h3><table>{cells}</table>" if cells else ""


def _example(title: str, value: Any) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    block = f"<pre>{html.escape(text)}</pre>"
    lines = text.count("\n") + 1
    if lines > _SHORT_LINES:
        block = f"<details><summary>{lines} lines</summary>{block}</details>"
    return f"<h3>{html.escape(title)}</h3>{block}"


def _name(method: str, path: str) -> str:
    return f"<span class={method}>{method.upper()}</span> <code>{html.escape(path)}</code>"


def _anchor(method: str, path: str) -> str:
    return method + "".join(letter if letter.isalnum() else "-" for letter in path)
