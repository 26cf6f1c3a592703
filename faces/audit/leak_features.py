"""What a lazy detector could go by: small feature vectors of an image, each blind to everything but one kind of trace.

`look` measures a decoded image once; `Traces` holds its blockiness, radial spectrum, mean colour and thumbnail, and the
few numbers that reports show. `header_marks` reads what a file's header says beyond size and quality.
`faces.audit.leak_gates` asks of each of them whether it tells real from fake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeVar

import cv2
import numpy as np
import scipy.fft

from common.errors import BadImage
from common.parallel import Progress, in_order, told
from faces.source import FaceSource

T = TypeVar("T")
BANDS = 64  # rings of the radial spectrum
TILE = 256  # the spectrum of larger images is the mean over tiles of this side
MAX_TILES = 4
GRID = 8  # JPEG's blocks
THUMB = 8
HIGHEST = float(np.hypot(0.5, 0.5))  # cycles per pixel in the corner of the spectrum
APPLICATIONS = {b"Exif": "exif", b"ICC_": "icc", b"http": "xmp", b"JFIF": "jfif", b"Adob": "adobe"}
SEGMENTS = {0xFE: "comment", 0xDD: "restart", **dict.fromkeys((0xC2, 0xC6, 0xCA), "progressive")}
FLOOR = 1e-3  # added to powers before the logarithm: a fraction of what rounding to 8 bits leaves


@dataclass(frozen=True, slots=True)
class Traces:
    """One image in numbers. `blockiness` float32 [17] (`blockiness`), `spectrum` float32 [64] (`radial_spectrum`),
    `colour` float32 [3]: mean R, G, B 0..255; `thumb` float32 [64]: 8 x 8 means of luma, 0..255; `brightness` and
    `contrast`: mean and standard deviation of luma; `sharpness`: variance of its Laplacian."""

    blockiness: np.ndarray
    spectrum: np.ndarray
    colour: np.ndarray
    thumb: np.ndarray
    brightness: float
    contrast: float
    sharpness: float


def look(image: np.ndarray) -> Traces:
    """Measure uint8 RGB [H, W, 3] of any size."""
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return Traces(
        blockiness=blockiness(luma),
        spectrum=radial_spectrum(luma),
        colour=np.array(cv2.mean(image)[:3], np.float32),
        thumb=cv2.resize(luma, (THUMB, THUMB), interpolation=cv2.INTER_AREA).ravel(),
        brightness=float(luma.mean()),
        contrast=float(luma.std()),
        sharpness=float(cv2.Laplacian(luma, cv2.CV_32F).var()),
    )


def over_images(
    part: FaceSource, work: Callable[[int, np.ndarray], T], workers: int | None, progress: Progress | None
) -> Iterator[T | None]:
    """work(position, pixels) of every image, in threads; None where one has vanished since it was scanned."""

    def one(i: int) -> T | None:
        try:
            return work(i, part.image(i))
        except BadImage:
            return None

    return told(in_order(one, len(part), workers), len(part), progress, 16)


def blockiness(luma: np.ndarray) -> np.ndarray:
    """How much stronger the picture breaks at each shift of an 8-pixel grid: float32 [17], 0 where no shift differs.

    |a - b - c + d| over 2 x 2 neighbours, where straight edges cancel and corners of blocks stay (Fan & de Queiroz
    2003, "Identification of bitmap compression history"), averaged by column modulo 8 (8 numbers) and by row modulo 8
    (8 numbers), as a share of its mean less 1; the last number is for the corners of the file's own grid. An image
    under 17 pixels a side gives zeros."""
    height, width = (side // GRID * GRID for side in (luma.shape[0] - 1, luma.shape[1] - 1))
    if min(height, width) < 2 * GRID:
        return np.zeros(2 * GRID + 1, np.float32)
    row = luma[:, :-1] - luma[:, 1:]
    corner = np.abs(row[:-1] - row[1:])[:height, :width]
    table = corner.reshape(height // GRID, GRID, width // GRID, GRID).mean((0, 2), dtype=np.float64)
    if (mean := table.mean()) < 1e-6:  # one flat colour
        return np.zeros(2 * GRID + 1, np.float32)
    table = table / mean - 1
    return np.concatenate([table.mean(0), table.mean(1), table[-1:, -1]]).astype(np.float32)


def radial_spectrum(luma: np.ndarray) -> np.ndarray:
    """Log power of luma over 64 rings of equal width, from 0 to the corner's 0.707 cycles per pixel: float32 [64].

    Hann window; power per pixel of the window, so that images of all sizes compare. Images larger than 256 pixels give
    the mean of up to four tiles around the middle, as scaling them would hide how they were scaled. Rings between the
    frequencies of a small image are interpolated."""
    power = np.mean([_ring_power(tile) for tile in _tiles(luma)], axis=0)
    return np.log(power + FLOOR).astype(np.float32)


def _tiles(luma: np.ndarray) -> list[np.ndarray]:
    """Each way one in the middle, or two side by side around it where there is room."""
    height, width = (min(side, TILE) for side in luma.shape)
    tops, lefts = (
        [(side - tile) // 2] if side < 2 * tile else [side // 2 - tile, side // 2]
        for side, tile in zip(luma.shape, (height, width))
    )
    return [luma[y : y + height, x : x + width] for y in tops for x in lefts][:MAX_TILES]


def _ring_power(tile: np.ndarray) -> np.ndarray:
    window, ring, weight, filled = _rings(*tile.shape)
    spectrum = scipy.fft.rfft2((tile - tile.mean()) * window)
    power = (spectrum.real**2 + spectrum.imag**2).ravel()
    total = np.bincount(ring, power * weight, BANDS)[filled] / np.bincount(ring, weight, BANDS)[filled]
    return np.interp(np.arange(BANDS), filled, total)


@lru_cache(maxsize=64)
def _rings(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Window of unit energy, ring of every frequency of a half spectrum, how often it counts, the rings that occur."""
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    window = (window / np.sqrt((window**2).sum())).astype(np.float32)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    ring = np.minimum((np.hypot(fy, fx) / HIGHEST * BANDS).astype(np.int64), BANDS - 1).ravel()
    twice = np.full(fx.shape[1], 2.0)  # the other half of a real image's spectrum is this one's mirror image
    twice[0] = 1.0
    if width % 2 == 0:
        twice[-1] = 1.0
    weight = np.broadcast_to(twice, (height, len(twice))).ravel().copy()
    weight[0] = 0.0 if height * width > 1 else 1.0  # the mean was taken off; what is left there is rounding
    return window, ring, weight, np.flatnonzero(np.bincount(ring, weight, BANDS))


