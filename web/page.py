"""The pages: each one file with its style and script inside, and the Content-Security-Policy that allows just these."""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from pathlib import Path

from discriminator.words import LIMITS

HERE = Path(__file__).resolve().parent
PARTS: tuple[str, ...] = ("base", "words", "server", "drawing", "picture", "beside")
PARTS += ("detail", "table", "inputs", "making", "history", "start")
NOTHING_ELSE = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def main_page() -> tuple[str, str]:
    """The page for people, and its policy: its own style and script by their hashes, answers from this server, photos
    as blobs; nothing from elsewhere."""
    style, script = _text("page.css"), page_script()
    limits = "\n".join(f"<li>{escape(line)}</li>" for line in LIMITS)
    text = _text("page.html").replace("<!--LIMITS-->", limits)
    text = text.replace("/*STYLE*/", style).replace("/*SCRIPT*/", script)
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; connect-src 'self'; "
    return text, policy + f"img-src blob: data:; {NOTHING_ELSE}"


def page_script() -> str:
    """The page's script: its parts, in a scope of their own."""
    return "\n".join(['"use strict";', "(() => {", *(_text(f"parts/{name}.js") for name in PARTS), "})();"])


def api_page(spec: dict) -> tuple[str, str]:
    """The API's description for people from its OpenAPI document, without a script."""
    style = _text("page.css")
    body = "".join(
        _operation(method, path, told) for path, methods in spec["paths"].items() for method, told in methods.items()
    )
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>The API</title><style>{style}</style></head>
<body><main><h1>The API</h1><p>{escape(spec["info"]["description"])} For programs:
<a href="openapi.json">openapi.json</a>. <a href="./">The page</a>.</p>
<pre><code>curl -F file=@photo.jpg -F file=@more.png http://127.0.0.1:8000/v1/detect
curl -H 'Content-Type: image/jpeg' --data-binary @photo.jpg 'http://127.0.0.1:8000/v1/detect?face=whole'</code></pre>
{body}</main></body></html>"""
    return text, f"default-src 'none'; style-src {_hash(style)}; {NOTHING_ELSE}"


def _operation(method: str, path: str, told: dict) -> str:
    options = "".join(
        f"<dt><code>{escape(p['name'])}</code></dt><dd>{escape(p.get('description', ''))}{_choices(p['schema'])}</dd>"
        for p in told.get("parameters", ())
    )
    kinds = ", ".join(told.get("requestBody", {}).get("content", ()))
    answers = "".join(
        f"<dt>{escape(status)}</dt><dd>{escape(answer['description'])}</dd>"
        for status, answer in told["responses"].items()
    )
    text = "".join(f"<p>{escape(part)}</p>" for part in (told.get("description") or "").split("\n\n") if part)
    return (
        f"<section><h2><code>{method.upper()} {escape(path)}</code></h2>"
        f"<p><strong>{escape(told['summary'])}</strong></p>"
        + text
        + (f"<p>Body: <code>{escape(kinds)}</code></p>" if kinds else "")
        + (f"<h3>Options (in the query)</h3><dl>{options}</dl>" if options else "")
        + f"<h3>Answers</h3><dl>{answers}</dl></section>"
    )


def _choices(schema: dict) -> str:
    found = [value for part in (schema, *schema.get("anyOf", ())) for value in part.get("enum", ())]
    return escape(f" ({', '.join(map(json.dumps, found))})") if found else ""


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
