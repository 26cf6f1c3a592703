"""Faces out of videos, for training sets: every n-th frame, its face cut out and saved as `faces.normalise` does it.

DEST/train/fake/<video>/frame000120.jpg     whole videos lie in one split
DEST/manifest.csv                           with the columns identity, video, frame and seconds
DEST/frames.json, frames.jsonl              what was asked for, and a line for each video that is done
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from common import reading
from common.errors import BadImage, UserError
from common.files import disk_errors_of, try_lock, write_bytes, write_json
from common.parallel import Progress, in_order, told
from common.words import counted, none_of
from faces.finding.align import FaceFinder
from faces.footage import Footage, open_footage
from faces.layout import LABEL_NAMES
from faces.manifest import manifest_of, write_manifest
from faces.normalise import Unfit, cut, encode_image
from faces.prepare_options import Framing, Normalisation
from faces.similar import phash
from faces.video import Video

RECORD, JOURNAL, MANIFEST = "frames.json", "frames.jsonl", "manifest.csv"
AHEAD = 2  # videos of each thread that may be done before they are told
MEASURED = ("size", "sha256", "quality", "phash")


@dataclass
class Framed:
    """What was made. crops: of each (split, label). videos: likewise. skipped: (video, why) of those that gave nothing;
    short: (video, how many frames had no usable face, or what ended it). notes: of the videos' list."""

    dest: str
    crops: dict[tuple[str, int], int] = field(default_factory=dict)
    videos: dict[tuple[str, int], int] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    short: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """A table of what there is."""
        kinds = sorted({label for _, label in self.crops})
        out = ["split  " + "".join(f"{f'{LABEL_NAMES[k]} videos':>13}{'crops':>8}" for k in kinds)]
        for part in [p for p in ("train", "valid", "test") if any(p == split for split, _ in self.crops)]:
            cells = ((self.videos.get((part, k), 0), self.crops.get((part, k), 0)) for k in kinds)
            out.append(f"{part:7}" + "".join(f"{videos:>13}{crops:>8}" for videos, crops in cells))
        return out


def make_frames(
    asked: Framing, recipe: Normalisation, finder: FaceFinder | None, *, progress: Progress | None = None
) -> Framed:
    """Cut faces out of videos into the folder `asked.dest`. Called again it makes what an interruption left missing.

    Raises UserError where there are no videos, dest is a folder of something else or of another recipe, or no video
    gives a face. A video that can't be read, or shows no face, is skipped by name."""
    if recipe.align != "none" and finder is None:
        raise UserError("alignment needs a face finder")
    if recipe.faces != "biggest":
        raise UserError("`faces` all: of a video's frames the biggest face is taken; leave it out")
    footage = open_footage(asked, recipe.seed)
    dest = Path(os.path.abspath(os.path.expanduser(asked.dest)))
    source = Path(os.path.realpath(os.path.expanduser(asked.videos)))
    if Path(os.path.realpath(dest)).is_relative_to(source):
        raise UserError(f"{dest}: lies in the folder of the videos, {source}; choose a folder apart from it")
    _begin(dest, asked, recipe, finder.name if finder is not None else "", footage)
    with disk_errors_of(dest / JOURNAL), open(dest / JOURNAL, "a+", encoding="utf-8") as journal:
        if not try_lock(journal.fileno()):
            raise UserError(f"{dest}: another call is writing into it; wait for it, or choose another folder")
        done = _done(journal, dest)
        work = _Cutter(footage, dest, asked, recipe, finder, done)
        results = []
        for line in told(in_order(work, len(footage), asked.workers, chunk=1, ahead=AHEAD), len(footage), progress):
            results.append(line)
            if line["path"] not in done:
                journal.write(json.dumps(line) + "\n")
                journal.flush()
    return _told(footage, dest, recipe, results)


def _begin(dest: Path, asked: Framing, recipe: Normalisation, detector: str, footage: Footage) -> None:
    """Make the folder one of these options, or find that it is."""
    fixed = {
        key: value for key, value in asdict(asked).items() if key not in ("dest", "workers", "face_model", "offline")
    }
    # with other videos others would be dealt to another split, and crops of before would lie in two
    which = json.dumps([footage.names, footage.labels.tolist(), footage.splits])
    listed = hashlib.sha256(which.encode("utf-8", "surrogateescape")).hexdigest()
    record = json.loads(json.dumps({"detector": detector, **fixed, **asdict(recipe), "listed": listed}))
    try:
        dest.mkdir(parents=True, exist_ok=True)
        there = set(os.listdir(dest))
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{dest}: there is a file of that name; choose another folder") from None
    if not there:
        write_json(dest / RECORD, record)
        return
    saved: object = None
    with contextlib.suppress(OSError, ValueError):
        saved = reading.json_file(dest / RECORD)
    if not isinstance(saved, dict):
        raise UserError(f"{dest}: is not empty, and not a folder that frames made; choose a new one")
    if [key for key in record if saved.get(key) != record[key]] == ["listed"]:
        raise UserError(f"{dest}: was begun with other videos, which were dealt out otherwise; choose a new folder")
    if different := next((key for key in record if saved.get(key) != record[key]), None):
        raise UserError(
            f"{dest}: was begun with {different} {saved.get(different)!r}, not {record[different]!r}; go on as it was,"
            " or choose a new folder"
        )


