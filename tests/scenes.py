"""Drawn faces on a rough wall: on a plain one each would be taken for a photo of its own."""

import numpy as np

from faces.procedural.portrait import render_face


def scene(*places: tuple[int, int, int, int], size: tuple[int, int] = (400, 900)) -> np.ndarray:
    """uint8 [*size, 3] with the face of each (seed, x, y, side)."""
    wall = np.random.default_rng(0).integers(80, 161, (*size, 3), dtype=np.uint8)
    for seed, x, y, side in places:
        wall[y : y + side, x : x + side] = render_face(seed, side)
    return wall
