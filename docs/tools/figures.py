#!/usr/bin/env python3
"""Writes the numbers and sample outputs of the documents from what the measurements left.

    python docs/tools/figures.py            writes every marked part anew
    python docs/tools/figures.py --check    writes nothing; exit code 1 and the parts' names where a document differs

A part stands between `<!-- numbers: NAME -->` and `<!-- /numbers -->`; PARTS says what each name is made of:
models/detector.measured.json (counts on undegraded images, made by benchmarks/measured.py), the detector's header
(threshold) and files (sizes, SHA-256), docs/numbers/judged.json (AUC and re-saved images, from `evaluate.py detector
--json`) and samples.json (both recorded by docs/tools/record.py), docs/numbers/sets.json (what the documents call the
sets, and what older detectors did).
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from common.files import sha256_of, write_text  # noqa: E402
from metrics.bootstrap import binomial_interval  # noqa: E402

NUMBERS = ROOT / "docs" / "numbers"
DETECTOR = ROOT / "models" / "detector.safetensors"
ONNX = DETECTOR.with_suffix(".onnx")
MEASURED = DETECTOR.with_suffix(".measured.json")
MARKED = re.compile(r"<!-- numbers: ([\w-]+) -->\n(.*?)<!-- /numbers -->", re.DOTALL)
WIDTH = 110  # of a line of a sample output
SHOWN = 7  # lines of the sample output in README.md
TEXT = 130  # of a line of text
CONDITIONS = ("clean", "web", "hard")
CAREFUL = 0.005  # the false-alarm rate of the threshold that the card names besides the shipped one


def documents() -> list[Path]:
    """Every document that may have marked parts."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


# ---- what the numbers come from --------------------------------------------------------------------------------------


@cache
def told_in(name: str) -> dict[str, Any]:
    """A file of docs/numbers."""
    return json.loads((NUMBERS / f"{name}.json").read_text(encoding="utf-8"))


@cache
def measured() -> dict[str, Any]:
    return json.loads(MEASURED.read_text(encoding="utf-8"))


@cache
def calibration() -> dict[str, Any]:
    """Of the shipped detector, as its file's header says it."""
    with DETECTOR.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return json.loads(header["__metadata__"]["detector"])["calibration"]


def operating_point() -> dict[str, Any]:
    """The point that judges where no other is asked for."""
    default = calibration()["default_fpr"]
    return next(point for point in calibration()["points"] if point["target_fpr"] == default)


def sets() -> list[dict[str, Any]]:
    return told_in("sets")["sets"]


def counts(one: dict[str, Any], condition: str = "clean", fpr: float | None = None) -> dict[str, int]:
    """What was counted in a set: `photos` and the `false_alarms` among them, `fakes` and the `found` among them, each
    where the set has such images; {} where it was not measured so. fpr: of another threshold than the shipped one."""
    out: dict[str, int] = {}
    if condition != "clean":
        for kind, called, total in (("photos", "false_alarms", "of_photos"), ("fakes", "found", "of_fakes")):
            row = told_in("judged")["sources"].get(one["judged"], {}).get(condition, {})
            if called in row:
                out |= {kind: row[total], called: row[called]}
        return out
    at = f"{calibration()['default_fpr'] if fpr is None else fpr:g}"
    for row in measured()["sets"]:
        if row["name"] == one["measured"]:
            kind, called = ("photos", "false_alarms") if row["role"] == "photos" else ("fakes", "found")
            out |= {kind: row["of"], called: row["called"][at]}
    return out


def ranked(one: dict[str, Any], condition: str = "clean") -> float | None:
    """The set's AUC, None where it was not measured."""
    return told_in("judged")["sources"].get(one["judged"], {}).get(condition, {}).get("auc")


# ---- how they are written --------------------------------------------------------------------------------------------


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def rate(k: int | None, n: int | None, *, bold: bool = False) -> str:
    """`96.6 % (94.6 to 98.0)`; nothing where nothing was measured."""
    if k is None or not n:
        return ""
    lower, upper = binomial_interval(k, n)
    share = f"{percent(k / n)} %"
    return f"{f'**{share}**' if bold else share} ({percent(lower)} to {percent(upper)})"


