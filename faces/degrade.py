"""What happens to a photo between the camera and the detector: re-saving, resizing, filters, crops.

A `Degradation` is a list of steps, each with a probability and ranges to draw from. The same description serves
training (both classes through it, so that no class is known by its compression), the robustness grid and the demo page.
Images are uint8 RGB [H, W, 3]; a chain returns the size it was given. All randomness comes from the generator passed
in, so a result depends on the image, the description and the seed, not on workers or batch order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from common.errors import UserError
from common.reading import shown
from faces import filters
from faces.overlays import overlaid

# --- steps: an operation, how often it happens, and where its parameters are drawn from -----------------------------


Action = Callable[[np.ndarray, np.random.Generator, dict[str, Any]], np.ndarray]
# drawn as whole numbers, both ends included
WHOLE = ("quality", "first", "second", "tiles", "shift", "longest", "marks")


def _drawn(rng: np.random.Generator, key: str, bounds: Sequence[Any], by_ratio: bool = False) -> Any:
    """One of the names, or a number between the bounds; by_ratio: its logarithm is what is evenly spread."""
    if isinstance(bounds[0], str):
        return bounds[int(len(bounds) * rng.random())]
    low, high = (np.log(bound) for bound in bounds) if by_ratio else bounds
    if key in WHOLE:
        return int(low + (high - low + 1) * rng.random())
    value = float(low + (high - low) * rng.random())
    return float(np.exp(value)) if by_ratio else value


def _border(image: np.ndarray, rng: np.random.Generator, bounds: dict[str, Any]) -> np.ndarray:
    """Plain surroundings: white, black, a grey or a colour, equally often."""
    left, top, right, bottom = (_drawn(rng, "share", bounds["share"]) for _ in range(4))
    degrees = _drawn(rng, "degrees", bounds["degrees"])
    levels = [int(level) for level in rng.integers(0, 256, 3)]
    kind = int(rng.integers(4))
    colour = ((255, 255, 255), (0, 0, 0), (levels[0],) * 3, tuple(levels))[kind]
    return filters.border(image, left, top, right, bottom, degrees, colour)


def _step(
    operation: Callable[..., np.ndarray], order: str = "", *, by_ratio: str = "", **ranges: Sequence[Any]
) -> tuple[Action, dict[str, Any]]:
    """An operation with the default ranges of its parameters, which are drawn in their order, or in that of `order`."""
    keys = order.split() or list(ranges)

    def action(image: np.ndarray, rng: np.random.Generator, bounds: dict[str, Any]) -> np.ndarray:
        return operation(image, *[_drawn(rng, key, bounds[key], key == by_ratio) for key in keys])

    return action, ranges


# name: (what it does with the ranges to draw from, the default ranges)
STEPS: dict[str, tuple[Action, dict[str, Any]]] = {
    "jpeg": _step(filters.jpeg, quality=(30, 95), subsampling=("420", "444")),
    "webp": _step(filters.webp, quality=(40, 95)),
    "double_jpeg": _step(lambda im, a, b: filters.jpeg(filters.jpeg(im, a), b), first=(50, 95), second=(50, 95)),
    "resize": _step(
        filters.scale, by_ratio="factor", factor=(0.5, 2.0), kernel=filters.KERNELS, back=filters.ENLARGING
    ),
    "rescale": _step(filters.rescale, by_ratio="factor", factor=(0.5, 2.0), kernel=filters.KERNELS),
    "blur": _step(filters.blur, sigma=(0.2, 1.5)),
    "noise": (lambda im, rng, p: filters.noise(im, _drawn(rng, "sigma", p["sigma"]), rng), {"sigma": (1.0, 8.0)}),
    "hflip": _step(filters.hflip),
    "rotate": _step(filters.rotate, degrees=(-10.0, 10.0)),
    "reframe": _step(
        filters.reframe,
        "zoom degrees across down",
        by_ratio="zoom",
        zoom=(0.8, 1.35),
        degrees=(-12.0, 12.0),
        across=(-0.07, 0.07),
        down=(-0.07, 0.07),
    ),  # fmt: skip
    "shear": _step(filters.shear, x=(-0.1, 0.1), y=(-0.1, 0.1)),
    "brightness": _step(filters.brightness, factor=(0.7, 1.3)),
    "contrast": _step(filters.contrast, factor=(0.7, 1.3)),
    "saturation": _step(filters.saturation, factor=(0.5, 1.5)),
    "hue": _step(filters.hue, degrees=(-12.0, 12.0)),
    "clahe": _step(filters.clahe, clip=(1.0, 3.0), tiles=(2, 8)),
    "cutout": (
        lambda im, rng, p: filters.cutout(im, _drawn(rng, "side", p["side"]), rng.random(), rng.random()),
        {"side": (0.1, 0.4)},
    ),
    "border": (_border, {"share": (-0.1, 0.2), "degrees": (0.0, 0.0)}),
    "overlay": (lambda im, rng, p: overlaid(im, _drawn(rng, "marks", p["marks"]), rng), {"marks": (1, 3)}),
    "crop_shift": _step(filters.crop_shift, "shift shift quality", shift=(1, 7), quality=(50, 95)),
    "screenshot": _step(filters.screenshot, zoom=(0.6, 1.6), quality=(80, 95)),
    "web": _step(filters.web, longest=(768, 768), quality=(60, 60)),
}


# What a description may ask for: beyond it an image is gone, or larger than any memory. (step, parameter), else
# ("", parameter).
BOUNDS: dict[tuple[str, str], tuple[float, float]] = {
    ("", "quality"): (1, 100),
    ("", "first"): (1, 100),
    ("", "second"): (1, 100),
    ("", "factor"): (0, 10),  # of brightness, contrast, saturation
    ("resize", "factor"): (1 / 64, 4),
    ("rescale", "factor"): (1 / 64, 4),
    ("screenshot", "zoom"): (1 / 64, 4),
    ("reframe", "zoom"): (1 / 4, 4),
    ("", "across"): (-1, 1),
    ("", "down"): (-1, 1),
    ("", "marks"): (0, 16),
    ("web", "longest"): (1, 8192),
    ("", "sigma"): (0, 100),
    ("", "degrees"): (-360, 360),
    ("", "x"): (-4, 4),
    ("", "y"): (-4, 4),
    ("", "clip"): (0, 100),
    ("", "tiles"): (1, 64),
    ("", "side"): (0, 1),
    ("", "share"): (-1, 0.45),
    ("", "shift"): (0, 64),
}
MOST_STEPS, MOST_NAMES = 64, 16


@dataclass(frozen=True)
class Step:
    """One operation of `STEPS`, done with `probability`, its parameters drawn from `ranges` (the defaults fill gaps).

    Steps that share a non-empty `group` exclude each other: one of them is drawn by its probability, or none.
    """

    name: str
    probability: float = 1.0
    ranges: dict[str, Any] = field(default_factory=dict)
    group: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in STEPS:
            raise UserError(f"degradation step {shown(self.name)}: unknown, use one of {', '.join(STEPS)}")
        _check_probability(f"degradation step {self.name}", self.probability)
        if not isinstance(self.group, str):
            raise UserError(f"degradation step {self.name}: its group must be a word, not {shown(self.group)}")
        known = STEPS[self.name][1]
        for key, value in self.ranges.items():
            if key not in known:
                expected = ", ".join(known) or "none"
                raise UserError(f"degradation step {self.name}: unknown parameter {shown(key)}, it has {expected}")
            _check_range(self.name, key, value, known[key])

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        action, defaults = STEPS[self.name]
        return action(image, rng, {**defaults, **self.ranges})


def _check_range(step: str, key: str, value: Any, default: Sequence[Any]) -> None:
    words = isinstance(default[0], str)
    allowed = ("420", "444") if key == "subsampling" else filters.KERNELS
    wrong = ""
    low, high = BOUNDS.get((step, key), BOUNDS.get(("", key), (0, 0)))
    if not isinstance(value, (list, tuple)) or not 0 < len(value) <= MOST_NAMES:
        wrong = f"must be {'a list of names' if words else 'a pair of numbers (low, high)'}, not {shown(value)}"
    elif words and not all(isinstance(v, str) and v in allowed for v in value):
        wrong = f"has a name that is not among {', '.join(allowed)}"
    elif not words and (len(value) != 2 or not all(_is_number(v) for v in value) or value[0] > value[1]):
        wrong = f"must be a pair (low, high) of numbers with low <= high, not {[shown(v) for v in value]}"
    elif not words and not low <= value[0] <= value[1] <= high:
        wrong = f"{value[0]:g} to {value[1]:g} is not within {low:g} to {high:g}"
    if wrong:
        raise UserError(f"degradation step {step}: {key} {wrong}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_probability(what: str, value: Any) -> None:
    if not _is_number(value) or not 0 <= value <= 1:
        raise UserError(f"{what}: probability {shown(value)} is not between 0 and 1")


@dataclass(frozen=True)
class Degradation:
    """A chain of steps, applied in order after `probability` has decided whether anything happens at all."""

    name: str
    steps: tuple[Step, ...] = ()
    probability: float = 1.0

    def apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """`image` uint8 [H, W, 3] degraded, same shape. The input is not changed; undegraded, it is what returns."""
        if not self.steps or (self.probability < 1 and rng.random() >= self.probability):
            return image
        lots: dict[str, float] = {}
        for step in self.steps:
            if step.group:
                left = lots.setdefault(step.group, rng.random())
                lots[step.group] = left - step.probability
                if not 0 <= left < step.probability:
                    continue
            elif step.probability < 1 and rng.random() >= step.probability:
                continue
            image = step(image, rng)
        return image

    def zooms(self) -> list[tuple[float, float]]:
        """The (low, high) factors of its steps that leave the image at another scale."""
        defaults = STEPS["rescale"][1]["factor"]
        return [tuple(s.ranges.get("factor", defaults)) for s in self.steps if s.name == "rescale"]

    def zooming_from(self, least: float) -> Degradation:
        """The same chain, whose changes of scale do not go below `least`."""

        def bounded(step: Step) -> Step:
            if step.name != "rescale":
                return step
            low, high = step.ranges.get("factor", STEPS["rescale"][1]["factor"])
            return replace(step, ranges={**step.ranges, "factor": (max(low, least), max(high, least))})

        return replace(self, steps=tuple(bounded(step) for step in self.steps))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: tuples become lists."""
        return {
            "name": self.name,
            "probability": self.probability,
            "steps": [
                {"name": s.name, "probability": s.probability, "group": s.group}
                | {"ranges": {key: list(value) for key, value in s.ranges.items()}}
                for s in self.steps
            ],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Degradation:
        """The inverse of `to_dict`. Raises `UserError` for unknown steps or parameters."""
        if not isinstance(data, dict) or not isinstance(data.get("steps", []), list):
            raise UserError("degradation: expected an object with a list of steps")
        if len(data.get("steps", [])) > MOST_STEPS:
            raise UserError(f"degradation: {len(data['steps'])} steps are more than the {MOST_STEPS} that may be")
        _check_probability("degradation", data.get("probability", 1.0))
        steps = []
        for item in data.get("steps", []):
            if not isinstance(item, dict) or "name" not in item:
                raise UserError(f"degradation: a step must be an object with a name, not {shown(item)}")
            if not isinstance(item.get("ranges", {}), dict):
                raise UserError(f"degradation: the ranges of a step must be an object, not {shown(item['ranges'])}")
            ranges = {key: tuple(value) if isinstance(value, list) else value
                      for key, value in item.get("ranges", {}).items()}  # fmt: skip
            steps.append(Step(item["name"], item.get("probability", 1.0), ranges, item.get("group", "")))
        return cls(str(data.get("name", "custom"))[:100], tuple(steps), data.get("probability", 1.0))


# --- named descriptions ---------------------------------------------------------------------------------------------

_PIXELS = (
    Step("hflip", 0.5),
    Step("brightness", 0.10, {"factor": (0.8, 1.2)}, "tone"),
    Step("contrast", 0.10, {"factor": (0.8, 1.2)}, "tone"),
    Step("saturation", 0.10, {"factor": (0.6, 1.4)}, "tone"),
    Step("hue", 0.05, {}, "tone"),
    Step("blur", 0.10, {"sigma": (0.2, 1.0)}, "filter"),
    Step("noise", 0.10, {"sigma": (1.0, 5.0)}, "filter"),
    Step("jpeg", 0.50, {"quality": (50, 98)}, "codec"),
    Step("webp", 0.06, {"quality": (50, 95)}, "codec"),
    Step("double_jpeg", 0.07, {}, "codec"),
    Step("crop_shift", 0.07, {}, "codec"),
)

PRESETS: dict[str, Degradation] = {
    "none": Degradation("none"),
    "light": Degradation(
        "light",
        (
            Step("hflip", 0.5),
            Step("resize", 0.15, {"factor": (0.75, 1.5)}),
            Step("jpeg", 0.4, {"quality": (75, 98)}),
        ),
    ),
    # For detector training at sizes from 64 px. Mild enough that a 64 px face keeps the generator's traces, broad
    # enough that neither class can be told by its last codec: at most one geometry, one filter and one codec each.
    "train": Degradation(
        "train",
        (
            Step("hflip", 0.5),
            Step("resize", 0.30, {"factor": (0.5, 2.0)}, "size"),
            Step("rotate", 0.05, {"degrees": (-6.0, 6.0)}, "size"),
            Step("shear", 0.05, {"x": (-0.06, 0.06), "y": (-0.06, 0.06)}, "size"),
            Step("brightness", 0.10, {"factor": (0.8, 1.2)}, "tone"),
            Step("contrast", 0.10, {"factor": (0.8, 1.2)}, "tone"),
            Step("saturation", 0.10, {"factor": (0.6, 1.4)}, "tone"),
            Step("hue", 0.05, {}, "tone"),
            Step("clahe", 0.02, {"clip": (1.0, 2.0)}, "tone"),
            Step("blur", 0.10, {"sigma": (0.2, 1.0)}, "filter"),
            Step("noise", 0.10, {"sigma": (1.0, 5.0)}, "filter"),
            Step("cutout", 0.05, {"side": (0.1, 0.3)}),
            Step("jpeg", 0.35, {"quality": (40, 98)}, "codec"),
            Step("webp", 0.06, {"quality": (50, 95)}, "codec"),
            Step("double_jpeg", 0.05, {}, "codec"),
            Step("crop_shift", 0.05, {}, "codec"),
            Step("screenshot", 0.03, {}, "codec"),
        ),
        probability=0.8,
    ),
    # For patches at the pixel scale of files: what happens to a file that keeps its size. JPEG for two thirds.
    "pixels": Degradation("pixels", _PIXELS),
    # And to one that was made smaller or larger before: a third.
    "pixels-resized": Degradation(
        "pixels-resized",
        (
            _PIXELS[0],
            Step("rescale", 1 / 3, {"factor": (0.5, 2.0), "kernel": ("bilinear", "bicubic", "box", "lanczos")}),
            *_PIXELS[1:],
        ),
    ),
    # The same with more blur, and stronger: so that a network taught on twins does not take what is soft for fake.
    "pixels-soft": Degradation(
        "pixels-soft",
        (
            _PIXELS[0],
            Step("rescale", 1 / 3, {"factor": (0.5, 2.0), "kernel": ("bilinear", "bicubic", "box", "lanczos")}),
            *(
                replace(s, probability=0.25, ranges={"sigma": (0.2, 2.0)}) if s.name == "blur" else s
                for s in _PIXELS[1:]
            ),
        ),
    ),
    "web": Degradation("web", (Step("web", ranges={"longest": (768, 768), "quality": (60, 60)}),)),
    "hard": Degradation("hard", (Step("web", ranges={"longest": (512, 512), "quality": (40, 40)}),)),
}


# The same face as others would cut it out of the photo, and as half of them would write upon it.
SCENE = Degradation("scene", (Step("reframe"), Step("overlay", 0.5)))


def preset(name: str) -> Degradation:
    """The named description. Raises `UserError` for an unknown name."""
    if name not in PRESETS:
        raise UserError(f"degradation {name!r}: unknown, use one of {', '.join(PRESETS)}")
    return PRESETS[name]


def _fixed(name: str, step: str, **ranges: Any) -> Degradation:
    return Degradation(name, (Step(step, ranges=ranges),))


def grid() -> dict[str, Degradation]:
    """The conditions of the robustness grid by name, from `clean` on, each with fixed parameters."""
    conditions = [Degradation("clean")]
    conditions += [_fixed(f"jpeg-{q}", "jpeg", quality=(q, q), subsampling=("420",)) for q in (95, 90, 75, 60, 40, 30)]
    conditions += [_fixed(f"webp-{q}", "webp", quality=(q, q)) for q in (80, 50)]
    conditions += [
        _fixed(f"resize-{factor:g}-{kernel}", "resize", factor=(factor, factor), kernel=(kernel,), back=("bicubic",))
        for factor in (0.25, 0.5, 0.75, 1.5, 2.0)
        for kernel in filters.KERNELS
    ]
    conditions += [_fixed(f"blur-{sigma:g}", "blur", sigma=(sigma, sigma)) for sigma in (0.5, 1.0, 2.0)]
    conditions += [_fixed(f"noise-{sigma:g}", "noise", sigma=(sigma, sigma)) for sigma in (2.0, 5.0, 10.0)]
    conditions += [
        _fixed("crop-jpeg", "crop_shift", shift=(3, 5), quality=(75, 75)),
        _fixed("double-jpeg", "double_jpeg", first=(75, 75), second=(90, 90)),
        _fixed("screenshot", "screenshot", zoom=(1.25, 1.25), quality=(90, 90)),
        PRESETS["web"],
        PRESETS["hard"],
    ]
    return {condition.name: condition for condition in conditions}


def resaves() -> dict[str, Degradation]:
    """By name, what should change nobody's mind: JPEG 96 with either chroma, and 0.9 of the size and back (bicubic), by
    each kernel. `evaluate.py detector --bias` does them to one class alone."""
    found = [_fixed(f"jpeg-96-{c}", "jpeg", quality=(96, 96), subsampling=(c,)) for c in ("420", "444")]
    found += [
        _fixed(f"resize-0.9-{kernel}", "resize", factor=(0.9, 0.9), kernel=(kernel,), back=("bicubic",))
        for kernel in filters.KERNELS
    ]
    return {condition.name: condition for condition in found}


def apply_batch(degradation: Degradation, images: np.ndarray, seed: int | Sequence[int]) -> np.ndarray:
    """Degrade images uint8 [N, C, H, W] (C = 3, or 1 for grey) into a new array of the same shape.

    Image i has its own generator, made from (`seed`, i): its result does not depend on what is beside it. `seed` may
    also be a sequence with one whole number >= 0 per image, used in place of the common one. A grey image's three
    channels are averaged back into one.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UserError(f"degradation: images must be uint8 [N, 1 or 3, H, W], not {images.dtype} {images.shape}")
    seeds = [int(seed)] * len(images) if isinstance(seed, (int, np.integer)) else [int(s) for s in seed]
    if len(seeds) != len(images):
        raise UserError(f"degradation: {len(images)} images need as many seeds, not {len(seeds)}")
    out = np.empty_like(images)
    for i, image in enumerate(images):
        rng = np.random.Generator(np.random.PCG64([seeds[i], i]))
        if len(image) == 1:
            grey = np.repeat(image, 3, axis=0).transpose(1, 2, 0)
            out[i, 0] = filters.to_uint8(degradation.apply(np.ascontiguousarray(grey), rng).mean(axis=2))
        else:
            out[i] = degradation.apply(np.ascontiguousarray(image.transpose(1, 2, 0)), rng).transpose(2, 0, 1)
    return out
