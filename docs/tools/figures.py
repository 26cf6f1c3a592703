#!/usr/bin/env python3
"""Writes the numbers and sample outputs of the documents from what the measurements left.

    python docs/tools/figures.py            writes every marked part anew
    python docs/tools/figures.py --check    writes nothing; exit code 1 and the parts' names where a document differs

A part stands between `<!-- numbers: NAME -->` and `<!-- /numbers -->`; PARTS says what each name is made of:
docs/numbers/shipped.json (counts), docs/numbers/samples.json (recorded by docs/tools/record.py) and models/ itself
(threshold, sizes, SHA-256). Only the standard library is used.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = ROOT / "docs" / "numbers"
DETECTOR = ROOT / "models" / "detector.safetensors"
ONNX = DETECTOR.with_suffix(".onnx")
MARKED = re.compile(r"<!-- numbers: ([\w-]+) -->\n(.*?)<!-- /numbers -->", re.DOTALL)
WIDTH = 110  # of a line of a sample output
CONDITIONS = ("clean", "web", "hard")


def documents() -> list[Path]:
    """Every document that may have marked parts."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


# ---- what the numbers come from --------------------------------------------------------------------------------------


@cache
def shipped() -> dict[str, Any]:
    return json.loads((NUMBERS / "shipped.json").read_text(encoding="utf-8"))


@cache
def samples() -> dict[str, Any]:
    return json.loads((NUMBERS / "samples.json").read_text(encoding="utf-8"))


@cache
def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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


def of_set(key: str, condition: str = "clean") -> tuple[dict[str, Any], dict[str, Any]]:
    one = next(each for each in shipped()["sets"] if each["key"] == key)
    return one, one["conditions"][condition]


# ---- how they are written --------------------------------------------------------------------------------------------


def interval(k: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's exact 95 % interval of k of n, as shares (Biometrika 26, 1934)."""

    def at_least(p: float, least: int) -> float:
        """P(X >= least) for X binomial of n and p."""
        return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(least, n + 1))

    def solve(grows: Callable[[float], float]) -> float:
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if grows(middle) < 0 else (low, middle)
        return low

    lower = 0.0 if k == 0 else solve(lambda p: at_least(p, k) - 0.025)
    upper = 1.0 if k == n else solve(lambda p: at_least(p, k + 1) - 0.975)
    return lower, upper


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def rate(k: int | None, n: int, *, bold: bool = False) -> str:
    """`96.6 % (94.6 to 98.0)`; nothing where nothing was measured."""
    if k is None or not n:
        return ""
    lower, upper = interval(k, n)
    share = f"{percent(k / n)} %"
    return f"{f'**{share}**' if bold else share} ({percent(lower)} to {percent(upper)})"


def plain_rate(k: int | None, n: int) -> str:
    return "" if k is None or not n else f"{percent(k / n)} %"


def auc(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}".lstrip("0")


def balanced(one: dict[str, Any], counts: dict[str, Any]) -> str:
    """(found + photos left alone) / 2 of shares."""
    found, alarms = counts["found"] / one["fakes"], counts["false_alarms"] / one["photos"]
    return f"{percent((found + 1 - alarms) / 2)} %"


def threshold() -> str:
    return f"{operating_point()['threshold']:.3f}".lstrip("0")


def table(head: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str]) -> str:
        return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|\n"

    return line(head) + "|---" * len(head) + "|\n" + "".join(map(line, rows))


def ends(role: str, key: str, over: str) -> tuple[str, str]:
    """The lowest and highest share of `key` over the sets of a role."""
    shares = [
        each["conditions"]["clean"][key] / each[over]
        for each in shipped()["sets"]
        if (role == "all" or each["role"] == role) and each[over] and key in each["conditions"]["clean"]
    ]
    return f"{100 * min(shares):.0f}" if min(shares) >= 0.01 else percent(min(shares)), f"{100 * max(shares):.0f}"


# ---- the parts -------------------------------------------------------------------------------------------------------


def headline() -> str:
    own, clean = of_set("flickr140k")
    (low, high), (calm, loud) = ends("unseen", "found", "fakes"), ends("all", "false_alarms", "photos")
    return (
        f"At its threshold ({threshold()}, set for {100 * operating_point()['target_fpr']:g} % false alarms on validation"
        f" photos) the shipped detector finds {plain_rate(clean['found'], own['fakes'])} of the kind of fakes it was\n"
        f"taught on, {low} to {high} % of generators it never saw, and calls {calm} to {loud} % of real photos FAKE.\n"
    )


def results_table() -> str:
    """README: a row for each set."""
    rows = []
    for each in shipped()["sets"]:
        clean = each["conditions"]["clean"]
        rows.append(
            [each["name"], auc(clean.get("auc")), rate(clean.get("false_alarms"), each["photos"])]
            + [rate(clean.get("found"), each["fakes"], bold=True)]
        )
    return table(["set", "AUC", "false alarms", "fakes found"], rows)


def card_table() -> str:
    """MODEL_CARD.md: the same, with counts of images and the detector before."""
    rows = []
    for each in shipped()["sets"]:
        clean = each["conditions"]["clean"]
        size = " + ".join(str(each[side]) for side in ("photos", "fakes") if each[side])
        before = clean.get("before", {}).get("found")
        rows.append(
            [f"{each['name']} ({size})", auc(clean.get("auc")), rate(clean.get("false_alarms"), each["photos"])]
            + [rate(clean.get("found"), each["fakes"], bold=True), plain_rate(before, each["fakes"])]
        )
    return table(["set", "AUC", "false alarms", "fakes found", "before"], rows)


