"""How faithful maps are to the detector that they explain: deletion, insertion, and a test with randomised weights.

V. Petsiuk et al., "RISE: randomized input sampling for explanation of black-box models" (BMVC 2018): the squares of a
grid are taken away in the order of the map, the most telling first, and the score of what was said should fall fast
(deletion: a small area under the curve); put back into a picture without any, it should rise fast (insertion: a large
one). A random order of the same squares is what a map must beat. J. Adebayo et al., "Sanity checks for saliency maps"
(NeurIPS 2018): a map that stays when the network's weights are shuffled tells of the picture, not of the network.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common.device import pick_device
from common.errors import BadImage, UserError
from common.files import write_json
from common.outputs import plain
from common.reading import json_file, json_of
from common.words import counted, none_of
from discriminator.detector import Detector
from discriminator.detector_base import DetectorBase
from discriminator.engine import open_engine
from discriminator.explaining.attribution import Effort, Explainer
from discriminator.explaining.attributions import Attribution
from discriminator.explaining.methods import check_installed, chosen
from discriminator.locate import find_detector
from discriminator.verdict import Threshold
from evaluation.listener import Listener
from evaluation.options import ExplainingOptions
from evaluation.scoring import Scorer, open_labelled
from faces.degrade import PRESETS
from metrics.bootstrap import LEVEL
from metrics.few import ENOUGH

RANDOM = "random"
RESULT = "explain.json"
PROGRESS = "progress.json"
GRID = 16  # squares a side, in which all maps are ranked
STAGES = {"last layer": 0.0, "later half": 0.5, "all layers": 1.0}
SAME = 0.5  # a map of shuffled weights that is more like the true one than that is not of the network


@dataclass(frozen=True)
class Mean:
    """A mean over images with its 95 % bootstrap interval; NaN without any. Values that are all the same, as one is,
    have no interval: no draw of them could say how sure they are."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float], resamples: int, seed: int) -> Mean:
        x = np.asarray(values, np.float64)
        x = x[np.isfinite(x)]
        if not len(x):
            return cls(math.nan, math.nan, math.nan, 0)
        if (x == x[0]).all():
            return cls(float(x[0]), math.nan, math.nan, len(x))
        rng = np.random.default_rng(seed)
        means = x[rng.integers(len(x), size=(resamples, len(x)))].mean(1)
        tail = 50 * (1 - LEVEL)
        low, high = np.percentile(means, [tail, 100 - tail])
        return cls(float(x.mean()), float(low), float(high), len(x))

    def above(self, limit: float = 0.0) -> bool:
        return self.n > 0 and self.low > limit


@dataclass
class Seen:
    """One image under one method: the areas under its curves, CPU seconds, rank correlations by stage."""

    deletion: float = math.nan
    insertion: float = math.nan
    seconds: float = math.nan
    like: dict[str, float] = field(default_factory=dict)

    @property
    def spread(self) -> float:
        """Insertion less deletion: what a method is worth."""
        return self.insertion - self.deletion


@dataclass(frozen=True)
class Row:
    """What a method is worth. better: its spread less that of the random order, image by image. like: rank correlation
    of the map with that of shuffled weights, by stage. note: why there is no map, or what it leaves out."""

    method: str
    deletion: Mean
    insertion: Mean
    better: Mean
    seconds: Mean
    like: dict[str, Mean]
    note: str = ""

    @property
    def of_the_network(self) -> bool:
        """Whether shuffling all weights changed the map."""
        found = self.like.get("all layers")
        return found is None or not found.n or abs(found.value) <= SAME


@dataclass
class ExplainingResult:
    rows: list[Row]
    settings: dict
    favoured: str = ""
    notes: list[str] = field(default_factory=list)
    images: list[dict] = field(default_factory=list)
    shown: tuple | None = None  # (picture, verdict, crop, attributions) of one image, for the sheet
    stopped: bool = False  # before all images were explained

    def to_json(self) -> dict:
        return {
            "format": "ganface-explaining", "version": 1, "settings": self.settings, "notes": self.notes,
            "stopped": self.stopped, "favoured": self.favoured,
            "methods": [
                {
                    "method": row.method, "note": row.note, "of_the_network": row.of_the_network,
                    **{name: vars(getattr(row, name)) for name in ("deletion", "insertion", "better", "seconds")},
                    "like": {stage: vars(mean) for stage, mean in row.like.items()},
                }
                for row in self.rows
            ],
            "images": self.images,
        }  # fmt: skip


def was_stopped(out: Path) -> bool:
    """Whether a folder holds the result of a run that was stopped, with which the same again goes on."""
    with contextlib.suppress(ValueError, AttributeError, OSError):
        return bool(json_file(out / RESULT).get("stopped"))
    return False


