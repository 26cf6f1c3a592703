"""What `benchmarks/gpu_check.py` found, as tables: of docs/performance.md, and of one page."""

from __future__ import annotations

import html
import re
from typing import Any

BEGIN, END = "<!-- gpu-check: begin -->", "<!-- gpu-check: end -->"
UNMEASURED = "Nothing of this has been measured yet."

Cell = tuple[str, str, str]  # key of a row, its field, format
Table = tuple[list[str], list[tuple[str, list[Cell | None]]]]


def _train(what: str, field: str, form: str, cfgs: tuple[str, ...] = ("auto/128", "auto/256", "paper256/256")) -> list:
    return [(f"train/{cfg}/{what}", field, form) for cfg in cfgs]


def _ops(what: str, direction: str, dtype: str, field: str = "percent_of_copy", form: str = "{:.0f} %") -> list:
    return [(f"ops/{what}/{size}/{dtype}/{direction}", field, form) for size in (64, 256)]


TABLES: list[Table] = [
    (
        ["training, seconds per kimg", "auto, 128 px", "auto, 256 px", "paper256, 256 px"],
        [
            ("native, fp16", _train("fp16", "sec_per_kimg", "{:.1f}")),
            ("native, bf16", _train("bf16", "sec_per_kimg", "{:.1f}")),
            ("native, bf16, with the verdict head", [None, ("train/auto/256/verdict", "sec_per_kimg", "{:.1f}"), None]),
            ("PyTorch's operations, bf16", [*_train("torch", "sec_per_kimg", "{:.1f}")[:2], None]),
            ("reference path, fp32", [*_train("reference", "sec_per_kimg", "{:.1f}")[:2], None]),
            ("CUDA graphs", _train("graphs", "sec_per_kimg", "{:.1f}")),
            ("images a step", _train("bf16", "batch", "{}")),
            ("memory, fp16, GB", _train("fp16", "peak_gb", "{:.2f}")),
            ("memory, bf16, GB", _train("bf16", "peak_gb", "{:.2f}")),
            ("memory, reference, GB", [*_train("reference", "peak_gb", "{:.2f}")[:2], None]),
        ],
    ),
    (
        ["samples, images a second", "256 px", "1024 px"],
        [
            (name, [(f"sampling/{size}/{way}", field, form) for size in (256, 1024)])
            for name, way, field, form in (
                ("native, fp16", "fp16", "images_per_second", "{:.0f}"),
                ("native, bf16", "bf16", "images_per_second", "{:.0f}"),
                ("fp16, replayed as a CUDA graph", "graphs", "images_per_second", "{:.0f}"),
                ("reference path", "reference", "images_per_second", "{:.0f}"),
                ("memory, GB", "memory", "peak_gb", "{:.2f}"),
            )
        ],
    ),
    (
        ["operations in fp16, of a copy's speed", "64 px", "256 px"],
        [
            (f"{name}, {way}", _ops(what, way, "float16"))
            for name, what in (
                ("bias and activation", "bias_act/bias, lrelu, gain, clamp"),
                ("doubling the image (fp32)", "upfirdn2d/doubling the image"),
            )
            for way in ("forward", "backward")
            if "fp32" not in name
        ]
        + [
            (f"doubling the image (fp32), {way}", _ops("upfirdn2d/doubling the image", way, "float32"))
            for way in ("forward", "backward")
        ]
        + [
            (
                f"modulated 3x3 convolution, {way}, TFLOP/s",
                _ops("modulated_conv2d/3x3", way, "float16", "tflop_s", "{:.1f}"),
            )
            for way in ("forward", "backward")
        ],
    ),
    (
        ["metrics", ""],
        [
            ("Inception features, images a second", [("fid/features", "images_per_second", "{:.0f}")]),
            ("FID of two times 5000 vectors, on the CPU, s", [("fid/distance", "seconds", "{:.2f}")]),
            ("MIND of the same, on the GPU, s", [("fid/mind", "seconds", "{:.3f}")]),
        ],
    ),
    (
        ["checks", ""],
        [
            ("operations wrong, of those checked", [("operations", "wrong_of", "{}")]),
            ("gpu tests passed", [("tests", "passed", "{}")]),
            ("gpu tests failed", [("tests", "failed", "{}")]),
            *(
                (f"compute-sanitizer {tool}, errors", [(f"sanitizer/{tool}", "errors", "{}")])
                for tool in ("memcheck", "racecheck", "initcheck", "synccheck")
            ),
        ],
    ),
]


