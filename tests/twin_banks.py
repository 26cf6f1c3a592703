"""Banks of twins made by hand, for tests of who reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from faces.twin_bank import DecoderRecord, Pair, write_decoder, write_facts, write_manifest

SHAPE = {"kind": "nearest", "depth": 1, "width": 16, "code": 4, "noise": False}


def write_bank(
    folder: Path, photos: np.ndarray, twins: np.ndarray, pairs: Sequence[Pair], failed: Sequence[int] = (), decoders=2
) -> Path:
    """The same uint8 [n, 3, s, s] for every decoder."""
    folder.mkdir()
    write_facts(folder, {"side": photos.shape[-1], "photos": "photos", "seed": 0})
    records = []
    for number in range(decoders):
        complaints = ["spectrum alone tells them"] if number in failed else []
        measured = {"l1": 0.05, "sharpness": 1.0, "border": 1.0}
        records.append(DecoderRecord(number, SHAPE, 9, measured, {}, complaints, len(pairs)))
        write_decoder(folder, records[-1], photos, twins)
    write_manifest(folder, records, {one.number: list(pairs) for one in records})
    return folder


def marked_pairs(count: int, side: int, quality: int | None = 90, seed: int = 0):
    """Photos and twins of their own noise, photos of `count` files."""
    rng = np.random.default_rng(seed)
    photos = rng.integers(40, 216, (count, 3, side, side), dtype=np.uint8)
    twins = np.clip(photos.astype(int) + rng.integers(-20, 21, photos.shape), 0, 255).astype(np.uint8)
    pairs = [Pair(f"real/{i:03d}.jpg", 1000 + i, 3 * i, 5 * i, quality, "4:4:4") for i in range(count)]
    return photos, twins, pairs