def plain_rate(k: int | None, n: int | None) -> str:
    return "" if k is None or not n else f"{percent(k / n)} %"


def auc(value: float | None) -> str:
    if value is None:
        return ""
    digits = 3 if value == 1 or value < 0.9995 else 4  # 1.000 would say that nothing is out of order
    return f"{value:.{digits}f}".lstrip("0")


def balanced(c: dict[str, int]) -> str:
    """(found + photos left alone) / 2 of shares."""
    return f"{percent((c['found'] / c['fakes'] + 1 - c['false_alarms'] / c['photos']) / 2)} %"


def wrapped(text: str) -> str:
    return textwrap.fill(text, TEXT, break_long_words=False, break_on_hyphens=False) + "\n"


def threshold() -> str:
    return f"{operating_point()['threshold']:.3f}".lstrip("0")


def table(head: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str]) -> str:
        return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|\n"

    return line(head) + "|---" * len(head) + "|\n" + "".join(map(line, rows))


def ends(role: str, key: str, over: str, condition: str = "clean") -> tuple[str, str]:
    """The lowest and highest percentage of `key` over the sets of a role ("all": of every one)."""
    told = [counts(each, condition) for each in sets() if role in ("all", each["role"])]
    shares = [100 * c[key] / c[over] for c in told if key in c]
    return f"{min(shares):.2g}", f"{max(shares):.2g}"


# ---- the parts -------------------------------------------------------------------------------------------------------


def results_table() -> str:
    """README.md: what is found and who is accused, a row for each set."""
    point, rows = operating_point(), []
    for each in sets():
        c = counts(each)
        rows.append(
            [each["name"].partition(", AUC")[0], rate(c.get("found"), c.get("fakes"), bold=True)]
            + [rate(c.get("false_alarms"), c.get("photos"))]
        )
    head = ["set", "fakes found", "photos called FAKE"]
    return table(head, rows) + (
        f"\nAt the shipped threshold ({threshold()}), set for {100 * point['target_fpr']:g} % false alarms;"
        " 95 % intervals.\n"
    )


def card_table() -> str:
    """MODEL_CARD.md: the same, with counts of images and the detector before."""
    rows = []
    for each in sets():
        c = counts(each)
        size = " + ".join(str(c[side]) for side in ("photos", "fakes") if side in c)
        rows.append(
            [f"{each['name']} ({size})", auc(ranked(each)), rate(c.get("false_alarms"), c.get("photos"))]
            + [rate(c.get("found"), c.get("fakes"), bold=True)]
            + [plain_rate(each["before"].get("found"), c.get("fakes"))]
        )
    before = told_in("sets")["before"]
    text = wrapped(f"«Before» is {before}. No verdict (UNSURE): {', '.join(undecided())}.")
    return table(["set", "AUC", "false alarms", "fakes found", "before"], rows) + "\n" + text


def undecided() -> list[str]:
    """How many of a set's images got UNSURE, at the shipped threshold."""
    at = f"{calibration()['default_fpr']:g}"
    out = []
    for each in sets():
        rows = [row for row in measured()["sets"] if row["name"] == each["measured"]]
        kinds = [
            f"{row['unsure'][at]} of {row['of']} {'photos' if row['role'] == 'photos' else 'fakes'}" for row in rows
        ]
        out.append(f"{each['short']} {' and '.join(kinds)}")
    return out


def card_summary() -> str:
    low, high = ends("others", "found", "fakes")
    worst, best = ends("others", "found", "fakes", "hard")
    return wrapped(
        "It knows the kind of fakes it was taught on, also after they were re-saved, and seldom accuses a photo. Of"
        f" generators it has never seen it finds {low} to {high} % of the faces, {worst} to {best} % after strong"
        " re-saving of 256 px files. All of it is measured below."
    )


def card_threshold() -> str:
    point = operating_point()
    return wrapped(
        f"95 % intervals. The shipped threshold, {threshold()}, is the one for {100 * point['target_fpr']:g} % false"
        " alarms, set on validation photos."
    )