def card_files() -> str:
    return (
        f"`models/detector.safetensors` ({DETECTOR.stat().st_size / 1e6:.1f} MB; SHA-256 `{sha256(DETECTOR)}`) and the same"
        f" network\nfor ONNX Runtime, `models/detector.onnx` ({ONNX.stat().st_size / 1e6:.1f} MB; SHA-256 `{sha256(ONNX)}`).\n"
    )


def card_resaved() -> str:
    rows = []
    for each in shipped()["sets"]:
        known = each["conditions"]
        if set(known) < set(CONDITIONS):
            continue
        name = each["short"]
        if each["photos"] and each["fakes"] and each["role"] == "own":
            rows.append([name, "balanced accuracy", *(balanced(each, known[c]) for c in CONDITIONS)])
            name = ""
        for what, over, words in (("found", "fakes", "fakes found"), ("false_alarms", "photos", "false alarms")):
            if each[over]:
                rows.append([name, words, *(plain_rate(known[c].get(what), each[over]) for c in CONDITIONS)])
                name = ""
    return table(["", "", *CONDITIONS], rows)


def speed() -> str:
    s = shipped()["speed"]
    return (
        f"**Speed**, {s['machine']}: a first verdict {s['first_verdict_seconds']} s ({s['first_verdict_mb']} MB);"
        f" {s['small_files']} files of {s['small_side']} px in {s['small_seconds']} s with the start\n"
        f"({s['small_per_second']} a second after it, {s['small_mb']} MB); {s['large_files']} files of {s['large_side']} px"
        f" in {s['large_seconds']} s ({s['large_per_second']} a second, {s['large_mb']} MB).\n"
    )


def conditions_table() -> str:
    """docs/results.md: the set of its own kind, clean and saved again."""
    one, _ = of_set("flickr140k")
    rows = []
    for condition in CONDITIONS:
        counts = one["conditions"][condition]
        old = counts.get("before")
        before = "" if old is None else f"{balanced(one, old)}, {plain_rate(old['found'], one['fakes'])}"
        rows.append(
            [condition, balanced(one, counts), rate(counts["false_alarms"], one["photos"])]
            + [rate(counts["found"], one["fakes"]), auc(counts["auc"]), before]
        )
    before = f"before ({shipped()['before']}): balanced, found"
    return table(["", "balanced accuracy", "false alarms", "fakes found", "AUC", before], rows)


def unseen() -> str:
    """docs/results.md: what it finds of other generators, whom it accuses."""
    said = []
    for each in shipped()["sets"]:
        clean = each["conditions"]["clean"]
        if each["role"] == "unseen":
            more = [f"AUC {auc(clean['auc'])}"] if "auc" in clean else []
            if old := clean.get("before"):
                more.append(f"before {plain_rate(old['found'], each['fakes'])}")
            share = f"{plain_rate(clean['found'], each['fakes'])} of {each['short']}"
            said.append(share + (f" ({'; '.join(more)})" if more else ""))
    alarms = [
        f"{plain_rate(each['conditions']['clean']['false_alarms'], each['photos'])} ({each['short']})"
        for each in shipped()["sets"]
        if each["photos"] and each["role"] != "own"
    ]
    return (
        f"At the threshold {threshold()}. Of generators it was not taught on it finds " + ", ".join(said) + ".\n"
        "Photos it accuses: " + ", ".join(alarms) + ".\n"
    )


def times() -> str:
    c = shipped()["commands"]
    return (
        "```bash\n"
        f"make demo   # {c['demo_minutes']} minutes: trains both networks on drawn faces, samples, judges; prints a report's path\n"
        f"make test   # {c['test_minutes']} minutes: lint and the whole default test suite\n"
        "```\n\n"
        f"Times on {c['machine']}.\n"
    )


def sample(name: str) -> str:
    """What was printed; long lines are cut where a page would cut them, too."""
    lines = samples()["samples"][name]["output"]
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
    entry = short(samples()["samples"]["photos"]["json"]["results"][-1])
    entry["face"]["landmarks"] = [["…", "…"]] * len(entry["face"]["landmarks"])
    return _json_block(entry)


def sample_document() -> str:
    """docs/serving.md: the whole answer, its longest parts shortened."""
    told = short(samples()["samples"]["photos"]["json"])
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
    "headline": headline,
    "results": results_table,
    "times": times,
    "card-files": card_files,
    "card-results": card_table,
    "card-resaved": card_resaved,
    "card-speed": speed,
    "results-conditions": conditions_table,
    "results-unseen": unseen,
    "sample-entry": sample_entry,
    "sample-document": sample_document,
    "sample-photos": lambda: sample("photos"),
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
            document.write_text(made, encoding="utf-8")
        if differ:
            print(f"{document.relative_to(ROOT)}: {'differs in' if check else 'wrote'} {', '.join(differ)}")
    if not check:
        print(f"{drifted} parts changed")
    elif drifted:
        print("Next: python docs/tools/figures.py")
    return int(check and drifted > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
