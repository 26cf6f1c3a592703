"""Who a procedural face is: the seed's draws, turned into the lengths, colours and styles that the painter uses.

Every draw is a uniform double of PCG64 taken in a fixed order, so a seed is the same person at every resolution and,
since the bit stream of `Generator.random` is part of numpy's promise, on every machine and version.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from faces.procedural.canvas import F32, srgb

SKIN = (  # light to dark
    (0.955, 0.835, 0.765), (0.935, 0.780, 0.685), (0.915, 0.730, 0.605), (0.845, 0.640, 0.495),
    (0.730, 0.525, 0.380), (0.590, 0.400, 0.280), (0.455, 0.295, 0.205), (0.335, 0.215, 0.150),
)  # fmt: skip
HAIR = {
    "black": (0.110, 0.095, 0.095), "espresso": (0.190, 0.130, 0.105), "brown": (0.315, 0.205, 0.140),
    "chestnut": (0.430, 0.270, 0.170), "copper": (0.600, 0.290, 0.140), "sand": (0.640, 0.480, 0.310),
    "blond": (0.830, 0.680, 0.440), "grey": (0.560, 0.550, 0.545), "white": (0.850, 0.840, 0.820),
    "rose": (0.780, 0.390, 0.500), "blue": (0.220, 0.330, 0.560),
}  # fmt: skip
IRIS = {
    "dark": (0.170, 0.105, 0.075), "brown": (0.330, 0.195, 0.110), "hazel": (0.450, 0.340, 0.160),
    "green": (0.330, 0.440, 0.290), "blue": (0.340, 0.500, 0.660), "grey": (0.460, 0.520, 0.560),
}  # fmt: skip
CLOTHES = (
    (0.13, 0.14, 0.17), (0.90, 0.90, 0.88), (0.20, 0.27, 0.42), (0.56, 0.17, 0.19), (0.25, 0.38, 0.31),
    (0.72, 0.60, 0.42), (0.46, 0.47, 0.50), (0.60, 0.42, 0.55), (0.28, 0.52, 0.60), (0.82, 0.55, 0.30),
    (0.78, 0.66, 0.68), (0.36, 0.26, 0.22),
)  # fmt: skip
BACKDROP = (
    (0.60, 0.68, 0.74), (0.78, 0.75, 0.69), (0.36, 0.42, 0.46), (0.50, 0.58, 0.46), (0.70, 0.58, 0.50),
    (0.24, 0.25, 0.29), (0.86, 0.86, 0.85), (0.46, 0.40, 0.50), (0.40, 0.54, 0.60), (0.66, 0.62, 0.44),
)  # fmt: skip


class SeedDraws:
    """Uniform draws of one seed, and the few shapes of distribution made from them."""

    def __init__(self, seed: int, stream: int):
        self._generator = np.random.Generator(np.random.PCG64([seed, stream]))
        self._ready: list[float] = []

    def uniform(self) -> float:
        """The next uniform double of [0, 1); drawn by the hundred, which is faster than one by one."""
        if not self._ready:
            self._ready = self._generator.random(100).tolist()
        return self._ready.pop()

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.uniform()

    def bell(self, spread: float) -> float:
        """Near-normal with mean 0: the sum of three uniforms, never beyond +-`spread`."""
        return spread * (self.between(-1, 1) + self.between(-1, 1) + self.between(-1, 1)) / 3

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def pick(self, weights: dict[str, float]) -> str:
        at = self.uniform() * sum(weights.values())
        for name, weight in weights.items():
            at -= weight
            if at < 0:
                return name
        return name

    def colour(self, palette: tuple, jitter: float) -> np.ndarray:
        """A palette entry, moved a little in display colour, as linear light [3]."""
        base = palette[min(int(self.between(0, len(palette))), len(palette) - 1)]
        return self.near(base, jitter)

    def near(self, base: tuple, jitter: float) -> np.ndarray:
        shift = self.between(-jitter, jitter)
        red, green, blue = (min(max(c + shift + self.between(-jitter, jitter) / 2, 0.02), 0.99) for c in base)
        return srgb(red, green, blue)

    def lattice(self, *shape: int) -> np.ndarray:
        """Noise values in [-1, 1], float32."""
        return (self._generator.random(shape) * 2 - 1).astype(F32)


@dataclass
class Traits:
    """One person, one light, one place. Lengths in canvas units (the canvas is 2 wide), angles in radians."""

    # build and pose
    width: float
    height: float
    centre: tuple[float, float]
    roll: float
    yaw: float
    pitch: float
    taper: float
    square: float
    feminine: float
    age: float
    # colours (linear light)
    skin: np.ndarray
    lips: np.ndarray
    hair: np.ndarray
    brow: np.ndarray
    iris: np.ndarray
    clothes: np.ndarray
    backdrop: tuple[np.ndarray, np.ndarray]
    # features
    eye_size: float
    eye_open: float
    eye_tilt: float
    eye_apart: float
    gaze: tuple[float, float]
    lid: float
    brow_height: float
    brow_weight: float
    brow_arch: float
    nose_width: float
    nose_length: float
    mouth_width: float
    mouth_open: float
    smile: float
    lip_full: float
    blush: float
    freckles: float
    liner: float
    ear: float
    # hair
    style: str
    volume: float
    hairline: float
    part: float
    fringe: float
    length: float
    wave: float
    beard: str
    # things worn
    glasses: str
    glasses_colour: np.ndarray
    earrings: bool
    collar: str
    hat: bool
    # light
    light: tuple[float, float, float]
    key: np.ndarray
    fill: np.ndarray
    backdrop_angle: float
    bokeh: int


def _skin(draws: SeedDraws) -> tuple[float, np.ndarray]:
    tone = draws.between(0, len(SKIN) - 1.001)
    low = int(tone)
    mix = tone - low
    red, green, blue = (a + (b - a) * mix for a, b in zip(SKIN[low], SKIN[low + 1], strict=True))
    warm = draws.bell(0.035)
    return tone, srgb(min(red + warm * 0.4, 0.99), green, max(blue - warm, 0.05))


def _hair_colour(draws: SeedDraws, tone: float, age: float) -> np.ndarray:
    dark = min(tone / 4.0, 1.0)
    fair = 1.0 - dark
    grey = max(age - 0.55, 0.0) * 6.0
    name = draws.pick(
        {
            "black": 0.5 + 3.0 * dark, "espresso": 1.0 + dark, "brown": 0.3 + 1.6 * fair, "chestnut": 0.1 + 1.2 * fair,
            "copper": 0.03 + 0.5 * fair, "sand": 0.9 * fair, "blond": 0.03 + 1.1 * fair, "grey": grey, "white": grey,
            "rose": 0.05, "blue": 0.05,
        }
    )  # fmt: skip
    return draws.near(HAIR[name], 0.035)


def _style(draws: SeedDraws, feminine: float, age: float) -> str:
    if feminine > 0.5:
        return draws.pick(
            {"long": 3.4, "bob": 2.0, "bun": 1.2, "curly": 1.1, "afro": 0.6, "short": 0.5, "crop": 0.15, "bald": 0.05}
        )
    old = max(age - 0.4, 0.0)
    return draws.pick(
        {"short": 3.4, "crop": 1.7, "curly": 0.9, "afro": 0.5, "bald": 0.35 + old, "rim": 1.6 * old, "long": 0.45}
    )


def _light(draws: SeedDraws) -> dict[str, Any]:
    azimuth = draws.between(-1.15, 1.15)
    elevation = draws.between(0.1, 0.85)
    x, y, z = math.sin(azimuth), -math.sin(elevation), math.cos(azimuth) * math.cos(elevation) + 0.25
    norm = math.sqrt(x * x + y * y + z * z)
    warmth = draws.bell(0.10)
    strength = draws.between(0.78, 1.02)
    key = np.array([1 + warmth, 1.0, 1 - warmth], dtype=F32) * F32(strength)
    soft = draws.between(0.18, 0.38)
    fill = np.array([1 - warmth, 1.0, 1 + warmth * 0.8], dtype=F32) * F32(soft)
    return {"light": (x / norm, y / norm, z / norm), "key": key, "fill": fill}


def _build(draws: SeedDraws, woman: bool) -> dict[str, Any]:
    return {
        "width": draws.between(0.455, 0.505) - 0.012 * woman,
        "height": draws.between(0.650, 0.710) - 0.012 * woman,
        "centre": (draws.bell(0.09), draws.bell(0.07) - 0.03),
        "roll": draws.bell(0.30),
        "yaw": draws.bell(0.70),
        "pitch": draws.bell(0.32),
        "taper": draws.between(0.20, 0.38) + 0.04 * woman,
        "square": draws.between(0.05, 0.34) + 0.10 * (not woman),
    }


def _features(draws: SeedDraws, woman: bool, tone: float, smile: float, laugh: bool) -> dict[str, Any]:
    fair, dark = 1.0 - min(tone / 3.5, 1.0), min(tone / 5, 1)
    return {
        "eye_size": draws.between(0.205, 0.245) + 0.012 * woman,
        "eye_open": draws.between(0.33, 0.50) + 0.05 * woman - 0.10 * max(smile, 0) * draws.between(0, 1),
        "eye_tilt": draws.bell(0.16) - 0.05 * woman,
        "eye_apart": draws.between(0.405, 0.450),
        "gaze": (draws.bell(0.36), draws.bell(0.20)),
        "lid": draws.between(0, 1),
        "brow_height": draws.between(0.205, 0.275),
        "brow_weight": draws.between(0.030, 0.052) - 0.014 * woman,
        "brow_arch": draws.between(0.02, 0.07) + 0.02 * woman,
        "nose_width": draws.between(0.155, 0.225) + 0.02 * dark,
        "nose_length": draws.between(0.36, 0.44),
        "mouth_width": draws.between(0.33, 0.42) + 0.07 * max(smile, 0),
        "mouth_open": draws.between(0.35, 1.0) if laugh else (draws.between(0, 0.25) if draws.chance(0.2) else 0.0),
        "smile": smile,
        "lip_full": draws.between(0.70, 1.15) + 0.12 * woman + 0.12 * dark,
        "blush": draws.between(0.15, 0.8),
        "freckles": draws.between(0.3, 1.0) if fair > 0.4 and draws.chance(0.2) else 0.0,
        "liner": draws.between(0.3, 1.0) if woman else 0.12,
        "ear": draws.between(0.85, 1.15),
    }


def draw_traits(seed: int) -> Traits:
    """The person of `seed` (a non-negative int)."""
    draws = SeedDraws(seed, 0)  # every draw moves all later ones: their order is part of what a seed means
    feminine = draws.between(0, 1)
    age = draws.between(0, 1)
    woman = feminine > 0.5
    tone, skin = _skin(draws)
    hair = _hair_colour(draws, tone, age)

    fair = 1.0 - min(tone / 3.5, 1.0)
    iris = draws.near(
        IRIS[draws.pick({"dark": 2.2, "brown": 1.6, "hazel": 0.9 * fair, "green": 0.7 * fair, "blue": 1.5 * fair,
                         "grey": 0.6 * fair})], 0.03
    )  # fmt: skip
    rouge = draws.between(0.1, 0.75) if woman and draws.chance(0.6) else 0.06
    lipstick = draws.near((0.72, 0.20, 0.26), 0.08)
    lips = skin * np.array([0.80, 0.50, 0.50], dtype=F32)
    lips = lips + (lipstick * F32(0.35 + 0.65 * float(skin[0])) - lips) * F32(rouge)

    light = _light(draws)
    style = _style(draws, feminine, age)
    beard = "none"
    if not woman and draws.chance(0.48):
        beard = draws.pick({"stubble": 1.5, "full": 1.3, "goatee": 0.6, "moustache": 0.5})
    glasses = "none"
    if draws.chance(0.13 + 0.12 * age):
        glasses = draws.pick({"round": 1.0, "square": 1.2, "thin": 0.9, "dark": 0.35})
    smile = draws.between(-0.12, 1.0)
    laugh = smile > 0.35 and draws.chance(0.55)
    build = _build(draws, woman)
    clothes = draws.colour(CLOTHES, 0.06)
    backdrop = (draws.colour(BACKDROP, 0.08), draws.colour(BACKDROP, 0.08))
    features = _features(draws, woman, tone, smile, laugh)
    brow = hair * F32(0.55) + skin * F32(0.06)
    return Traits(
        **build, **features, **light, feminine=feminine, age=age, skin=skin, lips=lips, hair=hair, brow=brow, iris=iris,
        clothes=clothes, backdrop=backdrop, style=style, beard=beard, glasses=glasses,
        volume=draws.between(0.0, 1.0),
        hairline=draws.between(0.60, 0.72) + (-0.02 if woman else 0.10 * max(age - 0.5, 0)),
        part=draws.between(-0.75, 0.75),
        fringe=draws.between(0.35, 0.95) if draws.chance(0.36 if woman else 0.18) else 0.0,
        length=draws.between(0.0, 1.0),
        wave=draws.between(0.0, 1.0),
        glasses_colour=srgb(*((0.07, 0.07, 0.08) if draws.chance(0.6) else (0.36, 0.20, 0.12))),
        earrings=woman and draws.chance(0.3),
        collar=draws.pick({"crew": 2.0, "vee": 1.4, "shirt": 1.5, "wide": 0.9 if woman else 0.1, "roll": 0.4}),
        hat=draws.chance(0.035),
        backdrop_angle=draws.between(0, 2 * math.pi),
        bokeh=int(draws.between(0, 7)),
    )  # fmt: skip
