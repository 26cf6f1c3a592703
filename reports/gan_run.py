"""The report of a training run, from the files of its folder alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common import reading
from common.errors import UserError
from metrics.few import ENOUGH, auc_text, balanced_text, share_text
from reports import plots
from reports.page import Number, Picture, Section, VerdictCard, pairs, themed, write_report
from training.run_folder import snapshots
from training.telemetry import read_jsonl

DRAWN = "demo"  # the set whose faces a program draws
RESAVED = {"web": "as JPEG 60", "hard": "as JPEG 40"}
WARNINGS = 5  # of a run, the last ones, that stand above its numbers
WIDE = 1040  # pixels of the page's text
GRIDS = 4  # sample grids shown, evenly spread over the run, the first and the last among them


def run_report(run_dir: str | Path, *, cards: Sequence[VerdictCard] = ()) -> Path:
    """Write the HTML report of a run folder, `report.html` in it; returns its path.

    Read, each where it is there: config.json (needed), stats.jsonl, metrics.jsonl, reals.png, fakes-*.png, scores.npz
    (score, label, origin of the held-out images) and verdict.json:
        {"kimg", "measured_on": "test" | "validation", "validation": FIGURES, "held_out_clean": FIGURES,
         "held_out_web": FIGURES, "held_out_hard": FIGURES, "adversarial_logit_auc": float}
        FIGURES: {"auc", "balanced_accuracy_at_half", "balanced_accuracy", "tpr", "false_alarm_rate", "threshold",
        "n_real", "n_fake"} and the first four again with "_own_generator" or "_data_set" behind.
    `cards` are verdicts on single photos. Raises `UserError` where the folder is no run.
    """
    run = Path(run_dir)
    config = _json(run / "config.json")
    if config is None:
        raise UserError(f"{run}: no readable config.json there: give the folder of a training run")
    stats, metrics = read_jsonl(run / "stats.jsonl"), read_jsonl(run / "metrics.jsonl")
    verdict = _json(run / "verdict.json") or {}
    fid = [row for row in metrics if "fid" in row]
    sections = [
        Section("In short", text=_first_of_all(config, stats), numbers=_headline(config, stats, fid, verdict)),
        _verdict_cards(cards),
        *_samples(run),
        _training(stats),
        _fid(fid),
        _detector(run, verdict),
        Section("Configuration", rows=pairs(_settings(config))),
        _meaning(config, verdict),
    ]
    data = _part(config, "options").get("data") or "images"
    name = f"Generator and detector of {Path(str(data)).name or data}"
    return write_report(run / "report.html", title=name, sections=sections, subtitle=f"Run {run.name}")


def _json(path: Path) -> dict | None:
    try:
        found = reading.json_file(path)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _part(data: Mapping, key: str) -> Mapping:
    """The mapping under `key`; of a run that has none, an empty one."""
    found = data.get(key)
    return found if isinstance(found, Mapping) else {}


def _number(value: object, form: str = "{:.3f}") -> str | None:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return form.format(value)


def _headline(config: Mapping, stats: list[dict], fid: list[dict], verdict: Mapping) -> list[Number]:
    numbers = []

    def add(value: str | None, label: str, note: str = "") -> None:
        if value is not None:
            numbers.append(Number(value, label, note))

    size = config.get("resolution")
    game = [row for row in stats if "verdict_step" not in row]
    if game:
        seconds = plots.value(game[-1], "Timing/total_sec")
        note = f"at {size} x {size} pixels" + (f", in {_duration(seconds)}" if math.isfinite(seconds) else "")
        add(_number(plots.value(game[-1], "kimg"), "{:.1f}"), "thousand images shown (kimg)", note)
    if fid:
        best = min(fid, key=lambda row: row["fid"])
        note = f"at {best['kimg']:.1f} kimg; it was {fid[0]['fid']:.3g} at {fid[0]['kimg']:.1f}. Lower is better"
        add(_number(best["fid"], "{:.3g}"), f"best {_fid_name(best)}", note)
    held, where = _part(verdict, "held_out_clean"), verdict.get("measured_on", "held-out")
    of = _with_interval(held)
    add(of["auc"], f"AUC on {where} images", "1 is perfect, 0.5 is guessing")
    add(of["balanced_accuracy_at_half"], "balanced accuracy", f"at probability 0.5, {where} images")
    caught, alarms = of["tpr"], of["false_alarm_rate"]
    if caught and alarms:
        photos = f"{held.get('n_real', '?')} {_reals_of(config)}"
        add(caught, "fakes found", f"with {alarms} of {photos} called fake")
        again = {name: _with_interval(_part(verdict, f"held_out_{name}"))["false_alarm_rate"] for name in RESAVED}
        told = [f"{share} {how}" for name, how in RESAVED.items() if (share := again[name])]
        if told:
            add(alarms, "false alarms", f"after re-saving: {', '.join(told)}")
    return numbers


def _reals_of(config: Mapping) -> str:
    return "drawn faces that count as real" if _is_drawn(config) else "real photos"


def _is_drawn(config: Mapping) -> bool:
    return _part(config, "options").get("data") == DRAWN


def _first_of_all(config: Mapping, stats: list[dict]) -> list[str]:
    """What must be known before any number: that these are drawings, and what the run warned of."""
    text = []
    if _is_drawn(config):
        text.append(
            "These are drawings: the faces of this run are drawn by a program, not photographed. The page shows that "
            "every part works from end to end; its numbers say nothing about photos, and its detector must judge none."
        )
    told: dict[str, None] = {}
    for row in stats:
        for line in row.get("advice") or ():
            told[f"Warned of at {plots.value(row, 'kimg'):.1f} kimg: {line}."] = None
    return text + list(told)[-WARNINGS:]


def _with_interval(figures: Mapping) -> dict[str, str | None]:
    """The figures of one condition as text, those of few images with their interval; None for what is not there."""
    n_real = figures.get("n_real")
    if not isinstance(n_real, int):
        n_real = ENOUGH  # an old run, which does not say
    n_fake = figures.get("n_fake")
    n_fake = n_fake if isinstance(n_fake, int) else n_real
    out: dict[str, str | None] = {}
    for name in ("auc", "balanced_accuracy_at_half", "false_alarm_rate", "tpr", "tpr_own_generator", "tpr_data_set"):
        value = figures.get(name)
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            out[name] = None
        elif name == "auc":
            out[name] = auc_text(value, n_real, n_fake)
        elif name == "balanced_accuracy_at_half":
            out[name] = balanced_text(value, n_real, n_fake)
        else:
            # as many of the own generator as there are reals; the rest are the set's
            n = {"false_alarm_rate": n_real, "tpr": n_fake, "tpr_own_generator": n_real}.get(name, n_fake - n_real)
            out[name] = share_text(value, max(n, 1))
    return out


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {int(seconds % 60)} s" if minutes else f"{seconds:.0f} s"


def _fid_name(row: Mapping) -> str:
    dims = row.get("dims")
    return "FID" if dims in (None, 2048) else f"FID-{dims}"


def _verdict_cards(cards: Sequence[VerdictCard]) -> Section:
    text = [
        "Pictures the detector had not seen in training. On the heat maps orange patches look generated by themselves, "
        "blue ones photographed; pale means no opinion. The bar is the probability, the mark on it the threshold."
    ]
    return Section("Verdicts", text=text if cards else (), cards=cards)


def _samples(run: Path) -> list[Section]:
    grids = snapshots(run, "fakes")
    if not grids:
        return []
    chosen = [grids[i] for i in sorted({round(x) for x in np.linspace(0, len(grids) - 1, min(GRIDS, len(grids)))})]
    pictures = [_grid(path, f"after {nimg / 1000:g} kimg") for nimg, path in chosen]
    text = ["The same latent vectors at different moments of the training, each time by the averaged generator."]
    sections = [Section("The generator over time", text=text, pictures=pictures, columns=2 if len(pictures) > 1 else 1)]
    reals = run / "reals.png"
    if reals.exists():
        beside = [_grid(path, said, WIDE) for path, said in (
            (reals, "real: what it learnt from"), (grids[-1][1], "fake: what it paints now"))]  # fmt: skip
        sections.append(Section("Real beside fake", pictures=beside))  # as wide as the page: faces can be seen
    return sections


def _grid(path: Path, caption: str, place: int = WIDE // 2) -> Picture:
    """A sheet of samples; a sheet smaller than its place on the page, in pixels, keeps its pixels square."""
    from PIL import Image

    with Image.open(path) as image:
        small = image.width < place
    return Picture(path.read_bytes(), caption, pixelated=small)


def _training(stats: list[dict]) -> Section:
    pictures = []
    if any("verdict_step" not in row for row in stats):
        caption = "The game, tick by tick. Faint lines are the recorded values, strong ones their running mean."
        pictures.append(themed(plots.both(plots.training_curves, stats), caption))
    if any("verdict_step" in row for row in stats):
        pictures.append(themed(plots.both(plots.verdict_curves, stats), "The verdict head, trained on after the game."))
    bad = sum(
        round(found["mean"] * found["num"])
        for row in stats
        for name, found in row.items()
        if name.startswith("Gradients/nonfinite") and isinstance(found, Mapping) and found.get("num")
    )
    notes = [f"Non-finite gradient values in the whole run: {bad}."] if pictures else []
    return Section("Training", pictures=pictures, notes=notes)


def _fid(fid: list[dict]) -> Section:
    if not fid:
        return Section("Image quality")
    label = _fid_name(fid[0])
    text = [
        f"The distance between the statistics of {fid[-1].get('n_fake', 'the')} generated images and of the training "
        "photos in the feature space of an Inception network."
    ]
    if label != "FID":
        text.append(
            f"{label} uses an early layer's features: it compares snapshots of this run, not published numbers."
        )
    figure = plots.both(plots.fid_curve, fid, label=label)
    return Section("Image quality", text=text, pictures=[themed(figure)], columns=2)


def _detector(run: Path, verdict: Mapping) -> Section:
    conditions = [("clean", "held_out_clean"), ("web: re-saved as JPEG 60", "held_out_web"),
                  ("hard: re-saved as JPEG 40", "held_out_hard")]  # fmt: skip
    rows: list[Sequence[object]] = [
        ("images", "AUC", "balanced accuracy at 0.5", "false alarms", "fakes found", "own generator's found", "others'")
    ]
    for name, key in conditions:
        if f := _part(verdict, key):
            rows.append((name, *(cell or "–" for cell in _with_interval(f).values())))
    used = [j for j in range(len(rows[0])) if j == 0 or any(row[j] != "–" for row in rows[1:])]
    rows = [[row[j] for j in used] for row in rows]
    notes = []
    control = _number(verdict.get("adversarial_logit_auc"))
    if control:
        notes.append(
            f"Negative control: the raw adversarial logit of the same network reaches AUC {control} on the clean "
            "images. A GAN's own critic judges today's generator against training photos; it is not a detector."
        )
    drawn = _score_pictures(run, _part(verdict, "held_out_clean"))
    text = []
    if len(rows) > 1:
        where = verdict.get("measured_on", "held-out")
        text.append(f"Measured on {where} images, with the threshold chosen on validation images.")
    return Section("The detector", text, rows=rows if text else (), head=True, pictures=drawn, columns=3, notes=notes)


def _score_pictures(run: Path, held: Mapping) -> list[Picture]:
    path = run / "scores.npz"
    if not path.exists():
        return []
    try:
        file = reading.npz_file(path, ("score", "label", "origin"))
        score, label, origin = file["score"], file["label"], file["origin"]
    except (reading.Unreadable, KeyError):
        raise UserError(f"{path}: damaged; remove it, and the page is made without its pictures") from None
    if len(np.unique(label)) < 2:
        return []
    curves = {"all": (label, score)}
    fakes = [str(name) for name in dict.fromkeys(origin[label == 1].tolist())]
    for name in fakes if len(fakes) > 1 else []:
        keep = (label == 0) | (origin == name)
        curves[name] = (label[keep], score[keep])
    alarms, hits = held.get("false_alarm_rate"), held.get("tpr")
    point = (alarms, hits) if alarms is not None and hits is not None else None
    drawn = {
        "Fakes found against real photos called fake, all thresholds.": plots.both(plots.roc, curves, point=point),
        "Probabilities given to held-out images.": plots.both(
            plots.score_histogram, label, score, threshold=held.get("threshold")
        ),
        "Whether the probabilities mean what they say.": plots.both(plots.reliability, label, score),
    }
    return [themed(figure, caption) for caption, figure in drawn.items()]


def _settings(config: Mapping) -> dict[str, object]:
    """The choices a reader asks for first; config.json has them all."""
    o, generator, facts = (_part(config, key) for key in ("options", "generator", "data_facts"))
    size = config.get("resolution")
    channels = f"{generator.get('channel_base')}, at most {generator.get('channel_max')}"
    augment = {"ada": f"ADA ({o.get('augpipe')}), target {o.get('target')}", "fixed": f"fixed p {o.get('p')}"}
    return {
        "data": o.get("data") if not facts.get("summary") else f"{o.get('data')}: {facts['summary']}",
        "data fingerprint": facts.get("fingerprint"),
        "resolution": f"{size} x {size}" if size else None,
        "preset": o.get("cfg"),
        "batch": config.get("batch"),
        "length": _number(config.get("kimg"), "{:g} kimg"),
        "learning rate": _number(config.get("lr"), "{:g}"),
        "R1 gamma": _number(config.get("gamma"), "{:.4g}"),
        "generator channels": channels if generator else None,
        "augmentation": augment.get(str(o.get("aug")), "none"),
        "mirrored": "yes" if o.get("mirror") else "no",
        "verdict batch": config.get("verdict_batch"),
        "degradation": o.get("degradation"),
        "precision": config.get("precision"),
        "device": o.get("device"),
        "processes": config.get("world_size"),
        "seed": o.get("seed"),
    }


def _meaning(config: Mapping, verdict: Mapping) -> Section:
    held = _part(verdict, "held_out_clean")
    text = []
    of = _with_interval(held)
    if of["tpr"] and of["false_alarm_rate"]:
        text.append(
            f"At the shipped threshold the detector found {of['tpr']} of the fakes, of the kinds it was measured on, "
            f"and called {of['false_alarm_rate']} of {held.get('n_real', 'the')} {_reals_of(config)} fake."
        )
        text.append(
            "FAKE means: the image shares traces with the generators it was trained against. REAL means: it found no "
            "such traces, not that the photo is authentic. UNSURE means: do not use this verdict."
        )
    text.append(
        "The figures hold for images like the ones measured: other generators, other cameras, heavy re-saving, face "
        "swaps and retouching can look different, and a detector's hit rate on a generator it never met is often far "
        "lower. A few hundred held-out images fix a false-alarm rate only to within about a percentage point."
    )
    text.append(
        "A probability assumes that fakes and real photos are equally common. Where fakes are rare, most alarms are "
        "false ones: with one fake in a hundred photos, a 1 % false-alarm rate and every fake found, half of the "
        "alarms are wrong. A verdict is a reason to look closer, never proof by itself."
    )
    return Section("What this means, and what it does not", text=text)
