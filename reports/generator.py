"""A generator's evaluation for people: lines, and a page of numbers, what they depend on, and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.generator import GeneratorResult
from reports.page import Number, Picture, Section, pairs, write_report
from reports.plots import contact_sheet

COLUMNS = 8
SIDE = 128  # pixels of an image on the page, at most


def lines_of(result: GeneratorResult) -> Iterator[str]:
    """The numbers for the terminal."""
    s = result.settings
    sides = [("n_fake", "generated"), ("n_real", "real")][: 2 if s["data"] else 1]
    counts = " vs ".join(f"{s[key] or 'unknown number of'} {what}" for key, what in sides)
    tail = f"{s['dims']} dims, resize {s['resize'] or 'unknown'}, {counts}, seed {s['seed']}"
    for note in result.notes:
        yield f"note: {note}"
    for row in result.rows:
        value = f"{row.value:.{row.digits}f}" + (f" ± {row.error:.{row.digits}f}" if row.error is not None else "")
        of = f"seed {s['seed']}" if row.name == "PPL" else tail  # which is of other features, perhaps
        yield f"{row.name:<19} {value:<24}{of}" + (f" ({row.what})" if row.what else "")


def write_generator_report(path: str | Path, result: GeneratorResult) -> Path:
    """Write the page; returns its path. OS errors of the disk are passed on."""
    s = result.settings
    numbers = []
    for row in result.rows:
        value = f"{row.value:.{row.digits}f}"
        error = f"± {row.error:.{row.digits}f}; " if row.error is not None else ""
        numbers.append(Number(value, row.name, error + row.what))
    depends = {
        "feature dimensions": s["dims"],
        "resize to 299 x 299": s["resize"],
        "generated images": s["n_fake"],
        "real images": s["n_real"],
        "seed": s["seed"],
        "truncation psi": s.get("psi"),
        "noise": s.get("noise_mode"),
        "class": s["class"],
        "measured": s["target"],
        "network's SHA-256": s["network_sha256"],
        "compared with": s["data"],
        "preprocessing of the reals": s["preprocess"] and ", ".join(f"{k} {v}" for k, v in s["preprocess"].items()),
        "Inception weights' SHA-256": s["weights_sha256"],
        "computed by": s["runtime"] or "an earlier run",
        "files left out": len(s["skipped"]),
    }
    sections = [
        Section("Numbers", numbers=numbers, notes=result.notes),
        Section(
            "What they depend on",
            text=["Compare these numbers only with numbers for which all of this is the same."],
            rows=pairs(depends),
        ),
        *_sheet("Generated images", result.samples, "The first of the images that were measured, not chosen."),
        *_sheet("Real images", result.reals, "The first of the images they were compared with."),
    ]
    if s["skipped"]:
        sections.append(Section("Left out", rows=[tuple(pair) for pair in s["skipped"][:50]]))
    return write_report(path, title="How good the generator is", subtitle=s["target"], sections=sections)


def _sheet(title: str, images: list[np.ndarray], caption: str) -> list[Section]:
    if not images:
        return []
    square = [_small(image) for image in images if image.shape == images[0].shape]
    picture = Picture(contact_sheet(square, COLUMNS), caption, alt=title, pixelated=images[0].shape[-1] < 64)
    return [Section(title, pictures=[picture])]


def _small(image: np.ndarray) -> np.ndarray:
    """uint8 [C, H, W] -> [h, w, C], no side longer than SIDE."""
    pixels = image.transpose(1, 2, 0)
    height, width = pixels.shape[:2]
    if max(height, width) <= SIDE:
        return pixels
    size = (max(1, width * SIDE // max(height, width)), max(1, height * SIDE // max(height, width)))
    photo = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return np.asarray(photo.resize(size, Image.Resampling.BOX)).reshape(size[1], size[0], -1)