def rows_of(results: dict) -> dict[str, dict]:
    """key -> row of all stages, with what tables derive from rows."""
    found = {row["key"]: dict(row) for stage in results.get("stages", {}).values() for row in stage.get("rows", [])}
    for row in found.values():
        if "gflop_s" in row:
            row["tflop_s"] = row["gflop_s"] / 1000
    if "operations" in found:
        found["operations"]["wrong_of"] = "{wrong} of {checked}".format(**found["operations"])
    if "passed" in (tests := found.get("tests", {})):
        tests["failed"] = tests.get("failed", 0) + tests.get("error", 0)
    return found


def cell(rows: dict[str, dict], place: Cell | None) -> str:
    """A number, «n/a» where there can be none, empty where it was not measured."""
    if place is None:
        return "–"
    key, field, form = place
    row = rows.get(key) or rows.get(key.split("/")[0], {})
    if "none" in row:
        return "n/a"
    return form.format(row[field]) if field in row else ""


def machine(results: dict) -> str:
    """What it was measured on, in a sentence."""
    told = rows_of(results).get("machine")
    if told is None:
        return UNMEASURED
    gpu = f"{told['gpu']} ({told.get('gpu_gb', '?')} GB)" if told.get("gpu") else "no GPU"
    dry = " A dry run at tiny sizes: the numbers say nothing." if results.get("settings", {}).get("tiny") else ""
    return f"Measured on {gpu}, PyTorch {told['torch']}, Python {told['python']}, {told['processor']}.{dry}"


def markdown(results: dict) -> str:
    """The block of docs/performance.md; of {} with empty cells."""
    rows, lines = rows_of(results), [machine(results)]
    for head, body in TABLES:
        lines += ["", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        lines += [f"| {name} | {' | '.join(cell(rows, place) for place in places)} |" for name, places in body]
    return "\n".join(lines)


def filled(document: str, results: dict) -> str:
    """`document` with the block between the marks made anew. ValueError without the marks."""
    if document.count(BEGIN) != 1 or document.count(END) != 1:
        raise ValueError("the marks of gpu-check are not in it")
    before, rest = document.split(BEGIN)
    return f"{before}{BEGIN}\n{markdown(results)}\n{END}{rest.split(END)[1]}"


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color-scheme:light dark}"
    "table{border-collapse:collapse;margin:1em 0}"
    "td,th{border-bottom:1px solid #8886;padding:.2em .8em;text-align:right}"
    "td:first-child,th:first-child{text-align:left}pre{overflow:auto;background:#8882;padding:.6em}"
)


def page(results: dict) -> str:
    """Everything as one HTML file: how the stages went, the tables, every row, and the last lines of what failed."""
    rows, esc = rows_of(results), html.escape
    parts = [f"<h1>GPU check</h1><p>{esc(machine(results))} {esc(results.get('when', ''))}</p>"]
    stages = [
        [name, stage["what"], stage["state"], f"{stage['seconds']:.0f} of {stage['limit']:.0f} s"]
        for name, stage in results.get("stages", {}).items()
    ]
    parts.append(_table(["stage", "what", "how it went", "time"], stages))
    for head, body in TABLES:
        parts.append(_table(head, [[name, *(cell(rows, place) for place in places)] for name, places in body]))
    for name, stage in results.get("stages", {}).items():
        parts.append(f"<h2>{esc(name)}</h2>")
        if stage.get("log"):
            parts.append(f"<pre>{esc(stage['log'])}</pre>")
        for row in stage.get("rows", []):
            told = ", ".join(f"{k} {_short(v)}" for k, v in row.items() if k not in ("key", "last_lines"))
            parts.append(f"<p><b>{esc(row['key'])}</b>: {esc(told)}</p>")
            if row.get("last_lines"):
                parts.append(f"<pre>{esc(chr(10).join(row['last_lines']))}</pre>")
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>GPU check</title><style>{_STYLE}</style>'
    return head + "\n".join(parts) + "</html>\n"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, *rows]
    kinds = ["th", *["td"] * len(rows)]
    body = ("".join(f"<{kind}>{html.escape(text)}</{kind}>" for text in line) for kind, line in zip(kinds, lines))
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in body) + "</table>"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k} {_short(v)}" for k, v in value.items()) + ")"
    return re.sub(r"\s+", " ", str(value))
