"""A study for people: lines for the terminal, Markdown, JSON and one HTML page with a forest plot."""

from __future__ import annotations

import math
from pathlib import Path

from common.errors import one_line
from common.files import write_json, write_text
from common.words import counted
from evaluation.study import RESULTS, StudyResult
from evaluation.study_compare import Difference, Measured
from evaluation.study_plan import Curve
from reports import plots
from reports.page import Section, pictures, write_report
from reports.plots import _sheet, shortened
from reports.rates import percent, points_of, with_interval

MARKDOWN, PAGE = "results.md", "results.html"
LONGEST = 52  # letters of a comparison beside its line
LEVEL = 0.05

HOW = [
    "The detector of this study is a probe: features of a network that stays as it is, and one logistic regression with"
    " a bound on its weights. Every arm has the same number of real photos, of fakes and of views of each, but where a"
    " control says otherwise; only what the fakes (or a control's reals) are differs. What is found here is found of"
    " probes, and says nothing of networks that are trained whole.",
    "One threshold for each fit: the least that lets at most the allowed share of the validation photos through as"
    " fakes, under each condition. The tests were opened when all fits were done; nothing was chosen on them.",
    "Intervals of 95 %: percentiles of a paired bootstrap that draws test images (an image under all conditions"
    " together), seeds, and the validation photos of the thresholds anew, the same for all arms. p is two-sided, of the"
    " resamples; Holm's correction is over all differences of the table. Few seeds say little of how seeds spread."
    " Where none or all of a set's images are called fake no resample of them differs: the interval is the exact one"
    " (Clopper and Pearson) at least. A mean or a difference that came out the same in every resample has none.",
]


def lines_of(result: StudyResult) -> list[str]:
    """The endpoint and the differences for the terminal."""
    width = max(len(name) for name in result.findings.endpoint)
    lines = [f"{one_line(result.plan.title)}: plan {result.plan.sha256[:12]}…, {_seeds(result)}; {_endpoint(result)}"]
    lines += [f"{name:{width}}  {_share(one)}" for name, one in result.findings.endpoint.items()]
    for one in result.findings.differences:
        lines.append(f"{one.first} − {one.second}: {_points(one)}, p {_p(one.p)}, Holm {_p(one.holm)}: {verdict(one)}")
    lines += [f"left out: {kind} {name}: {reason}" for kind, name, reason in result.skipped]
    return [*lines, *(f"note: {note}" for note in result.notes)]


def write_study(out: Path, result: StudyResult) -> list[Path]:
    """results.json, results.md and results.html in the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    drawn = {"endpoint": plots.both(arms_plot, result)}
    if result.findings.differences:
        drawn["forest"] = plots.both(forest, result.findings.differences)
    curves = [one for one in result.plan.curves if sum(name in result.findings.endpoint for name in one.arms) > 1]
    drawn |= {f"curve{number}": plots.both(curve_plot, result, one) for number, one in enumerate(curves)}
    captions = {
        "forest": "Differences of the primary endpoint with 95 % intervals, before Holm's correction; dots: seeds",
        "endpoint": "The primary endpoint of every arm; dots are seeds",
    } | {f"curve{number}": one_line(curve.title) for number, curve in enumerate(curves)}
    sections = [
        Section("Differences", text=[_endpoint(result)], pictures=pictures(drawn, {"forest": captions["forest"]}),
                rows=_differences(result), head=True),
        Section("Arms", rows=_arms(result), head=True,
                pictures=pictures(drawn, {k: v for k, v in captions.items() if k != "forest"})),
        *(Section(f"{test}", rows=_rates(result, test), head=True) for test in result.findings.rates),
        Section("Left out", rows=[("", "", "why"), *((k, one_line(n), one_line(r)) for k, n, r in result.skipped)]
                if result.skipped else (), head=True),
        Section("How to read it", text=HOW, notes=[*_facts(result), *result.notes]),
    ]  # fmt: skip
    write_report(out / PAGE, title=one_line(result.plan.title), subtitle=_seeds(result), sections=sections)
    write_text(out / MARKDOWN, markdown(result))
    write_json(out / RESULTS, result.to_json(), indent=2)  # last: what is there is whole
    return [out / name for name in (RESULTS, MARKDOWN, PAGE)]


def markdown(result: StudyResult) -> str:
    parts = [f"# {one_line(result.plan.title)}", "", _endpoint(result), "", *_table(_differences(result)), ""]
    parts += ["## Arms", "", *_table(_arms(result)), ""]
    for test in result.findings.rates:
        parts += [f"## {test}", "", *_table(_rates(result, test)), ""]
    if result.skipped:
        parts += [
            "## Left out",
            "",
            *(f"- {kind} {one_line(name)}: {one_line(why)}" for kind, name, why in result.skipped),
            "",
        ]
    parts += ["## How to read it", ""]
    for text in HOW:
        parts += [text, ""]
    return "\n".join([*parts, *(f"- {note}" for note in (*_facts(result), *result.notes))]).rstrip() + "\n"


def verdict(one: Difference) -> str:
    """In words, at 5 % after Holm's correction."""
    if not one.holm <= LEVEL:
        return "not shown to differ"
    return "finds more" if one.value > 0 else "finds less"


# ---- tables --------------------------------------------------------------------------------------------------------


