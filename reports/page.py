"""One self-contained HTML page about a run: numbers, curves, pictures, verdicts, and what they do and do not mean.

Everything is inside the file (pictures as data URIs, no script, no font or style from elsewhere), so it can be mailed
or kept. It follows the reader's light or dark setting and fits a phone. `write_report` lays out any list of sections;
`reports.gan_run` makes the sections of a training run.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.files import write_text
from discriminator.words import HEADLINES, score
from reports.plots import image_png

if TYPE_CHECKING:
    from discriminator.verdict import Verdict


@dataclass(frozen=True)
class Number:
    """A headline figure: `value` as it is to be read, what it is, and one line that says how to take it."""

    value: str
    label: str
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """PNG or JPEG bytes; `dark` is shown instead on dark pages. `alt` says what is seen to those who can't see it."""

    data: bytes
    caption: str = ""
    dark: bytes | None = None
    alt: str = ""
    pixelated: bool = False


def themed(figure: tuple[bytes, bytes | None], caption: str = "", alt: str = "") -> Picture:
    """The picture of a figure's (light, dark) bytes."""
    return Picture(figure[0], caption, figure[1], alt)


def pictures(drawn: Mapping[str, tuple[bytes, bytes | None]], captions: Mapping[str, str]) -> list[Picture]:
    """Of the figures `drawn` those that have a caption, as far as they are there."""
    return [themed(drawn[name], caption, caption or name) for name, caption in captions.items() if name in drawn]


@dataclass(frozen=True)
class VerdictCard:
    """One judged photo: uint8 [H, W, 3] pixels, the heat map over it if there is one, and what was said."""

    name: str
    photo: np.ndarray
    label: str
    probability: float
    threshold: float
    fpr: float | None
    heat: np.ndarray | None = None
    truth: str = ""
    note: str = ""
    score: str = ""

    @classmethod
    def of(
        cls, name: str, photo: np.ndarray, verdict: Verdict, *, truth: str = "", crop: str = "center"
    ) -> VerdictCard:
        """From a detector's `Verdict` on `photo`; `crop` is the `Preprocess.crop` it was made with."""
        from discriminator.heatmap import overlay

        heat = None if verdict.patch_map is None else overlay(photo, verdict.patch_map, crop=crop)
        return cls(
            name,
            photo,
            verdict.label,
            verdict.probability,
            verdict.threshold,
            verdict.fpr,
            heat,
            truth,
            verdict.note,
            score(verdict),
        )


@dataclass(frozen=True)
class Section:
    """A titled part of the page. What is filled is shown in the order text, numbers, table, pictures, cards, notes.

    Text and notes are plain paragraphs. Table rows are cells; the first row is the head if `head` is set. `columns` is
    how many pictures stand side by side where there is room.
    """

    title: str
    text: Sequence[str] = ()
    numbers: Sequence[Number] = ()
    rows: Sequence[Sequence[object]] = ()
    head: bool = False
    pictures: Sequence[Picture] = ()
    columns: int = 1
    cards: Sequence[VerdictCard] = ()
    notes: Sequence[str] = field(default_factory=tuple)


def write_report(path: str | Path, *, title: str, sections: Sequence[Section], subtitle: str = "") -> Path:
    """Write the page to `path`, whole or not at all; returns the path. OS errors of the disk are passed on."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render(title, sections, subtitle))
    return path


def render(title: str, sections: Sequence[Section], subtitle: str = "") -> str:
    """The page as text."""
    sections = [s for s in sections if any(map(len, (s.text, s.numbers, s.rows, s.pictures, s.cards, s.notes)))]
    links = "".join(f'<a href="#s{i}">{_text(s.title)}</a>' for i, s in enumerate(sections))
    body = "\n".join(_section(i, section) for i, section in enumerate(sections))
    under = f'<p class="subtitle">{_text(subtitle)}</p>' if subtitle else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_inside(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{_text(title)}</h1>{under}<nav>{links}</nav></header>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _text(value: object) -> str:
    """Escaped; what stands in backticks is shown as code, as on the terminal it would be a flag or a command."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(str(value)))