def evaluate_explanations(
    options: ExplainingOptions,
    listener: Listener = Listener(),  # noqa: B008 (frozen)
) -> ExplainingResult:
    """Measure the methods that `options` asks for. After Ctrl-C, of the images so far; the same again goes on."""
    methods = chosen(options.methods, "methods")
    check_installed(methods)
    work = _Work.opened(options, methods, listener)
    bar = listener.bar(total=work.total, title="explained", unit="img")
    stopped, known = False, work.take_up()
    if not known and not options.force and was_stopped(Path(options.out)):
        raise UserError(
            f"`out` {options.out}: holds the {RESULT} of a stopped run of other options, or its {PROGRESS} is gone:"
            " choose another folder, or `force`"
        )
    if known:
        listener.tell(f"{known} images were explained before, in {work.kept}")
    try:
        for number, (label, seen) in enumerate(work.images()):
            if number >= known:
                work.one(label, seen)
                work.keep()
            elif label == 1 and work.shown is None:  # its maps were not kept
                work.show(seen, work.maps(seen))
            bar.update(1)
    except KeyboardInterrupt:
        if not work.done:
            raise
        stopped = True
    bar.close()
    if not work.done:
        first = ": ".join(next(iter(work.skipped.items()))) if work.skipped else ""
        raise UserError(
            f"{none_of(work.total, 'image', 'can be explained', first)}; is `data` what this detector judges?"
        )
    result = work.result()
    if stopped:
        result.stopped = True
        result.notes.append(f"stopped after {len(work.done)} of {counted(work.total, 'image')}")
    return result