def card_careful() -> str:
    """MODEL_CARD.md: the same sets at the threshold for fewer false alarms."""
    found, accused = [], []
    for each in sets():
        c = counts(each, fpr=CAREFUL)
        if "found" in c:
            found.append(f"{plain_rate(c['found'], c['fakes'])} of {each['short']}")
        if "false_alarms" in c:
            accused.append(f"{plain_rate(c['false_alarms'], c['photos'])} ({each['short']})")
    return wrapped(
        f"At the threshold for {100 * CAREFUL:g} %: found are {', '.join(found)}; accused are {', '.join(accused)}."
    )


def card_files() -> str:
    return wrapped(
        f"`models/detector.safetensors` ({DETECTOR.stat().st_size / 1e6:.1f} MB; SHA-256 `{sha256_of(DETECTOR)}`) and"
        f" the same network for ONNX Runtime, `models/detector.onnx` ({ONNX.stat().st_size / 1e6:.1f} MB; SHA-256"
        f" `{sha256_of(ONNX)}`)."
    )


def card_resaved() -> str:
    rows = []
    for each in sets():
        c = [counts(each, condition) for condition in CONDITIONS]
        if not all(c):
            continue
        name = each["short"]
        if each["role"] == "own":
            rows.append([name, "balanced accuracy", *map(balanced, c)])
            name = ""
        for what, over, words in (("found", "fakes", "fakes found"), ("false_alarms", "photos", "false alarms")):
            if what in c[0]:
                rows.append([name, words, *(plain_rate(one[what], one[over]) for one in c)])
                name = ""
    return table(["", "", *CONDITIONS], rows)


def conditions_table() -> str:
    """docs/results.md: the set of its own kind, clean and saved again."""
    one, rows = sets()[0], []
    for condition in CONDITIONS:
        c = counts(one, condition)
        alone = c | one["alone"][condition]
        rows.append(
            [condition, balanced(c), rate(c["false_alarms"], c["photos"]), rate(c["found"], c["fakes"])]
            + [auc(ranked(one, condition)), f"{balanced(alone)}, {plain_rate(alone['found'], alone['fakes'])}"]
        )
    alone_is = f"{told_in('sets')['alone']}: balanced, found"
    return table(["", "balanced accuracy", "false alarms", "fakes found", "AUC", alone_is], rows)


def unseen() -> str:
    """docs/results.md: what it finds of other generators, whom it accuses."""
    found, accused = [], []
    for each in sets():
        c = counts(each)
        if each["role"] == "others":
            more = [f"AUC {auc(ranked(each))}"] if ranked(each) is not None else []
            if old := each.get("alone"):
                more.append(f"{told_in('sets')['alone']} {plain_rate(old['clean']['found'], c['fakes'])}")
            found.append(f"{plain_rate(c['found'], c['fakes'])} of {each['short']} ({'; '.join(more)})")
        if each["role"] != "own" and "false_alarms" in c:
            accused.append(f"{c['false_alarms']} of {c['photos']} ({each['short']})")
    return wrapped(
        f"Of generators it was not taught on it finds {', '.join(found)}. Photos that it accuses: {', '.join(accused)}."
    )


def times() -> str:
    c = told_in("sets")["commands"]
    return (
        "```bash\n"
        f"make demo   # {c['demo_minutes']} minutes: trains both networks on drawn faces, samples, judges; prints a"
        " report's path\n"
        f"make test   # {c['test_minutes']} minutes: lint and the whole default test suite\n"
        "python3 bootstrap.py demo   # without make\n"
        "```\n\n"
        f"Times on {c['machine']}.\n"
    )


def sample(name: str, most: int | None = None) -> str:
    """What was printed, `most` lines of it; long lines are cut where a page would cut them, too."""
    lines = told_in("samples")["samples"][name]["output"]
    lines = [*lines[:most], "…"] if most is not None and len(lines) > most else lines
    return "```\n" + "".join(line[:WIDTH] + (" …" if len(line) > WIDTH else "") + "\n" for line in lines) + "```\n"