def _inside(value: object) -> str:
    """Escaped for an attribute or a title, where there are no tags."""
    return html.escape(str(value)).replace("`", "")


def _section(index: int, s: Section) -> str:
    parts = [f'<section id="s{index}"><h2>{_text(s.title)}</h2>']
    parts += [f"<p>{_text(paragraph)}</p>" for paragraph in s.text]
    if s.numbers:
        tiles = "".join(
            f'<div class="number"><div class="value">{_text(n.value)}</div><div class="label">{_text(n.label)}</div>'
            + (f'<div class="note">{_text(n.note)}</div>' if n.note else "")
            + "</div>"
            for n in s.numbers
        )
        parts.append(f'<div class="numbers">{tiles}</div>')
    if s.rows:
        parts.append(_table(s.rows, s.head))
    if s.pictures:
        figures = "".join(_figure(picture) for picture in s.pictures)
        parts.append(f'<div class="pictures" style="--columns:{s.columns}">{figures}</div>')
    if s.cards:
        parts.append(f'<div class="cards">{"".join(_card(card) for card in s.cards)}</div>')
    parts += [f'<p class="aside">{_text(note)}</p>' for note in s.notes]
    parts.append("</section>")
    return "\n".join(parts)


def _table(rows: Sequence[Sequence[object]], head: bool) -> str:
    lines = []
    for i, row in enumerate(rows):
        tag = "th" if head and i == 0 else "td"
        scope = ' scope="row"' if not head or i else ' scope="col"'
        first = f"<th{scope}>{_text(row[0])}</th>"
        lines.append(f"<tr>{first}{''.join(f'<{tag}>{_text(cell)}</{tag}>' for cell in row[1:])}</tr>")
    return f'<div class="scroll"><table class="{"grid" if head else "pairs"}">{"".join(lines)}</table></div>'


def _uri(data: bytes) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _figure(p: Picture) -> str:
    shape = ' class="pixelated"' if p.pixelated else ""
    image = f'<img{shape} src="{_uri(p.data)}" alt="{_inside(p.alt or p.caption)}">'
    if p.dark is not None:
        dark = f'<source media="(prefers-color-scheme: dark)" srcset="{_uri(p.dark)}">'
        image = f"<picture>{dark}{image}</picture>"
    caption = f"<figcaption>{_text(p.caption)}</figcaption>" if p.caption else ""
    return f"<figure>{image}{caption}</figure>"


def _card(c: VerdictCard) -> str:
    small = ' class="pixelated"' if max(c.photo.shape[:2]) < 160 else ""
    images = f'<img{small} src="{_uri(image_png(c.photo))}" alt="photo {_inside(c.name)}">'
    if c.heat is not None:
        images += f'<img{small} src="{_uri(image_png(c.heat))}" alt="heat map of {_inside(c.name)}">'
    truth = f' <span class="truth">in truth {_text(c.truth)}</span>' if c.truth else ""
    note = f'<p class="note">{_text(c.note)}</p>' if c.note else ""
    percent = min(max(c.probability, 0.0), 1.0) * 100
    facts = f"score {c.score or _probability(c.probability)}, «{HEADLINES['FAKE']}» from {_probability(c.threshold)}"
    if c.fpr is not None:
        facts += f"; that threshold called {100 * c.fpr:.2g} % of the validation reals fake"
    return (
        f'<article class="card {_text(c.label.lower())}"><div class="pair">{images}</div>'
        f'<p class="said"><strong>{_text(HEADLINES.get(c.label, c.label))}</strong>{truth}</p>'
        f'<div class="bar"><i style="width:{percent:.1f}%"></i>'
        f'<b style="left:{min(max(c.threshold, 0.0), 1.0) * 100:.1f}%"></b></div>'
        f'<p class="facts">{facts}</p><p class="name">{_text(c.name)}</p>{note}</article>'
    )


