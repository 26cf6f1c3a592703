"""The page of a generator's evaluation: numbers with all that they depend on, and pictures of both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.generator import Evaluation
from reports.page import Number, Picture, Section, pairs, write_report
from reports.plots import contact_sheet

COLUMNS = 8
SIDE = 128  # pixels of an image on the page, at most


def write_generator_report(path: str | Path, result: Evaluation) -> Path:
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
    picture = Picture(contact_sheet(np.stack(square), COLUMNS), caption, alt=title, pixelated=images[0].shape[-1] < 64)
    return [Section(title, pictures=[picture])]


def _small(image: np.ndarray) -> np.ndarray:
    """uint8 [C, H, W] -> [h, w, C], no side longer than SIDE."""
    pixels = image.transpose(1, 2, 0)
    height, width = pixels.shape[:2]
    if max(height, width) <= SIDE:
        return pixels
    size = (max(1, width * SIDE // max(height, width)), max(1, height * SIDE // max(height, width)))
    found = np.asarray(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).resize(size, Image.BOX))
    return found.reshape(size[1], size[0], -1)
