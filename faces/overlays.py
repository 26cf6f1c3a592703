"""What people draw over a photo: lines of writing, stickers, bars, watermarks, strokes.

Drawn at random, of simple shapes, for teaching and measuring: a photo with any of them is a photo still. Images are
uint8 RGB [H, W, 3]; sizes are shares of the shorter side, so that they mean the same at any size.
"""

from __future__ import annotations

import string

import cv2
import numpy as np

FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_COMPLEX)
LETTER = 22.0  # height in pixels of a capital at font scale 1


def overlaid(image: np.ndarray, marks: int, rng: np.random.Generator) -> np.ndarray:
    """A copy with so many marks on it, each of a kind drawn from `KINDS`."""
    out = np.array(image, order="C")
    for _ in range(marks):
        out = KINDS[int(rng.integers(len(KINDS)))](out, rng)
    return out


def writing(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One to three lines of words, outlined half of the time."""
    height, width = image.shape[:2]
    scale, thick, edge = _scale(image, rng.uniform(0.035, 0.11)), int(rng.integers(1, 4)), _pixels(image, 1)
    thick = _pixels(image, thick)
    font, colour, outlined = FONTS[int(rng.integers(len(FONTS)))], _colour(rng), rng.random() < 0.5
    left, line = int(rng.uniform(-0.1, 0.5) * width), int(rng.uniform(0.08, 0.95) * height)
    for _ in range(int(rng.integers(1, 4))):
        words = " ".join(_word(rng) for _ in range(int(rng.integers(1, 4))))
        if outlined:
            other = tuple(255 - level for level in colour)
            cv2.putText(image, words, (left, line), font, scale, other, thick + 2 * edge, cv2.LINE_AA)
        cv2.putText(image, words, (left, line), font, scale, colour, thick, cv2.LINE_AA)
        line += int(1.5 * LETTER * scale)
    return image


def sticker(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A round face of one colour, as emoji are."""
    height, width = image.shape[:2]
    radius = max(2, int(rng.uniform(0.04, 0.18) * min(height, width)))
    x, y = int(rng.uniform(0.1, 0.9) * width), int(rng.uniform(0.1, 0.9) * height)
    cv2.circle(image, (x, y), radius, _colour(rng), -1, cv2.LINE_AA)
    marks, eye = _colour(rng), max(1, int(0.15 * radius))
    for side in (-0.35, 0.35):
        cv2.circle(image, (int(x + side * radius), int(y - 0.2 * radius)), eye, marks, -1, cv2.LINE_AA)
    mouth = (int(0.55 * radius), int(0.5 * radius))
    cv2.ellipse(image, (x, int(y + 0.1 * radius)), mouth, 0, 10, 170, marks, max(1, radius // 10), cv2.LINE_AA)
    return image


def bar(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A level rectangle of one colour, more or less see-through."""
    height, width = image.shape[:2]
    x0, y0 = int(rng.uniform(-0.1, 0.8) * width), int(rng.uniform(0, 0.9) * height)
    x1, y1 = x0 + int(rng.uniform(0.1, 1.1) * width), y0 + int(rng.uniform(0.03, 0.15) * height)
    drawn = cv2.rectangle(image.copy(), (x0, y0), (x1, y1), _colour(rng), -1)
    share = float(rng.uniform(0.5, 1))
    return cv2.addWeighted(drawn, share, image, 1 - share, 0)


def watermark(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """See-through words, turned: once across the image, or all over it."""
    height, width = image.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    font, words = FONTS[int(rng.integers(len(FONTS)))], f"{_word(rng)} {_word(rng)}"
    if rng.random() < 0.5:
        scale = _scale(image, rng.uniform(0.025, 0.1))
        for line in range(0, height + int(2 * LETTER * scale), max(4, int(2.8 * LETTER * scale))):
            start = -int(rng.uniform(0, 3 * LETTER * scale))
            cv2.putText(mask, f"{words}   " * 6, (start, line), font, scale, 255, _pixels(image, 2), cv2.LINE_AA)
    else:
        scale, thick = _scale(image, rng.uniform(0.05, 0.19)), _pixels(image, int(rng.integers(1, 5)))
        cv2.putText(mask, words, (int(0.05 * width), int(0.55 * height)), font, scale, 255, thick, cv2.LINE_AA)
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), float(rng.uniform(-45, 45)), 1.0)
    share = cv2.warpAffine(mask, turn, (width, height)).astype(np.float32)[..., None] / 255
    share *= np.float32(rng.uniform(0.25, 0.7))
    return np.rint(image + share * (np.array(_colour(rng), np.float32) - image)).astype(np.uint8)


def strokes(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One to five straight strokes of a pen."""
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(1, 6))):
        (x0, x1), (y0, y1) = rng.uniform(0, width, 2).astype(int), rng.uniform(0, height, 2).astype(int)
        thick = _pixels(image, int(rng.integers(1, 5)))
        cv2.line(image, (int(x0), int(y0)), (int(x1), int(y1)), _colour(rng), thick, cv2.LINE_AA)
    return image


KINDS = (writing, sticker, bar, watermark, strokes)


def _scale(image: np.ndarray, letter: float) -> float:
    """The font scale at which a capital is `letter` of the shorter side high."""
    return float(letter * min(image.shape[:2]) / LETTER)


def _pixels(image: np.ndarray, at_256: int) -> int:
    """A thickness of lines: `at_256` pixels where the shorter side has 256."""
    return max(1, round(at_256 * min(image.shape[:2]) / 256))


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    """White, black or any colour, equally often."""
    levels = [int(level) for level in rng.integers(0, 256, 3)]
    return ((255, 255, 255), (0, 0, 0), (levels[0], levels[1], levels[2]))[int(rng.integers(3))]


def _word(rng: np.random.Generator) -> str:
    letters = rng.integers(0, 26, int(rng.integers(2, 9)))
    return "".join(string.ascii_uppercase[int(k)] for k in letters)