def _probability(p: float) -> str:
    """Three digits, never rounded up to a certainty."""
    if 0.9995 <= p < 1:
        return "above 0.999"
    return "below 0.001" if 0 < p < 0.0005 else f"{p:.3f}"


def pairs(values: Mapping[str, object]) -> list[tuple[str, object]]:
    """A mapping as the rows of a two-column table, without what is None."""
    return [(key, value) for key, value in values.items() if value is not None]


_STYLE = """
:root{--paper:#fff;--ink:#24292f;--soft:#59636e;--line:#e3e6ea;--tile:#f6f7f9;--real:#0072b2;--fake:#c25400;
--unsure:#6b7280}
@media (prefers-color-scheme:dark){:root{--paper:#16191d;--ink:#dfe3e8;--soft:#9aa3ad;--line:#2b3037;--tile:#1f2329;
--real:#56b4e9;--fake:#f08a3c;--unsure:#a3abb5}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:17px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1080px;margin:0 auto;padding:2.5rem 1.25rem 5rem}
h1{font-size:2rem;line-height:1.2;margin:0;letter-spacing:-.01em}
h2{font-size:1.3rem;margin:0 0 .8rem;letter-spacing:-.005em}
.subtitle{color:var(--soft);margin:.4rem 0 0}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;margin-top:1rem;font-size:.9rem}
nav a{color:var(--real);text-decoration:none}nav a:hover{text-decoration:underline}
section{border-top:1px solid var(--line);margin-top:2.4rem;padding-top:1.6rem}
p{margin:.6rem 0;max-width:46rem}
.aside,.note,figcaption,.name,.facts{color:var(--soft);font-size:.88rem}
.numbers{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:.9rem;margin:1rem 0}
.number{background:var(--tile);border-radius:10px;padding:1rem 1.1rem}
.value{font-size:1.9rem;font-weight:650;line-height:1.15;font-variant-numeric:tabular-nums}
.label{font-weight:550;margin-top:.25rem}.number .note{margin-top:.15rem;line-height:1.4}
.scroll{overflow-x:auto;margin:1rem 0}
table{border-collapse:collapse;font-size:.92rem;min-width:60%}
th,td{text-align:left;padding:.42rem 1.2rem .42rem 0;border-bottom:1px solid var(--line);vertical-align:top}
.pairs th{font-weight:500;color:var(--soft);white-space:nowrap}.grid td{font-variant-numeric:tabular-nums}
.grid th{font-weight:600}
.pictures{display:grid;gap:1.2rem;margin:1rem 0;grid-template-columns:repeat(var(--columns),minmax(0,1fr));
align-items:start}
@media (max-width:720px){.pictures{grid-template-columns:1fr}main{padding-top:1.5rem}h1{font-size:1.6rem}}
figure{margin:0}figure img{display:block;width:100%;height:auto;border-radius:6px}
figcaption{margin-top:.4rem}
.pixelated{image-rendering:pixelated}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr));gap:1.1rem;margin:1rem 0}
.card{border:1px solid var(--line);border-left:5px solid var(--mark);border-radius:10px;padding:.9rem 1rem}
.card.real{--mark:var(--real)}.card.fake{--mark:var(--fake)}.card.unsure{--mark:var(--unsure)}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:.5rem}
.pair img{width:100%;height:auto;display:block;border-radius:5px}
.said{margin:.7rem 0 .35rem}.said strong{color:var(--mark);font-size:1.15rem;letter-spacing:.03em}
.truth{color:var(--soft);margin-left:.4rem;font-size:.9rem}
.bar{position:relative;height:8px;background:var(--tile);border-radius:4px;margin:.3rem 0}
.bar i{position:absolute;inset:0 auto 0 0;background:var(--mark);border-radius:4px;min-width:3px}
.bar b{position:absolute;top:-3px;bottom:-3px;width:2px;background:var(--ink)}
.facts,.name,.card .note{margin:.3rem 0;line-height:1.45;overflow-wrap:anywhere}
@media print{section{break-inside:avoid-page}nav{display:none}}
"""
