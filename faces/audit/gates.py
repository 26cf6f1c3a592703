"""The leak gates: what each is shown, when it passes, what its failure means and which command repairs it.

A gate's classifier may see one kind of trace only. Verdicts, with the 99 % interval of `faces.audit.crossval`:

    fail      AUC above .55, and more than chance explains
    pass      AUC at most .55, and the interval ends at or below .60
    unclear   everything else: there are too few images to tell (1000 of each class are enough)
    skipped   it could not be looked at: one class only, or no face model

An AUC below .5 in cross-validation is no leak: what was learnt did not hold on other images. Gates that count (copies,
near duplicates) pass at 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from common.words import counted
from faces.audit.crossval import Auc
from faces.audit.leak_features import Traces
from faces.scan import Facts

LIMIT = 0.55
WIDEST = 0.60
CATEGORIES = 12  # values of a header field that are told apart; the rarest share one number
PASS, FAIL, UNCLEAR, SKIPPED = "pass", "fail", "unclear", "skipped"

# kinds of repair, of which `faces.audit.repairs` makes commands: the files written anew, aligned, too; other splits
EVEN, ALIGN, SPLIT = "even", "align", "split"

# name -> (what the classifier may see, what it means when that tells real from fake, repair)
ABOUT = {
    "metadata": (
        "format, size, JPEG tables, subsampling, colour mode and what else the header holds",
        "the classes come from different encoders: a detector learns PNG against JPEG, and fails on the first re-saved "
        "photo",
        EVEN,
    ),
    "size": (
        "width, height and their ratio",
        "the classes differ in size; resizing hides it from the eye, but leaves one class scaled and the other not",
        EVEN,
    ),
    "blockiness": (
        "how strongly the picture breaks at each shift of the 8 x 8 grid",
        "one class was compressed otherwise before, or its generator draws a grid. Saving again on the same grid "
        "leaves it; aligning turns and scales the pictures off it",
        ALIGN,
    ),
    "spectrum": (
        "the radial power spectrum",
        "one class is sharper, smoother or scaled by another kernel. If it stays after normalising, it is in the "
        "pictures (their generator, other cameras): then compare every detector with this AUC, and judge by other sets",
        EVEN,
    ),
    "landmarks": (
        "where eyes, nose and mouth are",
        "one class is cropped or aligned otherwise: a detector learns where the eyes are",
        ALIGN,
    ),
    "colour": (
        "the mean colour",
        "one class is brighter or tinted: other cameras, other editing, or another colour conversion. No command takes "
        "it out of the files: train with colour augmentation, or take reals and fakes of one origin",
        "",
    ),
    "layout": (
        "an 8 x 8 grey thumbnail",
        "the classes are framed otherwise, or show other things (backdrops, poses); aligning repairs the first. What "
        "is left is what the pictures show: judge by other sets",
        ALIGN,
    ),
    "copies across splits": (
        "SHA-256",
        "the same file is in two splits: a test on it measures memory",
        SPLIT,
    ),
    "near duplicates across splits": (
        "perceptual hash, mirrored too",
        "the same picture, re-saved or mirrored, is in two splits: a test on it measures memory",
        SPLIT,
    ),
    "one image, both labels": (
        "SHA-256",
        "the same file is called real and fake: one of the two is wrong",
        "",
    ),
    "overlap": (
        "SHA-256 and perceptual hash, mirrored too",
        "the two sets share pictures: one cannot test what was trained on the other",
        "",
    ),
    "control": (
        "all of the above, with shuffled labels",
        "labels drawn by lot were «recognised»: this audit itself can't be trusted on this set. Look for duplicates "
        "that the perceptual hash misses (frames of one video, crops of one photo)",
        "",
    ),
}


@dataclass(frozen=True)
class Gate:
    """One gate's answer. `verdict`: pass, fail, unclear or skipped. Classifier gates have `auc`, counting gates `count`
    (and `examples`: pairs of names). `detail` is one line of what was found; `meaning` and `repair` are there when it
    did not pass; `repair` is at first EVEN, ALIGN, SPLIT or "", in an `AuditResult` a command or "". `sees` is what it
    looked at."""

    name: str
    verdict: str
    detail: str
    sees: str
    meaning: str = ""
    repair: str = ""
    auc: Auc | None = None
    count: int | None = None
    examples: tuple[tuple[str, str], ...] = field(default=())

    @property
    def passed(self) -> bool | None:
        """True or False; None where it can't be told."""
        return {PASS: True, FAIL: False}.get(self.verdict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; NaN becomes None."""
        found = asdict(self) | {"passed": self.passed, "examples": [list(pair) for pair in self.examples]}
        if self.auc is not None:
            found["auc"] = {k: None if v != v else v for k, v in asdict(self.auc).items()}
        return found


def judge(found: Auc) -> str:
    """The verdict on a cross-validated AUC, by the rule in the module's docstring."""
    if not found.known:
        return UNCLEAR
    if found.auc > LIMIT and found.beats_chance:
        return FAIL
    return PASS if found.auc <= LIMIT and found.high <= WIDEST else UNCLEAR


def classifier_gate(name: str, found: Auc, detail: str = "") -> Gate:
    """The gate `name` for what its classifiers reached."""
    sees, meaning, repair = ABOUT[name]
    verdict = judge(found)
    if verdict == UNCLEAR:
        meaning = (
            f"{found.real} real and {counted(found.fake, 'fake image')} are too few to tell; 1000 of each are enough"
        )
        repair = ""
    if verdict == PASS:
        meaning = repair = ""
    if found.constant:
        detail = "the same for all images"
    return Gate(name, verdict, detail, sees, meaning, repair, auc=found)


def counting_gate(name: str, count: int, examples: Sequence[tuple[str, str]], detail: str, *, of: str = "") -> Gate:
    """A gate that passes at 0. `of` completes the name (the other set's)."""
    sees, meaning, repair = ABOUT[name]
    name = f"{name} {of}".strip()
    if not count:
        return Gate(name, PASS, "none", sees, count=0)
    return Gate(name, FAIL, detail, sees, meaning, repair, count=count, examples=tuple(examples[:20]))


def skipped(name: str, why: str) -> Gate:
    """A gate that could not be looked at."""
    return Gate(name, SKIPPED, why, ABOUT[name][0])


# ---- what the classifiers see -----------------------------------------------------------------------------------


def size_features(facts: Sequence[Facts]) -> np.ndarray:
    """float [N, 3]: width, height, ratio."""
    size = np.array([(f.width, f.height) for f in facts], np.float64).reshape(-1, 2)
    return np.column_stack([size, size[:, 0] / size[:, 1].clip(1)])


def metadata_columns(facts: Sequence[Facts], marks: Sequence[tuple[str, ...]]) -> dict[str, list[str]]:
    """Each header field as text, one per image: what is told to people, and one-hot to the classifiers."""
    named = {
        "format": [f.format for f in facts],
        "mode": [f.mode for f in facts],
        "JPEG quality": ["" if f.quality is None else str(f.quality) for f in facts],
        "JPEG tables": [f.tables for f in facts],
        "subsampling": [f.subsampling or "" for f in facts],
        "size": [f"{f.width}x{f.height}" for f in facts],
    }
    for mark in sorted({mark for each in marks for mark in each})[:40]:
        named[mark] = ["with" if mark in each else "without" for each in marks]
    return named


def metadata_features(facts: Sequence[Facts], columns: dict[str, list[str]]) -> np.ndarray:
    """float [N, F]: one-hot fields (the commonest values), the quality as a number (NaN: none), and the size."""
    parts = [np.array([np.nan if f.quality is None else f.quality for f in facts], np.float64)]
    for values in columns.values():
        common = [value for value, _ in Counter(values).most_common(CATEGORIES)]
        if len(common) > 1:
            array = np.array(values)
            parts += [(array == value).astype(np.float64) for value in common]
    return np.column_stack([*parts, size_features(facts)])


def telling(columns: dict[str, list[str]], labels: np.ndarray) -> str:
    """The one value that tells most: «format PNG: 0 % of the reals, 100 % of the fakes»; "" where none differs."""
    best, line = 0.05, ""
    for name, values in columns.items():
        real = Counter(v for v, label in zip(values, labels) if label == 0)
        fake = Counter(v for v, label in zip(values, labels) if label == 1)
        for value in sorted(real.keys() | fake.keys()):
            a, b = real[value] / max(real.total(), 1), fake[value] / max(fake.total(), 1)
            if abs(a - b) > best:
                best = abs(a - b)
                line = f"{name} {value or 'none'}: {100 * a:.0f} % of the reals, {100 * b:.0f} % of the fakes"
    return line


def look_features(looks: Sequence[Traces]) -> dict[str, np.ndarray]:
    """gate -> float [N, F] for the gates that look at pixels."""
    return {
        "blockiness": np.stack([each.blockiness for each in looks]),
        "spectrum": np.stack([each.spectrum for each in looks]),
        "colour": np.stack([each.colour for each in looks]),
        "layout": np.stack([each.thumb for each in looks]),
    }


def colour_detail(colours: np.ndarray, labels: np.ndarray) -> str:
    """Mean colours of the classes."""
    real, fake = (colours[labels == label].mean(0) for label in (0, 1))
    return "mean R G B: real " + " ".join(f"{v:.1f}" for v in real) + ", fake " + " ".join(f"{v:.1f}" for v in fake)


def landmark_features(faces: Sequence[Sequence], sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """float [N, 15]: number of faces, and of the biggest its box and five landmarks as shares of the image (NaN: none).

    faces: `FaceFinder.find`'s answer per image; sizes: (height, width)."""
    rows = np.full((len(faces), 15), np.nan)
    for row, found, (height, width) in zip(rows, faces, sizes):
        row[0] = len(found)
        if found:
            row[1:5] = np.array(found[0].box) / [width, height, width, height]
            if found[0].landmarks is not None:
                row[5:] = (found[0].landmarks / [width, height]).ravel()
    return rows
