"""The page of `reports.handout`: plain data in, HTML out. What comes from files is escaped wherever it stands."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.errors import one_line
from discriminator.words import COUNTS, HEADLINES, LIMITS, counted, score_of
from reports.stability_curve import curve_svg

COLUMNS = {"kind": "question", "says": "answer", "proves": "what it proves", "cannot_prove": "what it can't prove"}
HIDDEN = {"facts"}  # of evidence: for programs


@dataclass(frozen=True)
class Face:
    """row: as in the JSON. maps: captions and JPEG bytes."""

    row: Mapping
    maps: Sequence[tuple[str, bytes]] = ()


@dataclass
class Shown:
    """A photo. verdict: FAKE, UNSURE, REAL, NO FACE or UNREADABLE; headline: the one answer for it; score: its highest,
    by which tables are sorted; thumb, picture: JPEG bytes; details: its faces, FAKE first, where it is in full."""

    file: str
    verdict: str
    headline: str
    number: int
    rows: Sequence[Mapping]
    score: float = -1.0
    thumb: bytes | None = None
    faces: int = 0
    picture: bytes | None = None
    details: Sequence[Face] = ()

    @property
    def pictures(self) -> list[bytes]:
        """Of those shown in full, all bytes."""
        own = [self.picture] if self.picture is not None else []
        return own + [data for face in self.details for _, data in face.maps]


def page(
    full: Sequence[Shown],
    table: Sequence[Shown],
    document: Mapping,
    about: Mapping,
    *,
    count: int,
    csv: str = "",
    data: str = "",
) -> str:
    """full: the photos shown in full; table: those in the table, in their order; document: of `detect.py --json`;
    about: facts by name; count: of all photos, of which the table may have fewer."""
    one = table[0] if count == 1 else None
    title = f"{one_line(one.file)}: {one.headline}" if one else f"{count} photos and videos"
    parts = [_head(one, table, document, about, count)]
    if not one:
        parts.append(_table(table, count, csv))
    if full:
        heading = "" if one else f"<h2>{'All' if len(full) == count else f'{len(full)} of them'} in full</h2>"
        parts += [heading, *(_photo(shown, alone=one is not None) for shown in full)]
        parts.append(LEGEND if any(shown.pictures for shown in full) else "")
    parts += [_measured(document), _limits(document), _made(document, about, csv if not one else "", data)]
    script = "" if one else f"<script>{SCRIPT}</script>"
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    allowed = "" if one else f"; script-src 'sha256-{digest}'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:;'
        f" style-src 'unsafe-inline'{allowed}\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + f"\n</main>\n{script}\n</body>\n</html>\n"
    )


def _text(value: object) -> str:
    """Escaped, on one line, with nothing that turns the direction of writing."""
    return html.escape(one_line(value))


def _image(data: bytes, alt: str, kind: str = "") -> str:
    name = f' class="{kind}"' if kind else ""
    return f'<img{name} src="data:image/jpeg;base64,{base64.b64encode(data).decode("ascii")}" alt="{_text(alt)}">'


def _class(verdict: str) -> str:
    return verdict.lower().replace(" ", "")


def _head(one: Shown | None, table: Sequence[Shown], document: Mapping, about: Mapping, count: int) -> str:
    date = _text(about.get("date", ""))
    if one is not None:
        return (
            f'<header><p class="kind">Is this face generated? · {date}</p><h1 dir="auto">{_text(one.file)}</h1>'
            f'<p class="answer {_class(one.verdict)}">{_text(one.headline)}</p></header>'
        )
    totals = {kind: sum(shown.verdict == kind for shown in table) for kind in COUNTS}
    said = " · ".join(f'<span class="{_class(kind)}">{counted(n, kind)}</span>' for kind, n in totals.items() if n)
    cut = "" if len(table) == count else f" (of the {len(table)} in the table)"
    stopped = "" if not document.get("summary", {}).get("interrupted") else " It was stopped before the end."
    return (
        f'<header><p class="kind">Are these faces generated? · {date}</p><h1>{count} photos and videos</h1>'
        f'<p class="answer small">{said}{cut}</p>{f"<p>{stopped}</p>" if stopped else ""}</header>'
    )


def _table(table: Sequence[Shown], count: int, csv: str) -> str:
    """Sortable by a small script; without one it is in the order of the files."""
    place = {
        id(s): k for k, s in enumerate(sorted(table, key=lambda s: (list(COUNTS)[::-1].index(s.verdict), s.score)))
    }
    lines = []
    for shown in table:
        note = _note(shown)
        cells = [
            f'<td data-v="{shown.number}">{shown.number}</td>',
            f"<td>{_image(shown.thumb, '', 'thumb') if shown.thumb else ''}</td>",
            f'<th scope="row" dir="auto">{_text(shown.file)}</th>',
            f'<td data-v="{place[id(shown)]}" class="{_class(shown.verdict)}">{_text(shown.headline)}</td>',
            f"<td>{shown.faces or ''}</td>",
            f'<td class="note">{_text(note)}</td>',
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    heads = [("no.", 1), ("", 0), ("file", 1), ("answer", 1), ("faces", 1), ("note", 1)]
    head = "".join(
        f'<th scope="col">{f"<button type=button>{name}</button>" if sorts else ""}</th>' for name, sorts in heads
    )
    cut = ""
    if len(table) < count:
        cut = f"<p>The {len(table)} of {count} photos that look most generated are shown; {_text(csv)} has all.</p>"
    return (
        f'<section><h2>All of them</h2>{cut}<div class="scroll"><table class="sort"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div></section>"
    )


def _note(shown: Shown) -> str:
    """What is to be said in one cell: an error, a reason, a note."""
    notes = [text for row in shown.rows for text in (row.get("error"), row.get("reason"), _beyond(row)) if text]
    return "; ".join(dict.fromkeys(map(str, notes)))


def _beyond(row: Mapping) -> str:
    """What the note says besides the reason, which is told by itself."""
    note, reason = str(row.get("note") or ""), str(row.get("reason") or "")
    if not reason or reason not in note:
        return note
    return "; ".join(filter(None, note.replace(reason, "", 1).split("; ")))


def _photo(shown: Shown, *, alone: bool) -> str:
    heading = "" if alone else (
        f'<h3 dir="auto">{_text(shown.file)}</h3>'
        f'<p class="answer small {_class(shown.verdict)}">{_text(shown.headline)}</p>'
    )  # fmt: skip
    picture = f"<figure>{_image(shown.picture, 'the photo, its faces marked')}</figure>" if shown.picture else ""
    rows = [face.row for face in shown.details] or list(shown.rows)
    several = sum("verdict" in row for row in rows) > 1
    told: set[str] = set()
    words = "".join(_words(row, several, told) for row in rows)
    maps = "".join(_maps(face, several) for face in shown.details)
    left_out = ""
    if not shown.details and any("verdict" in row for row in rows):
        left_out = '<p class="soft">Its pictures were left out to keep the report small.</p>'
    more = _more(rows, several, "h2" if alone else "h4")
    return (
        f'<article>{heading}<div class="pair">{picture}<div>{words}{left_out}</div></div>'
        f'<div class="faces">{maps}</div>{more}</article>'
    )


def _words(row: Mapping, several: bool, told: set[str]) -> str:
    """A face's answer and what is to be said of it, but not what was `told` of another face already."""
    verdict = row.get("verdict", "NO FACE" if row.get("status") == "no face" else "UNREADABLE")
    number = f"face {row['face']['index']}: " if several and row.get("face") else ""
    said = [f'<p class="said {_class(verdict)}"><strong>{number}{_text(row.get("headline", verdict))}</strong></p>']
    for text in (row.get("says"), row.get("error")):
        if text and text not in told:
            told.add(text)
            said.append(f"<p>{_text(text)}</p>")
    if note := _beyond(row):
        said.append(f'<p class="soft">Note: {_text(note)}.</p>')
    return "".join(said)


