"""The page of a cross-validation: every fold, their spread, all of them pooled, and what may be concluded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common.errors import one_line
from common.words import counted
from discriminator.folds.figures import CAUTION, NAMES, ORACLES, FoldsFound
from discriminator.training.exploration import HOW
from metrics.bootstrap import binomial_interval
from metrics.few import ENOUGH, pair_interval
from metrics.folds import ALL
from reports import folds_plots as fold_plots
from reports import plots
from reports.detector_training import pixels
from reports.page import Number, Section, pairs, pictures, write_report
from training.telemetry import read_jsonl

DRAWN = ("accuracy_at_half", "f1_macro_at_half", "accuracy", "balanced_accuracy", "precision_fake", "recall_fake",
         "f1_fake", "f1_real", "f1_macro", "false_alarm_rate", "roc_auc", "tpr_at_fpr_0.01")  # fmt: skip
HEADLINES = ("roc_auc", "accuracy_at_half", "f1_macro_at_half", "balanced_accuracy", "recall_fake", "false_alarm_rate")
COLUMNS = ("accuracy", "balanced_accuracy", "precision_fake", "recall_fake", "f1_fake", "precision_real", "recall_real",
           "f1_real", "f1_macro", "roc_auc", "tpr_at_fpr_0.01")  # fmt: skip


def write_folds_report(path: Path, found: FoldsFound, plan: Mapping, runs: Sequence[Path]) -> dict[str, np.ndarray]:
    """Write the page; returns its figures as uint8 [H, W, 3] by name, for TensorBoard. plan: folds.json; runs: the
    folds' folders, in the order of `found.tables`."""
    drawn = _figures(found, runs)
    few = "" if len(found.each) < fold_plots.MOST else f"All together, and the first {fold_plots.MOST - 1} folds"
    data, recipe = plan["data"], plan["recipe"]
    sections = [
        Section("In short", numbers=_headline(found), notes=[CAUTION]),
        _spread(found, drawn),
        _each(found),
        Section(
            "Answers",
            ["What was said of the held-out images, each fold at its own shipped threshold (set on its own validation"
             " images, never on those it is tested on)."],
            pictures=pictures(drawn, {"answers": few}),
        ),
        Section("ROC and scores", pictures=pictures(drawn, {"roc": "Pooled: all folds' probabilities as if one"
                " detector had given them, which costs a little where folds are calibrated differently",
                "scores": "Out-of-fold probabilities of all images"}), columns=2),
        _repeats(found),
        _test(found),
        Section("Training", pictures=pictures(drawn, {"history": "Dots: the state that was kept, by validation AUC"})),
        _dealt(found, plan),
        Section("What this rests on", rows=pairs(_settings(found, plan, recipe, data))),
        Section("How to read it", text=_cautions(found)),
    ]  # fmt: skip
    title = f"{counted(found.folds, 'fold')}" + (f", {counted(found.repeats, 'time')}" if found.repeats > 1 else "")
    subtitle = one_line(f"{plan['options']['model']} on {data['name']}, seed {found.seed}")
    write_report(path, title=title, subtitle=subtitle, sections=sections)
    return {name: pixels(both[0]) for name, both in drawn.items()}


def _name(row: Mapping, found: FoldsFound) -> str:
    name = f"fold {row['fold']}" if found.repeats == 1 else f"repeat {row['repeat'] + 1}, fold {row['fold']}"
    return name.replace(" ", "\u00a0")  # on one line of a table


def _figures(found: FoldsFound, runs: Sequence[Path]) -> dict[str, tuple[bytes, bytes]]:
    names = [_name(row, found) for row in found.each]
    label, score = (np.concatenate([getattr(t, what) for t in found.tables]) for what in ("label", "score"))
    drawn = {
        "figures": plots.both(
            fold_plots.figures_by_fold, [(NAMES[n], [r[n] for r in found.each], found.spread[n]) for n in DRAWN]
        ),
        "roc": plots.both(
            fold_plots.rocs, [(n, t.label, t.score) for n, t in zip(names, found.tables, strict=True)], (label, score),
            points=[(row["false_alarm_rate"], row["recall_fake"]) for row in found.each],
        ),
        "answers": plots.both(
            fold_plots.answers,
            [("pooled", found.pooled["confusion"]), *((n, r["confusion"]) for n, r in zip(names, found.each))],
        ),
        "scores": plots.both(plots.score_histogram, label, score),
    }  # fmt: skip
    told = [(n, read_jsonl(run / "stats.jsonl"), read_jsonl(run / "metrics.jsonl")) for n, run in zip(names, runs)]
    drawn["history"] = plots.both(fold_plots.histories, told)
    return drawn


