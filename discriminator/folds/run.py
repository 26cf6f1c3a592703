"""A cross-validation: a detector for every fold, each judged on the images that it was kept away from.

RUN/
  folds.json            what was dealt to whom, with all options: from it a run is resumed
  fold-0/ … fold-4/     ordinary run folders; of several repeats RUN/repeat-1/fold-0/ …
  oof.csv               every image, judged by the one detector that never saw it
  metrics.json          figures of every fold, their spread, and all folds pooled
  report.html, log.txt, tensorboard/
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from common import reading
from common.cli import own_version
from common.clock import clock
from common.errors import UserError
from common.files import write_json
from common.words import counted
from discriminator.detector import Detector
from discriminator.folds.data import Fold, HeldOut, open_pool
from discriminator.folds.figures import FoldsFound
from discriminator.folds.scores import read_fold, write_fold, write_table
from discriminator.training.data import decoding_threads, load_degradation
from discriminator.training.folders import check_free, check_unchanged, name_of, saved_options
from discriminator.training.options import CrossValidation, RunPlace, TrainerOptions
from discriminator.training.recipe import Recipe
from discriminator.training.run import DETECTOR, MakeReport, SharedImages, say_left_out, train
from discriminator.training.selection import Validation, scores
from metrics.few import auc_text, balanced_text, counts_text
from training.checkpoint import checkpoints
from training.lock import RunLock
from training.run_folder import new_run, remove_leftovers
from training.telemetry import Telemetry

PLAN = "folds.json"
HELD_OUT, TESTED = "oof.csv", "test.csv"
FORMAT = 1


# of the page's file, figures, folds.json and the folds' folders; returns pictures, uint8 [H, W, 3], by name
WriteReport = Callable[[Path, FoldsFound, dict, list[Path]], dict[str, np.ndarray]]


def cross_validate(
    options: TrainerOptions,
    recipe: Recipe,
    asked: CrossValidation,
    place: RunPlace,
    *,
    write_report: WriteReport,
    report: MakeReport | None = None,
) -> Path:
    """Train a detector for every fold (or go on) and return the folder RUN; everything above is then in it.

    report: makes each training's page. UserError, one line, for what a person can mend; KeyboardInterrupt
    after a clean stop."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("`folds` trains one detector after the other in one process; start it without torchrun")
    with closing(Telemetry(True, place.quiet, place.flags)) as tel, RunLock() as lock:
        plan = None
        if place.resume is not None:
            plan, options, recipe, asked = _resumed(place.resume, options)
            lock.take(place.resume)
            remove_leftovers(place.resume)
        else:
            check_free(place.out, place.outdir)
        run = _Folds(options, recipe, asked, place, tel, plan, write_report, report)
        run.prepare()
        folder = place.resume
        if folder is None:
            kind = f"{asked.folds}folds" if asked.repeats == 1 else f"{asked.repeats}x{asked.folds}folds"
            name = name_of(kind, run.pool.source.name, run.pool.data.pre.resolution, options)
            folder = new_run(place.outdir, name, lock, {PLAN: run.plan_json()}, out=place.out)
        tel.open(folder)
        run.go(folder)
        return folder