class _Work:
    """The images, who explains them, and what came of it: `done`, for each image a `Seen` by method."""

    def __init__(self, options: ExplainingOptions, methods: tuple[str, ...], detector: DetectorBase, effort: Effort):
        self.options, self.methods, self.detector, self.effort = options, methods, detector, effort
        self.explainer = Explainer(detector, effort)
        self.shuffled: dict[str, Explainer] = {}
        self.done: list[dict[str, Seen]] = []
        self.labels: list[int] = []
        self.leans: list[bool] = []
        self.notes: dict[str, str] = {}
        self.said: list[str] = []
        self.skipped: dict[str, str] = {}
        self.parts: list = []
        self.shown: tuple | None = None
        self.where = ""

    @classmethod
    def opened(cls, options: ExplainingOptions, methods: tuple[str, ...], listener: Listener) -> _Work:
        where = find_detector(options.target, parameter="target")
        effort = Effort(options.steps, options.squares, options.coarse, options.samples, options.seed)
        engine = open_engine(where, device=options.device)
        detector = engine.detector
        if where.suffix.lower() != ".onnx":
            detector = Detector.load(where, pick_device(options.device))
        own = cls(options, methods, detector, effort)
        own.explainer = Explainer(detector, effort, engine.detector)
        own.where = str(where)
        if isinstance(detector, Detector):
            own.shuffled = {
                stage: Explainer(shuffled(detector, share, options.seed), effort) for stage, share in STAGES.items()
            }
        else:
            own.said.append("an ONNX file's weights are not shuffled: give detector.safetensors for that test")
        own.parts = open_labelled(options)
        by = " answered by its exported twin" if engine.onnx not in (None, where) else ""
        listener.tell(f"{where} (sha256 {detector.sha256[:12]}…){by}; {', '.join(methods)}")
        for part in own.parts:
            listener.tell(part.describe())
        return own

    @property
    def total(self) -> int:
        return sum(map(len, self.parts))

    # ---- what a run that is stopped leaves for the next

    @property
    def kept(self) -> Path:
        return Path(self.options.out) / PROGRESS

    def _same(self) -> dict:
        """What must be the same for images of an earlier run to count."""
        wanted = vars(self.options) | {"resamples": 0, "force": False, "out": "", "workers": 0, "batch": 0}
        content = [part.source.content_stamp() for part in self.parts]
        return json_of(json.dumps({"sha256": self.detector.sha256, "content": content, **wanted}, default=str))

    def take_up(self) -> int:
        """How many images an earlier run of the same has explained."""
        if not self.options.force and self.kept.is_file():
            with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
                before = json_file(self.kept)
                if before["same"] == self._same():
                    self.done = [{m: Seen(**one) for m, one in image["maps"].items()} for image in before["images"]]
                    self.labels = [int(image["label"]) for image in before["images"]]
                    self.leans = [bool(image["fake"]) for image in before["images"]]
                    self.notes = dict(before["notes"])
        return len(self.done)

    def keep(self) -> None:
        rows = [
            {"label": label, "fake": fake, "maps": {m: vars(one) for m, one in found.items()}}
            for label, fake, found in zip(self.labels, self.leans, self.done, strict=True)
        ]
        self.kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.kept, plain({"same": self._same(), "notes": self.notes, "images": rows}))

    # ---- the work

    def images(self) -> Iterator[tuple[int, np.ndarray]]:
        """(label, what the network sees), real and fake by turns, so that a run that is stopped has both."""
        found: dict[int, list[np.ndarray]] = {0: [], 1: []}
        scorer = Scorer(self.detector, self.options)
        for part in self.parts:
            for some in scorer.prepared(part, PRESETS["none"]):
                for i, pixels in some:
                    if isinstance(pixels, BadImage):
                        self.skipped[pixels.name] = pixels.reason
                    else:
                        found[int(part.labels[i])].append(pixels)
        for k in range(max(map(len, found.values()))):
            for label, those in found.items():
                if k < len(those):
                    yield label, those[k]

    def one(self, label: int, seen: np.ndarray) -> None:
        """Explain one image by every method, and follow its curves."""
        curves = Curves(self.explainer, seen, self.options.points)
        rng = np.random.default_rng([self.options.seed, len(self.done)])
        rows: dict[str, Seen] = {}
        maps: list[Attribution] = []
        for method in (*self.methods, RANDOM):
            found, values = Seen(), np.zeros((GRID, GRID))
            if method != RANDOM:
                begin = time.thread_time()
                attribution = self.explainer(seen, method, towards_fake=curves.fake)
                found.seconds = time.thread_time() - begin
                maps.append(attribution)
                if attribution.note:
                    self.notes[method] = attribution.note
                if attribution.values is None:
                    continue
                values = on_grid(attribution, curves.fake)
            found.deletion, found.insertion = curves.areas(ranked(values, rng))
            if method != RANDOM and len(self.done) < self.options.checked:
                found.like = self._likeness(seen, method, curves.fake, values)
            rows[method] = found
        if self.shown is None and label == 1:
            self.show(seen, maps)
        self.done.append(rows)
        self.labels.append(label)
        self.leans.append(curves.fake)

    def maps(self, seen: np.ndarray) -> list[Attribution]:
        """Those of `one`, without their curves."""
        fake = Curves(self.explainer, seen, self.options.points).fake
        return [self.explainer(seen, method, towards_fake=fake) for method in self.methods]

    def show(self, seen: np.ndarray, maps: list[Attribution]) -> None:
        verdict = self.detector.verdicts([seen], Threshold.of(self.detector.calibration))[0]
        # what the network saw is the picture: maps lie over all of it
        self.shown = self._picture(seen), verdict, "none", maps

    def _picture(self, seen: np.ndarray) -> np.ndarray:
        """uint8 [R, R, 3] of the square that maps tell of."""
        square = self.explainer.places.squares[0]
        pixels = seen.ravel()[square.start : square.stop].reshape(square.side, square.side, square.channels)
        return np.repeat(pixels, 3, 2) if square.channels == 1 else pixels

    def _likeness(self, seen: np.ndarray, method: str, fake: bool, values: np.ndarray) -> dict[str, float]:
        like = {}
        for stage, explainer in self.shuffled.items():
            other = explainer(seen, method, towards_fake=fake)
            if other.values is not None:
                like[stage] = rank_correlation(values, on_grid(other, fake))
        return like

    def result(self) -> ExplainingResult:
        rows = [self._row(method) for method in (*self.methods, RANDOM)]
        settings = {
            "target": self.where, "sha256": self.detector.sha256, "data": list(self.options.data),
            "split": self.options.split, "images": {"real": self.labels.count(0), "fake": self.labels.count(1)},
            "called": {"real": self.leans.count(False), "fake": self.leans.count(True)},
            "effort": vars(self.effort), "points": self.options.points, "grid": GRID, "checked": self.options.checked,
            "resamples": self.options.resamples, "seed": self.options.seed,
        }  # fmt: skip
        notes = [*self.said, *(f"{name}: {reason}" for name, reason in self.skipped.items())]
        if few := len(self.done) < ENOUGH:
            some = counted(len(self.done), "image")
            notes.append(f"{some}: too few to favour a method by; give at least {ENOUGH}")
        images = [
            {"label": label, "called_fake": fake}
            | {m: [round(x, 4) for x in (s.deletion, s.insertion)] for m, s in found.items()}
            for label, fake, found in zip(self.labels, self.leans, self.done, strict=True)
        ]
        return ExplainingResult(rows, settings, "" if few else self._favoured(rows), notes, images, self.shown)

    def _row(self, method: str) -> Row:
        options = self.options
        found = [(rows[method], rows[RANDOM]) for rows in self.done if method in rows]

        def mean(values: Sequence[float]) -> Mean:
            return Mean.of(values, options.resamples, options.seed)

        return Row(
            method,
            mean([own.deletion for own, _ in found]),
            mean([own.insertion for own, _ in found]),
            mean([own.spread - random.spread for own, random in found]),
            mean([own.seconds for own, _ in found]),
            {stage: mean([own.like[stage] for own, _ in found if stage in own.like]) for stage in self.shuffled}
            if method != RANDOM
            else {},
            self.notes.get(method, ""),
        )

    def _favoured(self, rows: list[Row]) -> str:
        """The quickest of those that no other surely beats, among maps that beat a random order and are of the network;
        "" where there is none."""
        fit = [row for row in rows if row.method != RANDOM and row.better.above() and row.of_the_network]
        if not fit:
            return ""
        best = max(fit, key=lambda row: row.better.value).method

        def behind(row: Row) -> Mean:
            both = [found for found in self.done if best in found and row.method in found]
            values = [found[best].spread - found[row.method].spread for found in both]
            return Mean.of(values, self.options.resamples, self.options.seed)

        equal = [row for row in fit if row.method == best or not behind(row).above()]
        return min(equal, key=lambda row: row.seconds.value).method


