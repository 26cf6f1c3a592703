"""The audits of a detector itself, as lines of a terminal and as sections of its page."""

from __future__ import annotations

import math
from collections.abc import Iterator

from common.errors import one_line
from evaluation.bias import FAIL, PASS, UNCLEAR, Bias, Move, Tier
from metrics.bootstrap import Rate
from metrics.breakdown import most_accused
from reports.page import Section
from reports.rates import RATE, counted, percent, points, with_interval

HOLDS = {PASS: "yes", FAIL: "no", UNCLEAR: "can't be told", "": "–"}
CHROMA = "-420 and -444: the JPEG's chroma at half size, or whole; resizes go back to the size by the bicubic kernel"
RANGES = {"as saved": "JPEG 90 and more", "web": "JPEG 60 to 89", "hard": "JPEG below 60", "unknown": "no JPEG"}


def verdict_lines(bias: Bias) -> Iterator[str]:
    """What is said first."""
    limit, many = f"{100 * bias.limit:g} points", len(bias.moves)
    said = f"bias: {bias.verdict}: one class alone saved again, {bias.count(PASS)} of {many} rates stay within {limit}"
    yield f"{said}, {bias.count(FAIL)} do not, {bias.count(UNCLEAR)} can't be told"
    yield f"  most moved: {_named(bias.worst)}, {points(bias.worst.change)}"
    goal, web = f"{100 * bias.target:g} %", bias.tier("web")
    if web is None or not web.fpr.n:
        yield f"  whether one threshold holds {goal} on «web» is not known: no photo here is a {RANGES['web']}"
    else:
        yield f"  one threshold holds {goal} on «web»: {HOLDS[web.verdict]}, {_alarms(web.fpr)}"
        if len(bias.alarms) > 1 and (most := most_accused(bias.alarms)) is not None:
            yield f"  all sources together; most are those of {one_line(most.name)}, {_alarms(most.fpr)}"


def _named(move: Move) -> str:
    return f"{one_line(move.source)}, {move.saved}s by {move.how}"


def _alarms(found: Rate) -> str:
    return f"{with_interval(found)} false alarms, {counted(found)}"


def _needed(tier: Tier) -> str:
    found = tier.needed
    return f"{found.value:.4f} ({found.low:.4f} to {found.high:.4f})" if found.n else "–"


def table_lines(bias: Bias, threshold: float) -> Iterator[str]:
    """The tables."""
    wide = min(48, max(12, *(len(one_line(m.source)) + 2 for m in bias.moves)))
    yield ""
    yield f"one class alone saved again, the other left as it is: called FAKE from {threshold:.4f} on, the same images"
    yield f"  {'saved again':<28}{'of':<{wide}}{'n':>6}  {'before':>8}{'after':>9}   {'change':<33}verdict"
    for m in bias.moves:
        name = f"{m.saved}s, {m.how}"
        yield (
            f"  {name:<28}{one_line(m.source):<{wide}}{m.change.n:>6}  {percent(m.before.value):>8}"
            f"{percent(m.after.value):>9}   {points(m.change):<33}{m.verdict}"
        )
    yield f"  ({CHROMA})"
    if bias.alarms:
        yield ""
        yield f"  {'false alarms of':<{wide + 14}}{'n':>6}   {'exact interval':<{RATE}}called FAKE"
        for row in bias.alarms:
            rates = f"{with_interval(row.fpr):<{RATE}}{counted(row.fpr)}"
            yield f"  {one_line(row.name):<{wide + 14}}{row.n_real:>6}   {rates}"
    yield ""
    goal = f"{100 * bias.target:g} %"
    rates = f"{'false alarms':<{RATE}}{'fakes found':<{RATE}}{f'holds {goal}':<15}threshold for {goal} of these"
    yield f"  {'files by their JPEG tables':<32}{'real':>6}{'fake':>6}{'side':>6}   {rates}"
    for t in bias.tiers:
        name = f"{t.name} ({RANGES[t.name]})"
        rates = f"{with_interval(t.fpr):<{RATE}}{with_interval(t.tpr):<{RATE}}{HOLDS[t.verdict]:<15}"
        yield f"  {name:<32}{t.n_real:>6}{t.n_fake:>6}{t.side:>6}   {rates}{_needed(t)}"


def sections(bias: Bias, threshold: float) -> list[Section]:
    """The part of the page."""
    goal = f"{100 * bias.target:g} %"
    rows: list[tuple] = [
        ("saved again", "of", "n", "called FAKE before", "after", "change", "McNemar's p", "UNSURE", "verdict")
    ]
    for m in bias.moves:
        unsure = f"{percent(m.unsure_before.value)}, then {percent(m.unsure_after.value)}"
        rates = (with_interval(m.before), with_interval(m.after), points(m.change), f"{m.p:.2g}")
        rows.append((f"{m.saved}s, {m.how}", one_line(m.source), m.change.n, *rates, unsure, m.verdict))
    alarms: list[tuple] = [("source", "real photos", "called FAKE", "false alarms")]
    alarms += [(one_line(r.name), r.n_real, counted(r.fpr), with_interval(r.fpr)) for r in bias.alarms]
    tiers: list[tuple] = [
        ("tier", "real", "fake", "longer side", "false alarms", "fakes found", f"holds {goal}", f"threshold for {goal}")
    ]
    for t in bias.tiers:
        sizes = (t.n_real, t.n_fake, f"{t.side} pixels")
        row = (with_interval(t.fpr), with_interval(t.tpr), HOLDS[t.verdict], _needed(t))
        tiers.append((f"{t.name}: {RANGES[t.name]}", *sizes, *row))
    first, *more = verdict_lines(bias)
    return [
        Section(
            "Bias: one class alone saved again",
            [f"{first[len('bias: ') :]}.", *(f"{line.strip()[0].upper()}{line.strip()[1:]}." for line in more)],
            rows=rows,
            head=True,
            notes=[
                f"The other class is left as it is, its rate does not move. At the threshold {threshold:.4f}. PASS: the"
                f" 95 % interval of the change, of the same images, lies within {100 * bias.limit:g} points; FAIL: it"
                f" lies beyond; UNCLEAR: it is wider than the question. {CHROMA[0].upper()}{CHROMA[1:]}."
            ],
        ),
        Section("Bias: false alarms by source", rows=alarms if bias.alarms else (), head=True),
        Section(
            "Bias: compression tiers",
            rows=tiers,
            head=True,
            notes=[
                "The tier is that of the file as it lies there, by its JPEG tables. The threshold in the last column is"
                " chosen on these very photos: it says what the tier would need and is no promise; of fewer than"
                f" {math.ceil(1 / bias.target)} photos it lies above all of them."
            ],
        ),
    ]