def header_marks(data: bytes) -> tuple[str, ...]:
    """What a file carries beside its pixels, by name: JPEG segments ("exif", "icc", "app13", "comment", "progressive",
    "restart"), PNG chunks ("png:gAMA", "png:interlaced"), RIFF chunks of WebP ("webp:EXIF"). Broken files: what was
    found before the break. Only walks the header; never raises."""
    found: set[str] = set()
    if data.startswith(b"\xff\xd8"):
        found = _jpeg_marks(data)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        names = {data[at + 4 : at + 8] for at in _chunks(data, 8, "big", 0, 12)}
        found = {"png:" + name.decode("latin-1") for name in names - {b"IHDR", b"IDAT", b"IEND", b"PLTE"}}
        if len(data) > 28 and data[28]:
            found.add("png:interlaced")
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        found = {"webp:" + data[at : at + 4].decode("latin-1").strip() for at in _chunks(data, 12, "little", 4, 8, 2)}
    return tuple(sorted(found))


def _chunks(
    data: bytes, at: int, order: Literal["big", "little"], size_at: int, around: int, even: int = 1
) -> Iterator[int]:
    """Where each chunk begins: its size stands `size_at` bytes further on, `around` are not counted in it."""
    while at + 8 <= len(data):
        yield at
        size = int.from_bytes(data[at + size_at : at + size_at + 4], order)
        at += around + size + size % even


def _jpeg_marks(data: bytes) -> set[str]:
    found, at = set(), 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill bytes
            at += 1
            continue
        if marker == 0xDA:  # the picture itself
            break
        body = data[at + 4 : at + 8]
        if 0xE0 <= marker <= 0xEF:
            found.add(APPLICATIONS.get(body, f"app{marker - 0xE0}"))
        elif marker in SEGMENTS:
            found.add(SEGMENTS[marker])
        at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return found