def _done(journal, dest: Path) -> dict[str, dict]:
    """The journal's lines of videos all of whose crops are there, by path."""
    journal.seek(0)
    found, text = {}, "\n"
    for text in journal:
        with contextlib.suppress(ValueError, TypeError, KeyError, OSError):  # a killed run leaves half a line
            line = reading.json_of(text)
            if all(os.path.getsize(dest / crop["out"]) == crop["size"] for crop in line["crops"]):
                found[line["path"]] = line
    if not text.endswith("\n"):
        journal.write("\n")
    return found


@dataclass(frozen=True)
class _Cutter:
    """Called with a video's number: cuts its faces out and returns its line of the journal. From several threads."""

    footage: Footage
    dest: Path
    asked: Framing
    recipe: Normalisation
    finder: FaceFinder | None
    done: dict[str, dict]

    def __call__(self, i: int) -> dict:
        path = self.footage.paths[i]
        if path in self.done:
            return self.done[path]
        line: dict = {"path": path, "crops": [], "faceless": 0, "error": "", "remarks": []}
        try:
            with Video(path) as video:
                step = self._step(video)
                for frame in video.frames(0):
                    if frame.number % step == 0:
                        self._one(i, frame, line)
                    if len(line["crops"]) == self.asked.most:
                        break
                line["remarks"] = video.remarks()
        except BadImage as error:
            line["error"] = error.reason
        return line

    def _step(self, video: Video) -> int:
        """Every n-th frame, or less often where that would be more than `most`, so that all of the video is seen."""
        return self.asked.every * max(1, math.ceil(video.count / (self.asked.every * self.asked.most)))

    def _one(self, i: int, frame, line: dict) -> None:
        digest = hashlib.sha256(frame.pixels.tobytes()).hexdigest()
        try:
            pixels, facts = cut(frame.pixels, self.recipe, self.finder)
        except Unfit:
            line["faceless"] += 1
            return
        encoded, quality = encode_image(pixels, digest, self.recipe)
        ending = "jpg" if self.recipe.format == "jpeg" else "png"
        split, label = self.footage.splits[i], LABEL_NAMES[self.footage.labels[i]]
        out = f"{split}/{label}/{self.footage.names[i]}/frame{frame.number:06d}.{ending}"
        (self.dest / out).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.dest / out, encoded, durable=False)
        line["crops"].append({
            "out": out, "frame": frame.number, "seconds": round(frame.seconds, 3), **facts,
            "size": len(encoded), "sha256": hashlib.sha256(encoded).hexdigest(), "quality": quality,
            "phash": phash(np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))),
        })  # fmt: skip


def _told(footage: Footage, dest: Path, recipe: Normalisation, results: list[dict]) -> Framed:
    """Write the manifest and count."""
    framed = Framed(str(dest), notes=footage.notes)
    rows: list[tuple[int, dict]] = []
    for i, line in enumerate(results):
        crops, key = line["crops"], (footage.splits[i], int(footage.labels[i]))
        seen = counted(line["faceless"], "frame")
        if not crops:
            why = line["error"] or f"no usable face in {seen}"
            framed.skipped.append((line["path"], "; ".join([why, *line["remarks"]])))
            continue
        if line["error"] or line["remarks"]:
            framed.short.append((line["path"], "; ".join([line["error"], *line["remarks"]]).strip("; ")))
        elif line["faceless"]:
            framed.short.append((line["path"], f"{seen} without a usable face"))
        framed.crops[key] = framed.crops.get(key, 0) + len(crops)
        framed.videos[key] = framed.videos.get(key, 0) + 1
        rows += [(i, crop) for crop in crops]
    if not rows:
        name, reason = framed.skipped[0]
        raise UserError(none_of(len(results), "video", "gives a face", f"{name}: {reason}"))
    count, labels = len(rows), footage.labels
    own: dict[str, list] = {
        "path": [crop["out"] for _, crop in rows],
        "label": [int(labels[i]) for i, _ in rows],
        "source": [os.path.basename(dest)] * count,
        "generator": [""] * count,
        "split": [footage.splits[i] for i, _ in rows],
        "fold": [None] * count,
        "width": [recipe.resolution] * count,
        "height": [recipe.resolution] * count,
        "format": [recipe.format.upper()] * count,
        "identity": [footage.names[int(np.flatnonzero(footage.groups == footage.groups[i])[0])] for i, _ in rows],
        "video": [footage.paths[i] for i, _ in rows],
    }
    own |= {name: [crop[name] for _, crop in rows] for name in MEASURED}
    own |= {name: [str(crop[name]) for _, crop in rows] for name in ("frame", "seconds", "faces", "aligned", "side")}
    write_manifest(dest / MANIFEST, manifest_of(own, None), replace=True)
    framed.notes += _missing(framed)
    return framed


def _missing(framed: Framed) -> list[str]:
    """Lines about labels and splits that there are none of."""
    kinds = sorted({label for _, label in framed.videos})
    notes = [f"all videos are {LABEL_NAMES[kinds[0]]}: a detector learns from both"] if len(kinds) == 1 else []
    for label in kinds:
        if not framed.videos.get(("valid", label)):
            notes.append(
                f"no {LABEL_NAMES[label]} videos in valid: there are too few, or too few groups of them. A training"
                " without validation videos holds out frames of those that it learns from, and its figures are too"
                " good: give more videos, or other `ratios`"
            )
    return notes
