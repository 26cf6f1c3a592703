"""Folders of made-up photos for tests of training on patches, and of plain images for those of lists and labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def write_photos(folder: Path, sizes: Sequence[tuple[int, int]]) -> Path:
    """A JPEG of noise for each (height, width), named by its number."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i, size in enumerate(sizes):
        Image.fromarray(rng.integers(60, 196, (*size, 3), dtype=np.uint8)).save(folder / f"{i:02d}.jpg", quality=92)
    return folder


def plant(root: Path, *names: str) -> Path:
    """Small plain images of these paths below the folder, which is given back."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (number % 256, 100, 50)).save(path)
    return root
