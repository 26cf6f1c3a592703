"""Paths through latent space: from key to key in equal time, straight, along the sphere, or on a smooth curve."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import torch
from scipy.interpolate import CubicSpline

from common.errors import UserError
from stylegan2_ada.generator import Generator
from synth.grid import contact_sheet
from synth.latents import PLAIN, check_rendering, device_of, one_hot, ws_from_seeds, z_from_seed
from synth.options import Rendering, Walk
from synth.render import in_precision, render_ws

METHODS = ("linear", "slerp", "cubic")
Curve = Callable[[np.ndarray], np.ndarray]


def slerp(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Spherical interpolation from a [D] to b [D] at t [n] -> [n, D].

    The direction turns at constant speed in the plane of a and b (Shoemake 1985, section 3.3) while the length goes
    linearly from that of a to that of b. Where no plane is defined (parallel or opposite directions, a zero vector) it
    is linear interpolation.
    """
    t = np.asarray(t, np.float64)[:, None]
    length_a, length_b = np.linalg.norm(a), np.linalg.norm(b)
    if min(length_a, length_b) == 0:
        return (1 - t) * a + t * b
    u, v = a / length_a, b / length_b
    # the angle by half-vectors: arccos of the dot product loses half the digits of small angles
    angle = 2 * np.arctan2(np.linalg.norm(u - v), np.linalg.norm(u + v))
    if np.sin(angle) < 1e-9:
        return (1 - t) * a + t * b
    direction = (np.sin((1 - t) * angle) * u + np.sin(t * angle) * v) / np.sin(angle)
    return direction * ((1 - t) * length_a + t * length_b)


def path_through(keys: np.ndarray, method: str, loop: bool) -> Curve:
    """A path that is at keys[i] at time i: a function of times [n] that gives float64 [n, D].

    method: 'linear', 'slerp' (see `slerp`), or 'cubic': the cubic spline with continuous second derivative, natural at
    the ends, periodic in a loop. loop: the path goes on from the last key to the first (at time K) and has period K.
    Else it ends at time K - 1. UserError for fewer than two keys."""
    keys = np.asarray(keys, np.float64)
    if len(keys) < 2:
        raise UserError(f"`seeds`: a path needs at least two seeds, {len(keys)} given: name more")
    if method not in METHODS:
        raise UserError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    knots = np.concatenate([keys, keys[:1]]) if loop else keys
    last = len(knots) - 1
    if method == "cubic":
        spline = CubicSpline(np.arange(last + 1), knots, bc_type="periodic" if loop else "natural")
        return lambda times: spline(_in_range(times, last, loop))

    def path(times: np.ndarray) -> np.ndarray:
        times = _in_range(times, last, loop)
        segments = np.minimum(times.astype(int), last - 1)
        points = np.empty((len(times), keys.shape[1]))
        for i in np.unique(segments):
            here = segments == i
            a, b, t = knots[i], knots[i + 1], times[here] - i
            points[here] = slerp(a, b, t) if method == "slerp" else a + (b - a) * t[:, None]
        return points

    return path


def _in_range(times: np.ndarray, last: int, loop: bool) -> np.ndarray:
    times = np.asarray(times, np.float64)
    return times % last if loop else np.clip(times, 0, last)


def walk(G: Generator, seeds: list[int], way: Walk, how: Rendering = PLAIN) -> Iterator[np.ndarray]:
    """The frames of a walk from seed to seed, uint8 [rows * R, columns * R, C], made one block at a time.

    Every cell of the grid walks through all seeds; the cells begin at different ones, evenly spread. UserError for too
    few seeds, or a seed, class or cutoff out of range, before the first frame."""
    columns, rows = way.cells()
    cells, device = columns * rows, device_of(G)
    if how.noise_mode == "random":
        raise UserError("`noise_mode` random: fresh noise flickers; give const or none")
    if cells > max(len(seeds), 1):
        raise UserError(
            f"`grid` {way.grid}: shows {cells} walks that begin at different seeds, `seeds` names only"
            f" {len(seeds)}: name more, or make the grid smaller"
        )
    check_rendering(G, how)
    if way.in_z():
        keys = np.stack([z_from_seed(seed, G.cfg.z_dim) for seed in seeds]) if seeds else np.zeros((0, 1))
    else:
        plain = dataclasses.replace(how, psi=1.0, cutoff=None)
        keys = ws_from_seeds(G, seeds, plain)[:, 0].double().cpu().numpy()
    starts = [cell * len(keys) // cells for cell in range(cells)]
    paths = [path_through(np.roll(keys, -start, axis=0), way.method, way.loop) for start in starts]
    G = in_precision(G, how.precision)

    def latents() -> Iterator[torch.Tensor]:
        for frame in range(way.frames(len(keys))):
            here = np.concatenate([path(np.array([frame / way.frames_per_key])) for path in paths])
            with torch.inference_mode():
                points = torch.from_numpy(here).to(device=device, dtype=torch.float32)
                if way.in_z():
                    yield from G.mapping(points, one_hot(G, how.class_index, cells), psi=how.psi, cutoff=how.cutoff)
                else:
                    yield from G.mapping.spread(points, how.psi, how.cutoff)

    return _frames(render_ws(G, latents(), noise_mode=how.noise_mode), columns, rows)


def _frames(blocks: Iterator[np.ndarray], columns: int, rows: int) -> Iterator[np.ndarray]:
    images = (image for block in blocks for image in block)
    while together := list(islice(images, columns * rows)):
        yield np.atleast_3d(contact_sheet(np.stack(together), columns, gap=0))
