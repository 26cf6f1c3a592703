"""The frame of reference of a procedural portrait: head coordinates, places on the turned face, and the light."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from faces.procedural.canvas import F32, Canvas, Level, Window, lattice_field, noise_1d
from faces.procedural.traits import SeedDraws, Traits


class Scene:
    """Canvas, person and light, with the head's own coordinates.

    `u` runs to the right of the head and `v` down it, both in canvas units, turned by the head's roll; (0, 0) is
    between the eyes' height and the middle of the skull. On the face itself, `a` and `b` count in half widths and half
    heights of the head seen from the front: the chin is (0, 1), the eyes near (+-0.43, 0).
    """

    def __init__(self, canvas: Canvas, traits: Traits, draws: SeedDraws):
        self.canvas, self.traits, self.draws = canvas, traits, draws
        self._cos, self._sin = math.cos(traits.roll), math.sin(traits.roll)
        self._turn = math.sin(traits.yaw), math.cos(traits.yaw), math.sin(traits.pitch), math.cos(traits.pitch)
        x, y = canvas.x - F32(traits.centre[0]), canvas.y - F32(traits.centre[1])
        self.u = x * F32(self._cos) + y * F32(self._sin)
        self.v = y * F32(self._cos) - x * F32(self._sin)
        self.side = 1.0 if traits.light[0] > 0 else -1.0
        self.strands = draws.lattice(256)
        self.grain = draws.lattice(128, 128)
        self.clumps = draws.lattice(14, 14)

    @cached_property
    def grain_field(self) -> np.ndarray:
        """Fine noise in [-1, 1] over the canvas: pores, weave and film grain are one texture, each with its weight."""
        return lattice_field(self.grain, self.canvas.size)

    @cached_property
    def strand_field(self) -> np.ndarray:
        """Hair strands in about [-1, 1]: noise across lines that fan out from the parting, waved for wavy hair."""
        t = self.traits
        root_u, root_v = 0.55 * t.part * t.width, -t.height * 1.30
        du, dv = self.u - F32(root_u), self.v - F32(root_v)
        fan = du / np.sqrt(du * du + dv * dv * F32(0.7) + F32(0.004))
        fan += noise_1d(self.strands[:64], self.v * F32(5) + self.u) * F32(0.05 + 0.10 * t.wave)
        fine = noise_1d(self.strands, fan * F32(62))
        broad = noise_1d(self.strands, fan * F32(17) + F32(31))
        return fine * F32(0.50) + broad * F32(0.60)

    def local(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        return self.u[window], self.v[window]

    def to_canvas(self, u: float, v: float) -> tuple[float, float]:
        cx, cy = self.traits.centre
        return cx + self._cos * u - self._sin * v, cy + self._sin * u + self._cos * v

    def window(self, u: float, v: float, reach_u: float, reach_v: float) -> Window:
        """The pixels that may lie in a rectangle of the head's coordinates."""
        x, y = self.to_canvas(u, v)
        c, s = abs(self._cos), abs(self._sin)
        return self.canvas.window(x, y, c * reach_u + s * reach_v, s * reach_u + c * reach_v)

    def part(self, u: float, v: float, reach_u: float, reach_v: float) -> tuple[Window, np.ndarray, np.ndarray]:
        """`window`, and the head's coordinates of its pixels."""
        window = self.window(u, v, reach_u, reach_v)
        return window, *self.local(window)

    def place(self, a: float, b: float, lift: float = 0.0) -> tuple[float, float, float, float]:
        """Where the face's point (a, b), raised `lift` half widths off the skull, is seen after yaw and pitch.

        Returns (u, v, sx, sy); sx and sy are how much short horizontal and vertical lengths shrink there.
        """
        t = self.traits
        depth = math.sqrt(max(1 - 0.75 * a * a - 0.5 * b * b, 0.08))
        sin_yaw, cos_yaw, sin_pitch, cos_pitch = self._turn
        u = t.width * (a * cos_yaw + (0.82 * depth + lift) * sin_yaw)
        v = t.height * b * cos_pitch - t.width * (0.75 * depth - 0.45 + lift) * sin_pitch
        sx = min(max(cos_yaw - 0.62 * a / depth * sin_yaw, 0.4), 1.12)
        return u, v, sx, cos_pitch

    def lit(
        self,
        albedo: np.ndarray,
        nx: Level,
        ny: Level,
        nz: Level,
        open_to_light: Level = 1.0,
        flesh: float = 1.0,
    ) -> np.ndarray:
        """Light that leaves a matte surface, linear [3, h, w]. `open_to_light` < 1 is in shadow.

        Red wraps further round than blue (`flesh` scales it): light that has travelled through skin, which keeps
        the edge of a shadow warm.
        """
        t = self.traits
        lx, ly, lz = (F32(value) for value in t.light)
        facing = nx * lx + ny * ly + nz * lz
        ambient = (F32(0.86) - F32(0.14) * ny) * (F32(0.5) + F32(0.5) * open_to_light)
        colour = albedo if albedo.ndim == 3 else albedo[:, None, None]
        out = np.empty((3, *np.broadcast_shapes(np.shape(facing), np.shape(open_to_light))), dtype=F32)
        for channel, wrap in enumerate((0.42, 0.26, 0.20)):
            wrap *= flesh
            strength = float(t.key[channel]) / (1 + wrap)
            plane = out[channel]
            np.multiply(facing, F32(strength), out=plane)
            plane += F32(wrap * strength)
            np.maximum(plane, F32(0), out=plane)
            plane *= open_to_light
            plane += ambient * t.fill[channel]
        out *= colour
        return out
