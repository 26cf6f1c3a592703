"""The page of one training of a detector, and its pictures in TensorBoard: what it was taught with, how it learnt, and
what its validation images say at the thresholds that it ships."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import one_line
from common.words import counted
from discriminator.training.exploration import CHANNELS, DRAWS, LOOKED_AT, Exploration, say_imbalance
from discriminator.training.finish import TrainingEnd
from metrics.breakdown import AnswerRule, confusion
from metrics.few import auc_text, share_text
from reports import exploration_plots as draw
from reports import plots
from reports.page import Number, Section, pairs, themed, write_report
from training.telemetry import Telemetry, read_jsonl

REPORT = "report.html"
Figure = tuple[bytes, bytes | None]


class TrainingPage:
    """RUN/report.html, written when the data are known and again when the training is over."""

    def __init__(self, folder: Path, config: Mapping, found: Exploration, tel: Telemetry) -> None:
        self.folder, self.config, self.found, self.tel = folder, config, found, tel
        parts = found.parts
        self.drawn: dict[str, Figure] = {
            "classes": plots.both(draw.class_counts, found.counts),
            "levels": plots.both(draw.pixel_levels, parts),
            "brightness": plots.both(draw.brightness, parts),
        }
        self.drawn |= {name: (sheet, None) for name, sheet in draw.sheets(found).items()}

    def begin(self) -> Callable[[TrainingEnd, int], Path]:
        """Pictures of the data to TensorBoard, and the page as far as it is known; returns what finishes it."""
        for name, figure in self.drawn.items():
            self.tel.image(f"Data/{name}", pixels(figure[0]), 0)
        for part in self.found.parts:
            if self.tel.board is not None:
                self.tel.board.add_histogram(f"Data/brightness {part.name}", part.brightness, 0)
        self._write([Section("Training", ["It is running; this page is written again when it is over."])])
        return self.finish

    def finish(self, end: TrainingEnd, nimg: int) -> Path:
        """The whole page; its last pictures to TensorBoard."""
        late = self._late(end)
        for name, figure in late.items():
            self.tel.image(f"Validation/{name}", pixels(figure[0]), nimg)
        if self.tel.board is not None:
            for view, logits in end.views.items():
                for label, kind in enumerate(("real", "fake")):
                    chosen = end.detector.calibration.probability(logits[end.labels == label])
                    self.tel.board.add_histogram(f"Validation/probability {view} {kind}", chosen, nimg)
        return self._write(self._results(end, late), end)

    # ---- drawing -----------------------------------------------------------------------------------------------

    def _late(self, o: TrainingEnd) -> dict[str, Figure]:
        point = o.detector.calibration.at()
        rule = AnswerRule(point.threshold, point.unsure_low, "the shipped one")
        views = {name: o.detector.calibration.probability(logits) for name, logits in o.views.items()}
        called = np.concatenate(list(views.values())) >= point.threshold
        labels = np.tile(o.labels, len(views))
        at = float(called[labels == 0].mean()), float(called[labels == 1].mean())
        thresholds = [(f"FAKE from {point.threshold:.3f}", point.threshold)]
        thresholds += [
            (f"for {100 * p.target_fpr:g} %: {p.threshold:.3f}", p.threshold)
            for p in o.detector.calibration.points
            if p.target_fpr != point.target_fpr
        ]
        stats, metrics = (read_jsonl(self.folder / name) for name in ("stats.jsonl", "metrics.jsonl"))
        drawn: dict[str, Figure] = {
            "history": plots.both(draw.history, stats, metrics),
            "roc": plots.both(plots.roc, {k: (o.labels, v) for k, v in views.items()}, point=at),
            "scores": plots.both(draw.scores, o.labels, views, thresholds, point.unsure_low),
            "reliability": plots.both(plots.reliability, labels, np.concatenate(list(views.values()))),
        }
        for name, probability in views.items():
            drawn[f"confusion-{name}"] = plots.both(plots.confusion, confusion(o.labels, rule.answers(probability)))
        return drawn

    # ---- the page ----------------------------------------------------------------------------------------------

    def _results(self, o: TrainingEnd, drawn: Mapping[str, Figure]) -> list[Section]:
        point, f = o.detector.calibration.at(), o.figures
        n = int((o.labels == 0).sum()), int((o.labels == 1).sum())
        numbers = [
            Number(auc_text(f["auc"], *n), "validation AUC", "clean and degraded views together: what chose the state"),
            Number(auc_text(f["auc_clean"], *n), "AUC of clean images"),
            Number(share_text(f["found_clean"], n[1]), "of the clean fakes found", "at the shipped threshold"),
            Number(share_text(f["false_alarms_clean"], n[0]), "of the clean reals called FAKE",
                   f"set for {100 * point.target_fpr:g} %"),
        ]  # fmt: skip
        caution = (
            "The state was chosen, and the thresholds were set, on these very validation images: the numbers flatter a"
            " little. evaluate.py detector measures it on images that it has never met."
        )
        views = list(o.views)
        return [
            Section("In short", numbers=numbers, notes=[caution]),
            Section("Training", pictures=[themed(drawn["history"], f"Kept: step {o.detector.meta['best_step']}")]),
            Section(
                "Validation", [one_line(point.describe())],
                pictures=[
                    *(themed(drawn[f"confusion-{name}"], f"Answers, {name} views") for name in views),
                    themed(drawn["roc"], "ROC; the dot is the shipped threshold over both views"),
                    themed(drawn["reliability"], "Reliability of the probabilities, both views"),
                ],
                columns=2,
            ),
            Section("Scores", pictures=[themed(drawn["scores"], "Probabilities given to validation images, with every"
                    " calibrated threshold")]),
        ]  # fmt: skip

    def _write(self, results: list[Section], end: TrainingEnd | None = None) -> Path:
        sections = [*results, *self._data(), Section("What this rests on", rows=pairs(self._settings(end)))]
        data = one_line(str(self.config["data"]["name"]))
        title = f"Training of {self.config['options']['model']} on {data}"
        return write_report(self.folder / REPORT, title=title, subtitle=f"Run {self.folder.name}", sections=sections)

    def _data(self) -> list[Section]:
        found, drawn = self.found, self.drawn
        counted = "Test images are counted by their names only; nothing of this training looks at them."
        samples = [
            themed(drawn[f"samples-{name}"], f"{name}: {len(images)} of {found.counts['train'][name]}")
            for name, images in found.samples.items()
        ]
        chain = self.config["degradation"]["name"]
        return [
            Section(
                "Classes",
                [f"Class imbalance: {say_imbalance(found.balance)}."],
                pictures=[themed(drawn["classes"])],
                rows=_shown(self.config["data"]),
                head=True,
                notes=[counted] if "test" in found.counts else [],
            ),
            Section("Samples", ["Training images as the network gets them, before any degradation."], pictures=samples),
            Section(
                "Pixels",
                [f"Of at most {LOOKED_AT} images of each class and split, drawn at random:"
                 f" {', '.join(CHANNELS)}. Classes that differ here can be told apart without a trace of a generator."],
                pictures=[themed(drawn["levels"]), themed(drawn["brightness"])],
                rows=found.table(),
                head=True,
            ),
            Section(
                "What the degradations do",
                [f"Both classes go through the same random chain («{one_line(chain)}»)."],
                pictures=[
                    themed(drawn["degradations"], f"Left the image, right of it {DRAWS} draws; rows: real, fake, …"),
                    themed(drawn["first-batch"], "The first batch as it was shown, half of each class"
                             + ("; above clean, below degraded" if len(found.shown) > 1 else "; degraded views only")),
                ],
            ),
        ]  # fmt: skip

    def _settings(self, end: TrainingEnd | None) -> dict[str, object]:
        c = self.config
        o, r, data = c["options"], c["recipe"], c["data"]
        phases = counted(r["epochs"], "epoch") + (
            f", the first {r['frozen_epochs']:g} frozen" * bool(r["frozen_epochs"])
        )
        fold = data.get("fold")
        if fold is not None:
            fold = f"{fold['fold']} of repeat {fold['repeat'] + 1}, {counted(fold['held_out'], 'image')} held out"
        return {
            "data": one_line(o["data"]),
            "fingerprint": data["fingerprint"][:16],
            "fold": fold,
            "model": o["model"] + (f" {o['size']}" if o["model"] == "hybrid" else ""),
            "first weights": one_line(c["origin"]),
            "resolution": f"{data['preprocess']['resolution']} px"
            + (f", crops of {r['random_crop']}" if r["random_crop"] else ""),
            "learning": f"{phases}, batch {r['batch']}, lr {r['lr']:g} {r['schedule']}, seed {r['seed']}",
            "class imbalance": say_imbalance(self.found.balance),
            "losses": f"patches x {r['patch']:g}, agreement x {r['consistency']:g} ({r['consistency_kind']})",
            "left out as unreadable": data["num_skipped"] or None,
            "kept state": None if end is None else f"step {end.detector.meta['best_step']}",
            "version": c["version"],
            **{f"note {k + 1}": one_line(note) for k, note in enumerate(data["notes"])},
        }  # fmt: skip


def _shown(data: Mapping) -> list[tuple]:
    rows: list[tuple] = [("learnt from", "images", "share of what is shown")]
    return rows + [(one_line(k), n, f"{100 * data['shown'][k]:.3g} %") for k, n in data["train"].items()]


def pixels(data: bytes) -> np.ndarray:
    """A drawn figure as uint8 [H, W, 3], for TensorBoard."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