def short(value: Any, places: int = 4) -> Any:
    """Numbers of a document as a reader wants them: four places, none of the machine's seconds to the nanosecond."""
    if isinstance(value, float):
        return round(value, places)
    if isinstance(value, dict):
        return {key: short(each, places) for key, each in value.items()}
    return [short(each, places) for each in value] if isinstance(value, list) else value


def sample_entry() -> str:
    """docs/detecting.md: an entry of the JSON, a line for every few fields."""
    entry = short(told_in("samples")["samples"]["photos"]["json"]["results"][-1])
    entry["face"]["landmarks"] = [["…", "…"]] * len(entry["face"]["landmarks"])
    return _json_block(entry)


def sample_document() -> str:
    """docs/serving.md: the whole answer, its longest parts shortened."""
    told = short(told_in("samples")["samples"]["photos"]["json"])
    for name in ("sha256", "onnx_sha256"):
        told["detector"][name] = told["detector"][name][:6] + "…"
    for name in ("file", "onnx"):
        told["detector"][name] = told["detector"][name].rpartition("/")[2]
    point = told["operating_point"]
    told["operating_point"] = {key: point[key] for key in ("target_fpr", "threshold", "unsure_low", "fpr")} | {"…": 0}
    told["measured"] = {"says": told["measured"]["says"], "…": 0}
    kept = ("file", "status", "headline", "verdict", "probability", "threshold")
    told["results"] = [{key: each[key] for key in kept} | {"…": 0} for each in told["results"]]
    told["summary"] = {key: told["summary"][key] for key in ("real", "fake", "unsure", "files")} | {"…": 0}
    return _json_block(told)


def _json_block(told: dict[str, Any]) -> str:
    """A JSON document in lines of at most WIDTH where its values allow that."""
    lines, line = [], "{"
    items = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in told.items()]
    for at, item in enumerate(items):
        item += "," if at < len(items) - 1 else "}"
        if len(line) > 1 and len(line) + 1 + len(item) > WIDTH:
            lines.append(line)
            line = ""
        line += ("" if line == "{" else " ") + item
    return "```json\n" + "\n".join([*lines, line]) + "\n```\n"


PARTS: dict[str, Callable[[], str]] = {
    "results": results_table,
    "times": times,
    "card-files": card_files,
    "card-summary": card_summary,
    "card-threshold": card_threshold,
    "card-results": card_table,
    "card-careful": card_careful,
    "card-resaved": card_resaved,
    "results-conditions": conditions_table,
    "results-unseen": unseen,
    "sample-entry": sample_entry,
    "sample-document": sample_document,
    "sample-photos": lambda: sample("photos", SHOWN),
    "sample-mixed": lambda: sample("mixed"),
}


# ---- writing and checking --------------------------------------------------------------------------------------------


def renewed(text: str, where: str) -> tuple[str, list[str]]:
    """(the document with every part as it must be, names of the parts that differed)"""
    differ = []

    def part(found: re.Match[str]) -> str:
        name = found[1]
        if name not in PARTS:
            sys.exit(f"error: {where}: there is no part {name}; docs/tools/figures.py has {', '.join(PARTS)}")
        made = PARTS[name]()
        if made != found[2]:
            differ.append(name)
        return f"<!-- numbers: {name} -->\n{made}<!-- /numbers -->"

    return MARKED.sub(part, text), differ


def main(words: list[str]) -> int:
    check = words == ["--check"]
    if words and not check:
        print(__doc__)
        return 2
    drifted = 0
    for document in documents():
        text = document.read_text(encoding="utf-8")
        made, differ = renewed(text, document.name)
        drifted += len(differ)
        if differ and not check:
            write_text(document, made)
        if differ:
            print(f"{document.relative_to(ROOT)}: {'differs in' if check else 'wrote'} {', '.join(differ)}")
    if not check:
        print(f"{drifted} parts changed")
    elif drifted:
        print("Next: python docs/tools/figures.py")
    return int(check and drifted > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