def _headline(found: FoldsFound) -> list[Number]:
    tiles = []
    for name in HEADLINES:
        s, p = found.spread[name], found.pooled["metrics"][name]["value"]
        tiles.append(Number(f"{s['mean']:.3f}", NAMES[name], f"mean of folds, ± {s['sd']:.3f}; pooled {p:.3f}"))
    return tiles


def _f(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _between(low: float, high: float) -> str:
    return "–" if not math.isfinite(low) else f"{low:.3f} to {high:.3f}"


def _spread(found: FoldsFound, drawn: Mapping) -> Section:
    rows = [("", "mean", "standard deviation", "95 %, corrected", "95 %, plain", "pooled", "95 % of pooled")]
    count = len(found.each)
    for name in ALL:
        s, p = found.spread[name], found.pooled["metrics"][name]
        label = NAMES[name] + (" *" if name in ORACLES else "") + (f" ({s['n']} of {count})" if s["n"] < count else "")
        rows.append(
            (label, _f(s["mean"]), _f(s["sd"]), _between(s["low"], s["high"]),
             _between(s["plain_low"], s["plain_high"]), _f(p["value"]), _between(p["low"], p["high"]))
        )  # fmt: skip
    notes = [
        "* chooses its threshold on the held-out images themselves: an upper bound. All others are at each fold's own"
        " shipped threshold, set for few false alarms, or at probability 0.5, as most published tables are.",
        "95 % of pooled: bootstrap over groups of images; it knows nothing of what another training would have given.",
    ]
    if any(found.spread[name]["n"] < count for name in ALL):
        notes.append("Where a number stands in brackets, the figure is undefined in the other folds (nothing was so"
                     " called), and the mean is of the rest.")  # fmt: skip
    return Section("Spread", rows=rows, head=True, pictures=pictures(drawn, {"figures": ""}), notes=notes)


def _each(found: FoldsFound) -> Section:
    rows = [("", "real", "fake", "threshold", *(NAMES[name] for name in COLUMNS))]
    for row in found.each:
        counts = row["n_real"], row["n_fake"], _f(row["threshold"])
        rows.append((_name(row, found), *counts, *(_of_fold(name, row) for name in COLUMNS)))
    p = found.pooled
    rows.append(("pooled", p["n_real"], p["n_fake"], "own", *(_f(p["metrics"][n]["value"]) for n in COLUMNS)))
    notes = ["Each image is tested once in every repeat."] if found.repeats > 1 else []
    if any(_few(row) for row in found.each):
        notes.append(
            f"Of fewer than {ENOUGH} real or fake images a figure has its 95 % interval beside it; one that has none is"
            " left out. The pooled row is of all images."
        )
    return Section("Every fold", rows=rows, head=True, notes=notes)


def _few(row: Mapping) -> bool:
    return min(row["n_real"], row["n_fake"]) < ENOUGH


def _of_fold(name: str, row: Mapping) -> str:
    """A fold's figure; of few images with its interval, a dash where it has none."""
    value, n_real, n_fake = row[name], row["n_real"], row["n_fake"]
    if not _few(row) or value is None or not math.isfinite(value):
        return _f(value)
    if name in ("roc_auc", "balanced_accuracy"):
        low, high = pair_interval(value, n_real, n_fake)
    elif name in ("accuracy", "recall_fake", "recall_real"):
        n = {"accuracy": n_real + n_fake, "recall_fake": n_fake, "recall_real": n_real}[name]
        low, high = binomial_interval(value * n, n)
    else:
        return "–"
    return f"{_f(value)} ({low:.2f} to {high:.2f})"


def _rows(names: Sequence[str], of: Sequence[tuple[str, Mapping]]) -> list[tuple[str, ...]]:
    return [("", *(NAMES[n] for n in names)), *((label, *(_f(row[n]) for n in names)) for label, row in of)]


def _repeats(found: FoldsFound) -> Section:
    if found.repeats < 2:
        return Section("Repeats")
    names = ("accuracy", "balanced_accuracy", "f1_fake", "f1_macro", "roc_auc", "tpr_at_fpr_0.01")
    rows = _rows(names, [(f"repeat {r['repeat'] + 1}", r) for r in found.by_repeat])
    sd = [np.std([r[name] for r in found.by_repeat], ddof=1) for name in names]
    rows.append(("standard deviation", *(_f(float(v), 4) for v in sd)))
    text = ["All images of a repeat pooled. The repeats test the same images in other folds with other first weights:"
            " their spread shows what chance in training and dealing does, not what other images would."]  # fmt: skip
    return Section("Repeats", text, rows=rows, head=True)


def _test(found: FoldsFound) -> Section:
    if not found.tests:
        return Section("Test split")
    names = ("accuracy", "balanced_accuracy", "precision_fake", "recall_fake", "f1_fake", "f1_macro", "roc_auc",
             "tpr_at_fpr_0.01")  # fmt: skip
    words = {"mean": "mean", "sd": "standard deviation"}
    over = [(word, {name: found.spread_test[name][key] for name in names}) for key, word in words.items()]
    rows = _rows(names, [*((_name(r, found), r) for r in found.each_test), *over])
    text = [
        "The test split took no part in the folds. Every fold's detector judged its"
        f" {counted(len(found.tests[0]), 'image')} once,"
        " when it was finished. All judge the same images, so their spread is that of training alone."
    ]
    return Section("Test split", text, rows=rows, head=True)


def _dealt(found: FoldsFound, plan: Mapping) -> Section:
    rows: list[tuple] = [("", "learnt from", "validated on", "held out")]
    for row in found.dealt:
        cells = (f"{row[k]['real']} real, {row[k]['fake']} fake" for k in ("learnt", "validated", "held_out"))
        rows.append((_name(row, found), *cells))
    text = [*plan["data"]["notes"], "The held-out images of a fold were neither learnt from, nor chosen by, nor"
            " calibrated on: its validation images are cut from the other folds, whole groups as well."]  # fmt: skip
    return Section("How the images were dealt", [one_line(line) for line in text], rows=rows, head=True)


def _settings(found: FoldsFound, plan: Mapping, recipe: Mapping, data: Mapping) -> dict[str, object]:
    o, n = plan["options"], data["images"]
    return {
        "data": one_line(o["data"]),
        "images": f"{n['real']} real, {n['fake']} fake ({n['fake'] / max(1, n['real'] + n['fake']):.1%} fake)",
        "class imbalance": HOW[recipe["balance"]],
        "fingerprint": data["fingerprint"][:16],
        "left out as unreadable": data["num_skipped"] or None,
        "model": o["model"] + (f" {o['size']}" if o["model"] == "hybrid" else ""),
        "first weights": "borrowed" if o["pretrained"] or o["backbone_weights"] else "random",
        "resolution": f"{data['preprocess']['resolution']} px",
        "learning": f"{counted(recipe['epochs'], 'epoch')}, batch {recipe['batch']}, lr {recipe['lr']:g}"
        f" {recipe['schedule']}",
        "degradation": o["degradation"],
        "folds": f"{found.folds}, grouped and stratified, seed {found.seed}, {counted(found.repeats, 'repeat')}",
        "version": plan["version"],
    }


def _cautions(found: FoldsFound) -> list[str]:
    return [
        CAUTION,
        "A cross-validation measures a way of training on images like these. It is no statement on other generators,"
        " other cameras, or re-saved photos; the held-out images were judged as they are.",
        "To name one number, take the mean over folds with its standard deviation, and say that it is "
        f"{found.folds}-fold. To judge a single detector, use evaluate.py detector on images none of it was made with.",
    ]
