"""What a detector is taught with, looked at before it learns: counts, samples, pixels, and what the degradations do.

Numbers only: the report draws them and lays them out. Test images are counted by their names and never opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from discriminator.training.feed import LabelledFeed, degrade
from discriminator.training.selection import IndexedImages, Validation
from faces.degrade import Degradation
from faces.layout import LABEL_NAMES

LEVELS = 64  # bins of a histogram
LOOKED_AT = 400  # images of a part whose pixels are counted
SHEET, SIDE = 24, 72  # samples of a class, and their size on the page
CHANNELS = ("luma", "red", "green", "blue")
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
DRAWS = 4  # of the degradations of one image

Listed = Sequence[tuple[IndexedImages, int]]  # images, by where they lie

HOW = {
    "sampling": "balanced sampling: half of each batch is real, whatever the data hold",
    "weights": "class weights: images come as often as in the data, and each class weighs half in the loss",
    "none": "none: images come as often as in the data, and each weighs the same",
}


@dataclass
class SplitPixels:
    """Pixels of one class in one split. histograms: int64 [4, 64], how often each level of CHANNELS occurs; brightness:
    float64 [n], mean luma of an image, 0 to 255; mean, sd: float64 [3] of R, G, B over all pixels."""

    split: str
    label: int
    count: int
    histograms: np.ndarray
    brightness: np.ndarray
    mean: np.ndarray
    sd: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.split} {LABEL_NAMES[self.label]}"


@dataclass
class Exploration:
    """counts: {split: {"real": n, "fake": n}}; samples: {class: uint8 [n, SIDE, SIDE, 3]} of the training images;
    degraded: uint8 [rows, 1 + DRAWS, s, s, 3], an image and what draws of the chain make of it; shown: uint8
    [2, n, s, s, 3], clean and degraded views of the first step's batch, exactly as the network gets them."""

    counts: dict[str, dict[str, int]]
    parts: list[SplitPixels]
    samples: dict[str, np.ndarray]
    degraded: np.ndarray
    shown: np.ndarray
    balance: dict

    def table(self) -> list[tuple]:
        """Rows of mean, standard deviation and brightness for each part."""
        rows: list[tuple] = [("", "images", "looked at", "mean R, G, B", "sd R, G, B", "mean luma")]
        for p in self.parts:
            mean, sd = (", ".join(f"{v:.0f}" for v in values) for values in (p.mean, p.sd))
            rows.append((p.name, p.count, len(p.brightness), mean, sd, f"{p.brightness.mean():.1f}"))
        return rows


def imbalance(feed: LabelledFeed, balance: str) -> dict:
    """{"method", "how", "counts": of each class to learn from, "shown": share of each class in what is shown,
    "weights": what an image of each class weighs in the loss, on average 1}."""

    def of_classes(values: Iterable[float]) -> dict[str, float]:
        pairs = list(zip(feed.groups, values, strict=True))
        return {name: sum(value for g, value in pairs if g.label == k) for k, name in enumerate(LABEL_NAMES)}

    counts, shown = of_classes(map(len, feed.groups)), of_classes(feed.shares)
    weights = {name: 0.5 / share if balance == "weights" and share else 1.0 for name, share in shown.items()}
    return {"method": balance, "how": HOW[balance], "counts": counts, "shown": shown, "weights": weights}


def say_imbalance(b: Mapping) -> str:
    """One line for the log and the page."""
    n, total = b["counts"], max(1, sum(b["counts"].values()))
    words = ", ".join(f"{count} {name} ({100 * count / total:.1f} %)" for name, count in n.items())
    words += f"; {b['how']}"
    if b["method"] == "weights":
        words += " (" + ", ".join(f"a {name} image {weight:.3g}" for name, weight in b["weights"].items()) + ")"
    return words


def explore(
    feed: LabelledFeed,
    validation: Validation,
    degradation: Degradation,
    seed: int,
    test: Mapping[str, int] | None = None,
) -> Exploration:
    """Look at what is decoded already. test: how many images of each class the test split lists, where there is one."""
    rng = np.random.default_rng([seed, 0xE7])
    parts, samples = [], {}
    counts: dict[str, dict[str, int]] = {"train": {}, "validation": {}}
    for label, name in enumerate(LABEL_NAMES):
        at: Listed = [(g.images, int(i)) for g in feed.groups if g.label == label for i in g.where]
        counts["train"][name] = len(at)
        parts.append(_part("train", label, at, rng))
        samples[name] = np.stack([_to(_pixels(images[i]), SIDE) for images, i in _some(rng, at, SHEET)])
    for label, name in enumerate(LABEL_NAMES):
        at = [(validation.images, int(i)) for i in np.flatnonzero(validation.labels == label)]
        counts["validation"][name] = len(at)
        parts.append(_part("validation", label, at, rng))
    if test:
        counts["test"] = dict(test)
    return Exploration(counts, parts, samples, _degraded(feed, degradation, rng), _shown(feed),
                       imbalance(feed, feed.recipe.balance))  # fmt: skip


def _some(rng: np.random.Generator, at: Listed, most: int) -> Listed:
    return [at[k] for k in np.sort(rng.permutation(len(at))[:most])]


def _pixels(image: np.ndarray) -> np.ndarray:
    """uint8 [3, H, W] as [H, W, 3]."""
    return np.ascontiguousarray(image.transpose(1, 2, 0))


def _part(split: str, label: int, at: Listed, rng: np.random.Generator) -> SplitPixels:
    histograms = np.zeros((len(CHANNELS), LEVELS), np.int64)
    total, squares, pixels, brightness = np.zeros(3), np.zeros(3), 0, []
    for images, i in _some(rng, at, LOOKED_AT):
        image = _pixels(images[i])
        luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        for k, plane in enumerate((luma, *np.moveaxis(image, 2, 0))):
            histograms[k] += np.bincount(plane.ravel() // (256 // LEVELS), minlength=LEVELS)
        flat = image.reshape(-1, 3).astype(np.float64)
        total, squares, pixels = total + flat.sum(0), squares + (flat**2).sum(0), pixels + len(flat)
        brightness.append(float((flat @ LUMA).mean()))
    mean = total / pixels
    sd = np.sqrt(np.maximum(squares / pixels - mean**2, 0))
    return SplitPixels(split, label, len(at), histograms, np.array(brightness), mean, sd)


def _to(image: np.ndarray, side: int) -> np.ndarray:
    if image.shape[0] == side:
        return image
    smaller = image.shape[0] > side
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_NEAREST)


def _degraded(feed: LabelledFeed, degradation: Degradation, rng: np.random.Generator, rows: int = 4) -> np.ndarray:
    lines = []
    for k in range(rows):
        group = [g for g in feed.groups if g.label == k % 2][0]
        image = np.asarray(group.images[group.where[int(rng.integers(len(group)))]])
        made = [image, *(degrade(degradation, image, rng) for _ in range(DRAWS))]
        side = min(160, max(96, image.shape[-1]))
        lines.append(np.stack([_to(_pixels(one), side) for one in made]))
    return np.stack(lines)


def _shown(feed: LabelledFeed, most: int = 8) -> np.ndarray:
    batch = feed.batch(0)
    views = [v for v in (batch.clean, batch.degraded) if v is not None]
    side = min(120, max(72, views[0].shape[-1]))
    labels = batch.labels.numpy()
    chosen = np.concatenate([np.flatnonzero(labels == label)[: most // 2] for label in (0, 1)])
    return np.stack([np.stack([_to(_pixels(v[int(i)].numpy()), side) for i in chosen]) for v in views])
