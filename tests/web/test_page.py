"""The pages: nothing from elsewhere, nothing that names could break, and parts that a reader of screens can name."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

from fastapi import FastAPI

from web.page import HERE, PARTS, api_page, main_page, page_script

VOID = {"meta", "link", "input", "br", "img", "hr"}


class Page(HTMLParser):
    """Elements with their attributes; fails on tags that do not match."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.open, self.text = [], [], {}
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if self.open:
            self.text[self.open[-1]] = self.text.get(self.open[-1], "") + data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_page_is_whole_and_loads_nothing_from_elsewhere():
    text, policy = main_page()
    page = Page(text)
    for tag, attributes in page.elements:
        for name in ("src", "href", "action"):
            assert not re.match(r"(https?:)?//", attributes.get(name) or ""), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on") or name == "style"], "the policy forbids it"
    assert not re.search(r"@import|url\(|https?://(?!www\.w3\.org/2000/svg)", text)
    for kind in ("style", "script"):
        (digest,) = re.findall(f"{kind}-src 'sha256-([^']+)'", policy)
        assert base64.b64decode(digest) == hashlib.sha256(page.text[kind].encode()).digest()
    assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy


def test_the_script_puts_only_text_on_the_page():
    script = page_script()
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "DOMParser",
        "new Function",
    ):
        assert word not in script
    assert "</script" not in script and "</style" not in (HERE / "page.css").read_text(encoding="utf-8")


def test_no_part_of_the_script_is_forgotten():
    assert sorted(PARTS) == sorted(file.stem for file in (HERE / "parts").glob("*.js"))


def test_everything_has_a_name_and_a_place():
    text, _ = main_page()
    page = Page(text)
    assert page.all("html") == [{"lang": "en"}] and len(page.all("main")) == len(page.all("h1")) == 1
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    for _, attributes in page.elements:
        for name in ("for", "aria-labelledby"):
            assert attributes.get(name, "") in {"", *ids}
    script = page_script()
    assert set(re.findall(r'\$\("([\w-]+)"\)', script)) <= ids
    assert any(a.get("aria-live") == "polite" for _, a in page.elements)
    css = (HERE / "page.css").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in css and "focus-visible" in css
    assert any("width=device-width" in (a.get("content") or "") for a in page.all("meta"))


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    full = colour if len(colour) == 7 else "#" + "".join(2 * c for c in colour[1:])
    parts = [int(full[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return sum(
        w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
        for w, c in zip((0.2126, 0.7152, 0.0722), parts)
    )


def test_text_can_be_read_in_light_and_dark():
    """At least 4.5 to 1, as WCAG asks of text."""
    css = (HERE / "page.css").read_text(encoding="utf-8")
    themes = [dict(re.findall(r"--([\w-]+): (#\w+)", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)]
    assert len(themes) == 2
    for theme in themes:
        for name in ("ink", "soft", "link", "fake", "real", "unsure", "noface"):
            for ground in ("ground", "card"):
                pair = sorted((luminance(theme[name]), luminance(theme[ground])))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (name, ground)
        pair = sorted((luminance(theme["ink"]), luminance(theme["warn"])))
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5


def test_the_description_of_the_api_escapes_what_it_tells():
    app = FastAPI(title="x", description="<script>alert(1)</script>")

    @app.get("/a", summary="<b>bold</b>")
    def a(q: str = "") -> None:
        """<i>text</i>"""

    text, policy = api_page(app.openapi())
    page = Page(text)
    assert not page.all("script") and not page.all("b") and not page.all("i") and "script-src" not in policy
    assert "GET /a" in re.sub(r"<[^>]+>", "", text)