def _differences(result: StudyResult) -> list[tuple]:
    asks = {(one.first, one.second): one.asks for one in result.plan.comparisons}
    rows: list[tuple] = [("", "difference (95 %)", "p", "Holm", "", "asks")]
    for one in result.findings.differences:
        name = f"{one.first} − {one.second}"
        rows.append((name, _points(one), _p(one.p), _p(one.holm), verdict(one), asks.get((one.first, one.second), "")))
    return rows


def _arms(result: StudyResult) -> list[tuple]:
    rows: list[tuple] = [("", "primary endpoint (95 %)", "seeds", "shown, of each seed")]
    for name, one in result.findings.endpoint.items():
        facts = result.arms[name]
        shown = (
            ", ".join(f"{n} {source} as {('real', 'fake')[label]}" for source, label, n in facts[0]["shown"])
            if facts
            else "raw logit of a run"
        )
        rows.append((name, _share(one), ", ".join(percent(v) for v in one.seeds), shown))
    return rows


def _rates(result: StudyResult, test: str) -> list[tuple]:
    conditions = result.findings.rates[test]
    what = "found" if result.plan.tests[test].label == "fake" else "false alarms"
    rows: list[tuple] = [("", *(f"{what}, {condition}" for condition in conditions))]
    return rows + [(arm, *(_share(found[arm]) for found in conditions.values())) for arm in result.findings.endpoint]


def _table(rows: list[tuple]) -> list[str]:
    lines = ["| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _endpoint(result: StudyResult) -> str:
    plan = result.plan
    return (
        f"Primary endpoint: fakes found at the threshold for {100 * plan.fpr:g} % false alarms on validation photos,"
        f" mean over {', '.join(plan.endpoint)}, each {' and '.join(plan.conditions)}"
    )


def _seeds(result: StudyResult) -> str:
    return counted(result.seeds, "seed")


def _facts(result: StudyResult) -> list[str]:
    counts = ", ".join(f"{n} {name}" for name, n in result.images.items())
    return [f"plan SHA-256 {result.plan.sha256}", f"features: {result.network}", f"images that could be used: {counts}",
            f"{result.plan.resamples} resamples"]  # fmt: skip


def _share(one: Measured) -> str:
    return with_interval(vars(one))


def _points(one: Difference) -> str:
    return points_of(one.value, one.low, one.high)


def _p(value: float) -> str:
    return "–" if not math.isfinite(value) else "< 0.001" if value < 1e-3 else f"{value:.2g}"


# ---- figures -------------------------------------------------------------------------------------------------------


def forest(differences: list[Difference], *, theme: str = "light") -> bytes:
    """A line for each difference with its interval; filled where it holds after Holm's correction."""
    with _sheet(theme, width=8.2, height=1.0 + 0.34 * len(differences)) as sheet:
        axis, c = sheet.axes[0], sheet.colours
        axis.axvline(0, color=c["faint"], linewidth=1)
        for y, one in enumerate(differences):
            shown = one.holm <= LEVEL
            axis.plot([100 * one.low, 100 * one.high], [y, y], color=c["ink"], linewidth=1.3)
            axis.plot(
                [100 * v for v in one.seeds], [y] * len(one.seeds), "o", color=c["faint"], markersize=3, linewidth=0
            )
            axis.plot(
                100 * one.value,
                y,
                "s",
                color=c["fake"] if shown else c["paper"],
                markeredgecolor=c["fake"],
                markersize=7,
            )
        names = [shortened(f"{one.first} − {one.second}", LONGEST) for one in differences]
        axis.set(xlabel="points of fakes found; filled: shown after Holm's correction", yticks=range(len(names)),
                 yticklabels=names, ylim=(len(names) - 0.4, -0.6))  # fmt: skip
    return sheet.png


def arms_plot(result: StudyResult, *, theme: str = "light") -> bytes:
    """The primary endpoint of every arm with its interval and its seeds."""
    found = result.findings.endpoint
    with _sheet(theme, width=8.2, height=0.9 + 0.34 * len(found)) as sheet:
        axis, c = sheet.axes[0], sheet.colours
        for y, one in enumerate(found.values()):
            axis.plot([100 * one.low, 100 * one.high], [y, y], color=c["ink"], linewidth=1.3)
            axis.plot(
                [100 * v for v in one.seeds], [y] * len(one.seeds), "o", color=c["faint"], markersize=3, linewidth=0
            )
            axis.plot(100 * one.value, y, "s", color=c["real"], markersize=7)
        axis.set(xlabel="% of fakes found, 95 % interval", yticks=range(len(found)),
                 yticklabels=[shortened(name, LONGEST) for name in found], ylim=(len(found) - 0.4, -0.6))  # fmt: skip
        axis.set_xlim(left=0)
    return sheet.png


def curve_plot(result: StudyResult, curve: Curve, *, theme: str = "light") -> bytes:
    """The endpoint along the curve's number, by doublings."""
    found = result.findings.endpoint
    points = [(x, found[name]) for x, name in zip(curve.x, curve.arms) if name in found]
    with _sheet(theme, width=5.2, height=3.2) as sheet:
        axis, c = sheet.axes[0], sheet.colours
        xs = [x for x, _ in points]
        axis.plot(xs, [100 * one.value for _, one in points], "s-", color=c["real"], markersize=6)
        for x, one in points:
            axis.plot([x, x], [100 * one.low, 100 * one.high], color=c["ink"], linewidth=1.2)
        if min(xs) > 0:
            axis.set_xscale("log", base=2)
        axis.set_xticks(xs, [f"{x:g}" for x in xs])
        axis.set(title=curve.title, ylabel="% of fakes found", ylim=(0, None))
    return sheet.png