def _maps(face: Face, several: bool) -> str:
    if not face.maps:
        return ""
    which = f"face {face.row['face']['index']}: " if several and face.row.get("face") else ""
    figures = "".join(
        f"<figure>{_image(data, f'{which}{caption}')}<figcaption>{_text(which + caption)}</figcaption></figure>"
        for caption, data in face.maps
    )
    return f'<div class="maps">{figures}</div>'


def _more(rows: Sequence[Mapping], several: bool, level: str) -> str:
    """Of each face whether its answer would survive, and what the file tells, where they were asked for, under headings
    of `level`: one below what stands above."""
    parts = []
    for row in rows:
        which = f" (face {row['face']['index']})" if several and row.get("face") else ""
        if row.get("stability"):
            parts.append(f"<{level}>Would the answer survive{which}</{level}>{_survival(row['stability'])}")
    for row in rows:
        if row.get("evidence"):
            parts.append(
                f"<{level}>What else the file tells</{level}><p class=soft>Kept apart from the answer above, which"
                f" it does not change.</p>{_facts(row['evidence'])}"
            )
    return "".join(parts)


def _survival(told: Mapping) -> str:
    """The outcome in words, the curve, each version's answer: no number that the verdict itself would not say."""
    said = f"<p>{_text(str(told['outcome']).capitalize())}: {_text(told['reason'])}.</p>"
    if not told["points"]:
        return said
    rows = [
        {"version": p["version"], "answer": HEADLINES[p["verdict"]],
         "score": score_of(p["probability"], told["unsure_low"])} | ({"why": p["doubt"]} if p.get("doubt") else {})
        for p in told["points"]
    ]  # fmt: skip
    return f'{said}<figure class="curve">{curve_svg(dict(told), inline=True)}</figure>{_facts(rows)}'