class Curves:
    """An image's deletion and insertion curves. fake: what the detector leans to; the score is the probability of that.

    Taken away means blurred (see `discriminator.explaining.attribution`). points: steps of a curve; its ends are shared
    by all orders."""

    def __init__(self, explainer: Explainer, seen: np.ndarray, points: int):
        self.explainer, self.points, self.places = explainer, points, explainer.places
        self.row = self.places.row(torch.from_numpy(explainer.detector.preprocess.normalise(seen)[None]))
        self.empty, self.cells = self.places.filled(self.row), self.places.cells(GRID)
        whole = self._probabilities(self.row)[0]
        self.fake = bool(whole >= 0.5)
        self._ends = np.array([self._score(whole), self._score(self._probabilities(self.empty)[0])])

    def _probabilities(self, rows: torch.Tensor) -> np.ndarray:
        return self.explainer.detector.calibration.probability(self.explainer.answer(rows).numpy())

    def _score(self, probability: np.ndarray) -> np.ndarray:
        return probability if self.fake else 1 - probability

    def areas(self, order: np.ndarray) -> tuple[float, float]:
        """(deletion, insertion): areas under the curves, both in [0, 1], of an order of the GRID^2 squares."""
        counts = np.linspace(0, len(order), self.points + 1).round().astype(int)[1:-1]
        rows = []
        for count in counts:
            chosen = torch.zeros(len(order) + 1, dtype=torch.bool)
            chosen[torch.from_numpy(order[:count].copy())] = True
            inside = chosen[self.cells][None]
            rows += [torch.where(inside, self.empty, self.row), torch.where(inside, self.row, self.empty)]
        found = self._score(self._probabilities(torch.cat(rows)))
        whole, empty = self._ends
        deletion = np.concatenate([[whole], found[::2], [empty]])
        insertion = np.concatenate([[empty], found[1::2], [whole]])
        return float(np.trapezoid(deletion) / self.points), float(np.trapezoid(insertion) / self.points)


def on_grid(found: Attribution, fake: bool) -> np.ndarray:
    """float64 [GRID, GRID]: how much each square spoke for what was said."""
    values = torch.from_numpy(np.ascontiguousarray(found.values, np.float32))[None, None].double()
    if min(values.shape[2:]) >= GRID:
        values = nn.functional.adaptive_avg_pool2d(values, GRID)
    else:
        values = nn.functional.interpolate(values, (GRID, GRID), mode="bilinear", align_corners=False)
    side = 1 if fake or not found.signed else -1
    return side * values[0, 0].numpy()


def ranked(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The squares' numbers, the largest value first, equal ones by lot."""
    lot = rng.permutation(values.size)
    return lot[np.argsort(-values.ravel()[lot], kind="stable")]


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; 0 where a map is the same everywhere."""
    from scipy.stats import rankdata

    x, y = (rankdata(values.ravel()) - (values.size + 1) / 2 for values in (a, b))
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y / size) if size > 0 else 0.0


def shuffled(detector: Detector, share: float, seed: int) -> Detector:
    """The detector with the values of its last layers' weights shuffled within each tensor: `share` of the layers of
    every network in it, the last one at least, counted from the answer."""
    net = copy.deepcopy(detector.net)
    generator = torch.Generator().manual_seed(seed)
    for one in getattr(net, "networks", (net,)):
        layers = [layer for layer in one.modules() if any(True for _ in layer.parameters(recurse=False))]
        count = max(1, math.ceil(share * len(layers)))
        with torch.no_grad():
            for layer in layers[-count:]:
                for weight in layer.parameters(recurse=False):
                    order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
                    weight.copy_(weight.flatten()[order].reshape(weight.shape))
    return Detector(net, detector.preprocess, detector.calibration, detector.meta)