@dataclass
class _Folds:
    """plan: folds.json of the run that is resumed."""

    options: TrainerOptions
    recipe: Recipe
    asked: CrossValidation
    place: RunPlace
    tel: Telemetry
    plan: dict | None
    write_report: WriteReport
    make_report: MakeReport | None

    def __post_init__(self) -> None:
        self.workers = decoding_threads(self.options)
        if self.plan is None:
            load_degradation(self.options.degradation)  # refused before an hour of decoding

    def prepare(self) -> None:
        """Images, gates, folds: everything that can be refused."""
        import cv2

        cv2.setNumThreads(1)
        self.pool = open_pool(
            self.options, self.asked, self.recipe.seed, workers=self.workers,
            progress=self.tel.progress, gates=self.plan is None,
        )  # fmt: skip
        if self.plan is None:
            self.folds = self.pool.folds(self.recipe.seed)
            return
        self.pool.data.facts["gates"] = self.plan["data"].get("gates")
        saved = self.plan["images"]
        same = self.pool.data.source.fingerprint() == self.plan["data"]["fingerprint"]
        check_unchanged(same and saved["path"] == self._paths(), self.options.data)
        # as it was dealt then, whatever a newer version would deal
        self.pool.groups = np.array(saved["group"], np.int64)
        self.pool.fold = np.array(saved["fold"], np.int32)
        self.folds = self.pool.folds(self.recipe.seed)
        for fold, index in zip(self.folds, saved["validation"], strict=True):
            fold.valid[:] = False
            fold.valid[index] = True
            fold.taught &= ~fold.valid

    def _paths(self) -> list[str]:
        return [str(path) for path in self.pool.table["path"].tolist()]

    def plan_json(self) -> dict:
        """For folds.json."""
        p, source = self.pool, self.pool.data.source
        return {
            "format": FORMAT, "folds": self.asked.folds, "repeats": self.asked.repeats, "seed": self.recipe.seed,
            "options": asdict(self.options), "recipe": self.recipe.to_dict(), "version": own_version(),
            "data": {
                "name": source.name, "fingerprint": source.fingerprint(), "preprocess": p.data.pre.to_dict(),
                "images": p.counts(np.ones(len(p), bool)), "test": None if p.test is None else len(p.test.rows),
                "grouped_by": p.grouped_by, "groups": len(np.unique(p.groups)), "notes": p.notes,
                "gates": p.data.facts.get("gates"), "num_skipped": p.data.facts["num_skipped"],
                "skipped": p.data.facts["skipped"],
            },
            "images": {
                "path": self._paths(), "label": p.labels.tolist(), "group": p.groups.tolist(), "fold": p.fold.tolist(),
                "validation": [np.flatnonzero(fold.valid).tolist() for fold in self.folds],
            },
        }  # fmt: skip

    # ---- the run -----------------------------------------------------------------------------------------------

    def folder(self, root: Path, fold: Fold) -> Path:
        inside = root if self.asked.repeats == 1 else root / f"repeat-{fold.repeat + 1}"
        return inside / f"fold-{fold.number}"

    def go(self, root: Path) -> None:
        self._announce(root)
        began = time.monotonic()
        waiting = [fold for fold in self.folds if not self._done(self.folder(root, fold))]
        for trained, fold in enumerate(waiting, 1):
            self.tel.say(f"--- {self.name(fold)}: {self._counts(fold)}")
            self._one(root, fold)
            left = (time.monotonic() - began) / trained * (len(waiting) - trained)
            f, n = read_fold(self.folder(root, fold) / HELD_OUT).figures(), self.pool.counts(fold.held_out)
            auc = auc_text(f["roc_auc"], n["real"], n["fake"], 4)
            balanced = balanced_text(f["balanced_accuracy"], n["real"], n["fake"])
            self.tel.say(
                f"--- {self.name(fold)}: held-out AUC {auc}, balanced accuracy {balanced}"
                + (counts_text(n["real"], n["fake"]) or f", F1 {f['f1_fake']:.3f}")
                + (f"; {counted(len(waiting) - trained, 'fold')} to go, about {clock(left)}" if left else "")
            )
        self._conclude(root)

    def name(self, fold: Fold) -> str:
        repeat = f"repeat {fold.repeat + 1} of {self.asked.repeats}, " if self.asked.repeats > 1 else ""
        return f"{repeat}fold {fold.number} of {self.asked.folds}"

    def _counts(self, fold: Fold) -> str:
        parts = {"learns from": fold.taught, "validates on": fold.valid, "is tested on": fold.held_out}
        words = []
        for verb, mask in parts.items():
            n = self.pool.counts(mask)
            words.append(f"{verb} {n['real']} real + {n['fake']} fake")
        return ", ".join(words)

    def _announce(self, root: Path) -> None:
        p, say = self.pool, self.tel.say
        n = p.counts(np.ones(len(p), bool))
        again = "resuming   " if self.plan is not None else "run        "
        say(
            f"{again} {root}: {self.asked.folds} folds, {counted(self.asked.repeats, 'repeat')}, seed"
            f" {self.recipe.seed}"
        )
        say(
            f"images      {p.source.name}: {n['real']} real + {n['fake']} fake in"
            f" {counted(len(np.unique(p.groups)), 'group')}"
        )
        say_left_out(say, p.data.facts if self.plan is None else self.plan["data"], p.notes, PLAN)

    def _done(self, folder: Path) -> bool:
        return (folder / HELD_OUT).is_file() and (self.pool.test is None or (folder / TESTED).is_file())

    def _one(self, root: Path, fold: Fold) -> None:
        """Train a fold (or go on with it), judge its held-out images, and let its checkpoints go."""
        folder = self.folder(root, fold)
        part = SharedImages(lambda: self.pool.gathered(fold), self.pool.decoded, root)
        # every repeat starts from other weights, every fold of it from the same
        recipe = replace(self.recipe, seed=self.recipe.seed + fold.repeat)
        if not (folder / DETECTOR).is_file():
            began = bool(checkpoints(folder)) if folder.is_dir() else False
            if folder.is_dir() and not began and any(folder.iterdir()):
                self.tel.say(f"note        {folder} was ended before its first checkpoint: it begins again")
                shutil.rmtree(folder)
            place = replace(self.place, out=None if began else folder, resume=folder if began else None)
            train(self.options, recipe, place, part=part, report=self.make_report)
        detector = Detector.load(folder / DETECTOR)
        self._judge(detector, fold, folder / HELD_OUT, self.pool.held_out(fold))
        if self.pool.test is not None:
            self._judge(detector, fold, folder / TESTED, self.pool.test)
        for path in checkpoints(folder):  # of use only to a training that is not over
            path.unlink()

    def _judge(self, detector: Detector, fold: Fold, path: Path, images: HeldOut) -> None:
        told: Callable[[int, int], None] = lambda done, total: self.tel.progress(f"judging {done}/{total}")  # noqa: E731
        clean = Validation(images.rows, images.rows.labels, (("clean", ()),))
        device = self.options.device
        detector.net.to(device)
        logits = scores(detector.net, clean, workers=self.workers, progress=told)[0]
        detector.net.to("cpu")
        if not np.isfinite(logits).all():
            raise UserError(f"{path.parent}: its detector gives no numbers; lower `lr` and start again")
        write_fold(path, images, logits, detector.calibration, fold)

    def _conclude(self, root: Path) -> None:
        tables = [read_fold(self.folder(root, fold) / HELD_OUT) for fold in self.folds]
        order = np.concatenate([np.flatnonzero(fold.held_out) for fold in self.folds])
        write_table(root / HELD_OUT, tables, order, self.asked.repeats)
        tests = [read_fold(self.folder(root, fold) / TESTED) for fold in self.folds] if self.pool.test else []
        found = FoldsFound(
            folds=self.asked.number, repeats=self.asked.repeats, seed=self.recipe.seed, tables=tables, tests=tests,
            tested_to_taught=float(np.mean([f.held_out.sum() / (f.taught.sum() + f.valid.sum()) for f in self.folds])),
            dealt=[{"repeat": f.repeat, "fold": f.number, "learnt": self.pool.counts(f.taught),
                    "validated": self.pool.counts(f.valid), "held_out": self.pool.counts(f.held_out)}
                   for f in self.folds],
        )  # fmt: skip
        write_json(root / "metrics.json", found.to_json())
        for line in found.lines():
            self.tel.say(line)
        plan = self.plan or self.plan_json()
        runs = [self.folder(root, fold) for fold in self.folds]
        pictures = self.write_report(root / "report.html", found, plan, runs)
        for name, values in found.scalars().items():
            for k, value in enumerate(values):
                self.tel.scalars({f"Folds/{name}": value}, k)
        for name, image in pictures.items():
            self.tel.image(f"Folds/{name}", image, 0)
        self.tel.say(f"written     {root / HELD_OUT}, metrics.json, report.html")


# ---- folders ------------------------------------------------------------------------------------------------------


def holds_folds(folder: Path) -> bool:
    """Whether it is the folder of a cross-validation."""
    return (folder / PLAN).is_file()


def _resumed(resume: Path, now: TrainerOptions) -> tuple[dict, TrainerOptions, Recipe, CrossValidation]:
    try:
        plan = reading.json_file(resume / PLAN)
        _ = plan["images"]["validation"], plan["data"]["fingerprint"]
        if plan.get("format") != FORMAT:
            raise KeyError("format")
        asked = CrossValidation(int(plan["folds"]), int(plan["repeats"]))
        return plan, saved_options(plan["options"], now), Recipe.from_dict(plan["recipe"]), asked
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"`resume` {resume}: its {PLAN} can't be read; give a run of `folds`") from None