def _facts(value: object) -> str:
    """Lists of mappings as a table, a mapping as pairs, all else as text."""
    if isinstance(value, Mapping):
        rows = "".join(
            f"<tr><th scope=row>{_text(COLUMNS.get(str(k), str(k).replace('_', ' ')))}</th><td>{_facts(v)}</td></tr>"
            for k, v in value.items()
            if k not in HIDDEN
        )
        return f'<div class="scroll"><table class="pairs">{rows}</table></div>'
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if not value or not all(isinstance(row, Mapping) for row in value):
            return ", ".join(_facts(x) for x in value)
        names = [n for n in dict.fromkeys(str(k) for row in value for k in row) if n not in HIDDEN]
        head = "".join(f"<th scope=col>{_text(COLUMNS.get(n, n.replace('_', ' ')))}</th>" for n in names)
        body = "".join(
            f"<tr>{''.join(f'<td>{_facts(row[n])}</td>' if n in row else '<td></td>' for n in names)}</tr>"
            for row in value
        )
        return (
            f'<div class="scroll"><table class="rows"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        )
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else _text(value)


def _measured(document: Mapping) -> str:
    lines = document.get("measured", {}).get("lines", ())
    if not lines:
        return ""
    return (
        "<section><h2>What this detector was measured to find</h2><ul>"
        + "".join(f"<li>{_text(line[:1].upper() + line[1:])}.</li>" for line in lines)
        + "</ul></section>"
    )


def _limits(document: Mapping) -> str:
    more = [document["detector"]["caution"]] if document.get("detector", {}).get("caution") else []
    items = "".join(f"<li>{_text(line)}</li>" for line in [*more, *LIMITS])
    return f'<section class="limits"><h2>What it does not say</h2><ul>{items}</ul></section>'


def _made(document: Mapping, about: Mapping, csv: str, data: str) -> str:
    detector, faces = document.get("detector", {}), document.get("faces", {})
    rows = {
        "made on": about.get("date"),
        "by": about.get("tool"),
        "SHA-256 of the program's files": about.get("tool_sha256"),
        "detector": detector.get("file"),
        "SHA-256 of the detector": detector.get("sha256"),
        "SHA-256 of its ONNX form": detector.get("onnx_sha256"),
        "threshold": about.get("threshold"),
        "faces found by": faces.get("finder"),
        "computed by": about.get("versions"),
        "to repeat it": about.get("command"),
        "beside this page": ", ".join(name for name in (data, csv) if name),
    }
    lines = "".join(f"<tr><th scope=row>{_text(k)}</th><td>{_text(v)}</td></tr>" for k, v in rows.items() if v)
    return f'<section class="made"><h2>How it was made</h2><table class="pairs">{lines}</table></section>'


LEGEND = (
    '<p class="soft">In the photo: FAKE has a thick orange-red box, UNSURE a dashed yellow one, REAL a thin blue one.'
    " In maps orange speaks for generated, blue for photographed, pale nothing. A map says where, not how much.</p>"
)
SCRIPT = """
for (const table of document.querySelectorAll("table.sort")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const up = head.ariaSort !== "ascending";
    const value = (row) => { const c = row.cells[column]; return c.dataset.v ?? c.textContent; };
    const rows = [...body.rows].sort((a, b) => value(a).localeCompare(value(b), undefined, { numeric: true }));
    body.append(...(up ? rows : rows.reverse()));
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
  }));
}
"""
STYLE = """
:root{--ink:#1d1c1a;--soft:#5c5952;--line:#d9d5cc;--fake:#a33b00;--real:#005b8f;--unsure:#5b5200;--none:#5d5d5d}
*{box-sizing:border-box}
body{margin:0;background:#fff;color:var(--ink);font:16px/1.45 system-ui,-apple-system,Roboto,Arial,sans-serif}
main{max-width:900px;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:1.35rem;margin:.1rem 0;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:1.6rem 0 .4rem}h3{font-size:1rem;margin:0;overflow-wrap:anywhere}h4{margin:1rem 0 .2rem}
p{margin:.35rem 0}ul{margin:.3rem 0;padding-left:1.2rem}
.kind,.soft,.note,figcaption{color:var(--soft);font-size:.85rem}
.answer{font-size:1.7rem;font-weight:700;margin:.3rem 0 .8rem}.answer.small{font-size:1.15rem}
.fake{color:var(--fake)}.real{color:var(--real)}.unsure{color:var(--unsure)}.noface,.unreadable{color:var(--none)}
.said{border-left:.35rem solid;padding-left:.6rem;margin-top:.9rem}.said:first-child{margin-top:0}
article{border-top:1px solid var(--line);padding:1rem 0}
.pair{display:grid;grid-template-columns:minmax(0,5fr) minmax(0,6fr);gap:.4rem 1.2rem;align-items:start}
article>.answer{margin:0 0 .5rem}
figure{margin:0}.curve svg{max-width:100%;height:auto}img{display:block;max-width:100%;height:auto;border-radius:4px}
.faces{display:flex;flex-wrap:wrap;gap:.9rem 1.6rem;margin:.9rem 0}.faces:empty{display:none}
.maps{display:flex;flex-wrap:wrap;gap:.6rem}.maps figure{width:12.4rem}
.maps img{width:100%}figcaption{margin-top:.2rem}
.thumb{max-width:72px;max-height:72px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.88rem}
td,th{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top;
font-weight:400}
thead th,.pairs th{color:var(--soft)}td,tbody th{overflow-wrap:anywhere}
.sort{width:100%}.sort tbody th{max-width:20rem}.sort .note{min-width:11rem;max-width:16rem}
.sort td:nth-child(4){font-weight:600}
.pairs th{white-space:nowrap}.made td{overflow-wrap:anywhere;font-size:.82rem}
.rows td:nth-child(-n+2){overflow-wrap:normal}
th button{font:inherit;color:inherit;background:none;border:0;padding:.2rem 0;cursor:pointer;text-decoration:underline}
th[aria-sort=ascending] button::after{content:" \\2191"}th[aria-sort=descending] button::after{content:" \\2193"}
th button:focus-visible{outline:3px solid var(--real)}
.limits{border-left:.35rem solid #d9a400;padding-left:.8rem}.limits h2{margin-top:0}.limits{margin-top:1.4rem}
@media (max-width:34rem){.pair{grid-template-columns:1fr}.pairs th{white-space:normal}}
@page{margin:14mm}
@media print{
body{font-size:10.5pt;print-color-adjust:exact;-webkit-print-color-adjust:exact}main{max-width:none;padding:0}
figure,.said,tr,.maps,.pair,.limits{break-inside:avoid}h2,h3,h4,.answer{break-after:avoid}
thead{display:table-header-group}th button{text-decoration:none}.scroll{overflow:visible}
.pair img{max-height:95mm}.maps figure{width:40mm}.faces{gap:4mm 7mm}.maps{gap:2mm}
}
"""
