"""Procedural faces: `render_face(seed)` paints one portrait, the same bytes for a seed on every machine.

They stand in for photos where there are none: the demo trains its GAN on them. Everything is computed from signed
distances and a height field, in linear light: backdrop, hair behind, body, ears, head, hair in front, glasses.
`traits` draws who it is, `head` and `hair` paint those parts, `canvas` has the brush.
"""

from __future__ import annotations

import math

import numpy as np

from common.errors import UserError
from faces.procedural.canvas import F32, Canvas, bump, lattice_field, noise_1d, smoothstep, srgb, to_bytes
from faces.procedural.hair import paint_front_hair, paint_hair_behind, paint_locks
from faces.procedural.head import paint_ears, paint_head
from faces.procedural.scene import Scene
from faces.procedural.traits import SeedDraws, draw_traits

MIN_WORK = 128  # smaller pictures are painted at least this large, then averaged down
MAX_RESOLUTION = 4096


def render_face(seed: int, resolution: int = 64) -> np.ndarray:
    """One face, uint8 [resolution, resolution, 3] RGB.

    The composition depends on `seed` (any non-negative int) alone; `resolution` (1 to 4096 pixels) only samples it.
    Raises `UserError` for a negative seed or a resolution out of range.
    """
    if seed < 0:
        raise UserError(f"seed {seed}: seeds of procedural faces are 0 or larger")
    if not 1 <= resolution <= MAX_RESOLUTION:
        raise UserError(f"resolution {resolution}: procedural faces are drawn at 1 to {MAX_RESOLUTION} pixels")
    scene = Scene(
        Canvas(resolution * max(1, -(-MIN_WORK // resolution))), draw_traits(int(seed)), SeedDraws(int(seed), 1)
    )
    paint_backdrop(scene)
    paint_hair_behind(scene)
    paint_body(scene)
    paint_ears(scene)
    paint_locks(scene)
    paint_head(scene)
    paint_front_hair(scene)
    paint_glasses(scene)
    return to_bytes(finish(scene), resolution)


def paint_backdrop(scene: Scene) -> None:
    """A gradient between two colours, soft clouds, blurred lights, and a vignette."""
    canvas, traits, draws = scene.canvas, scene.traits, scene.draws
    first, second = traits.backdrop
    along = math.cos(traits.backdrop_angle), math.sin(traits.backdrop_angle)
    ramp = canvas.x * F32(along[0] * 0.45) + canvas.y * F32(along[1] * 0.45) + F32(0.5)
    ramp = ramp + lattice_field(draws.lattice(5, 5), canvas.size) * F32(0.22)
    canvas.image[:] = first[:, None, None] + smoothstep(ramp) * (second - first)[:, None, None]
    for _ in range(traits.bokeh):
        x, y, radius = draws.between(-1, 1), draws.between(-1, 0.7), draws.between(0.08, 0.34)
        glow = draws.between(-0.5, 0.9)
        window = canvas.window(x, y, radius * 1.3, radius * 1.3)
        away = np.sqrt((canvas.x[:, window[1]] - F32(x)) ** 2 + (canvas.y[window[0]] - F32(y)) ** 2)
        alpha = canvas.cover(away - F32(radius), radius * draws.between(0.2, 0.6)) * F32(abs(glow) * 0.5)
        canvas.paint(alpha, draws.near((0.95, 0.90, 0.80) if glow > 0 else (0.15, 0.17, 0.2), 0.05), window)
    canvas.image *= F32(1) - F32(0.17) * (canvas.x * canvas.x + canvas.y * canvas.y)


def paint_body(scene: Scene) -> None:
    """Neck, shoulders and clothes, lit from the same side as the face."""
    canvas, traits = scene.canvas, scene.traits
    lx, ly, _ = traits.light
    man = 1.0 - traits.feminine
    chin_x, chin_y = scene.to_canvas(*scene.place(0.0, 0.95)[:2])
    neck_x = 0.35 * chin_x + 0.65 * traits.centre[0]
    neck_w = traits.width * (0.47 + 0.12 * man)
    pit = chin_y + 0.17  # where the collar bones meet
    top = max(int((chin_y - 0.35 + 1) * canvas.size / 2), 0)
    rows = (slice(min(top, canvas.size - 1), canvas.size), slice(0, canvas.size))
    x, y = canvas.x - F32(neck_x), canvas.y[rows[0]]
    flare = smoothstep((y - F32(pit - 0.16)) * F32(1 / 0.30))
    neck = np.abs(x) - F32(neck_w) - flare * F32(0.18)

    # a cylinder's normal, and the head's shadow on it
    nx = np.clip(x * F32(0.8 / neck_w), F32(-0.95), F32(0.95))
    nz = np.sqrt(F32(1) - nx * nx)
    ny = F32(-0.12)
    under = np.clip((y - F32(chin_y + 0.03)) * F32(1 / 0.2), F32(0), F32(1))
    cast = F32(1) - F32(0.55) * bump(
        ((x - F32(chin_x - neck_x - 0.15 * lx)) * F32(1 / 0.46)) ** 2 + (under * F32(0.9)) ** 2
    )
    skin = scene.lit(traits.skin * F32(0.94), nx, ny, nz, cast)
    canvas.paint(canvas.cover(neck), skin, rows)

    # shoulders: a soft arch, broader for men; folds are one-dimensional noise across the chest
    width = 0.84 + 0.16 * man
    shoulder_top = pit - 0.03
    across = np.abs(x) * F32(1 / width)
    drop = F32(0.30) * across * across + F32(0.26) * bump((across - F32(1.12)) ** 2 * F32(4)) * across
    arch = F32(shoulder_top) + drop - y
    nx = np.clip(x * F32(0.75 / width), F32(-0.9), F32(0.9))
    ny = F32(-0.30) - F32(0.3) * np.clip(F32(1) - (y - F32(shoulder_top)) * F32(4), F32(0), F32(1))
    nz = np.sqrt(np.maximum(F32(1) - nx * nx - ny * ny, F32(0.08)))
    fold = noise_1d(scene.strands, x * F32(5.5) + y * F32(2.5)) * F32(0.10)
    weave = scene.grain_field[rows[0]] * F32(0.05)
    cloth = scene.lit(traits.clothes, nx, ny, nz, (F32(1) + fold + weave) * (F32(0.55) + F32(0.45) * cast))
    neckline = _neckline(traits.collar, x, y, pit, neck_w)
    worn = np.maximum(arch, neckline)
    # bare shoulders under the wide collar are skin, not a hole
    canvas.paint(canvas.cover(arch), scene.lit(traits.skin * F32(0.94), nx, ny, nz, cast), rows)
    canvas.paint(canvas.cover(worn + F32(-0.016), 0.05) * F32(0.35), traits.skin * F32(0.25), rows)
    canvas.paint(canvas.cover(worn), cloth, rows)
    if traits.collar in ("crew", "roll"):
        rib = np.abs(neckline + F32(0.028)) - F32(0.024)
        canvas.paint(canvas.cover(np.maximum(rib, arch)) * F32(0.8), cloth * F32(0.86), rows)
    if traits.collar == "shirt":
        flap = np.abs(neckline + F32(0.045)) - F32(0.045)
        light = np.minimum(cloth * F32(1.18) + F32(0.02), F32(1))
        canvas.paint(canvas.cover(np.maximum(np.maximum(flap, arch), F32(pit - 0.06) - y)), light, rows)
        canvas.paint(canvas.cover(np.abs(x) - F32(0.006)) * canvas.cover(worn) * F32(0.5), cloth * F32(0.5), rows)


def _neckline(collar: str, x: np.ndarray, y: np.ndarray, pit: float, neck_w: float) -> np.ndarray:
    """Signed distance to the cloth below a neckline (negative = covered by cloth)."""
    away = np.abs(x)
    if collar == "roll":
        return F32(pit - 0.13) + away * away * F32(0.25) - y
    if collar == "wide":
        return F32(pit + 0.14) - away * away * F32(0.22) - y
    if collar in ("vee", "shirt"):
        return F32(pit + (0.20 if collar == "vee" else 0.14)) - away * F32(0.22 / neck_w) - y
    return F32(pit + 0.055) - (away * F32(1 / neck_w)) ** 2 * F32(0.10) - y


def paint_glasses(scene: Scene) -> None:
    """Frames, lenses with a glare, bridge and temples, in the perspective of the head."""
    canvas, traits = scene.canvas, scene.traits
    if traits.glasses == "none":
        return
    dark = traits.glasses == "dark"
    thick = {"round": 0.012, "square": 0.017, "thin": 0.0075, "dark": 0.015}[traits.glasses]
    square = traits.glasses in ("square", "dark")
    inner = []
    for side in (-1, 1):
        u0, v0, sx, _ = scene.place(side * (traits.eye_apart + 0.005), 0.035)
        half_w, half_h = traits.width * 0.335 * sx, traits.width * (0.255 if square else 0.285)
        corner = min(half_w, half_h) * (0.45 if square else 0.98)
        window, u, v = scene.part(u0, v0, half_w + 0.05, half_h + 0.05)
        du = np.maximum(np.abs(u - F32(u0)) - F32(half_w - corner), F32(0))
        dv = np.maximum(np.abs(v - F32(v0)) - F32(half_h - corner), F32(0))
        edge = np.sqrt(du * du + dv * dv) - F32(corner)
        glare = smoothstep(F32(0.5) - ((u - F32(u0)) * F32(0.8) - (v - F32(v0))) * F32(6) * F32(scene.side))
        lens = canvas.cover(edge)
        if dark:
            tint = srgb(0.10, 0.10, 0.11)[:, None, None] + glare * F32(0.10)
            canvas.paint(lens * F32(0.93), tint, window)
        else:
            canvas.paint(lens * (F32(0.02) + F32(0.10) * glare), srgb(0.92, 0.95, 1.0), window)
        soft_shadow = canvas.cover(np.abs(edge + F32(0.004)) - F32(thick), 0.05) * F32(0.22)
        canvas.paint(soft_shadow, traits.skin * F32(0.2), window)
        canvas.paint(canvas.cover(np.abs(edge) - F32(thick)), traits.glasses_colour, window)
        inner.append((u0 - side * half_w, v0))
        temple = side * traits.width * (0.98 - 0.2 * side * traits.yaw)
        if side * (temple - u0) > half_w:
            middle, reach = (temple + u0 + side * half_w) / 2, abs(temple - u0 - side * half_w) / 2
            window, u, v = scene.part(middle, v0 - 0.03, reach, 0.05)
            bar = np.maximum(np.abs(u - F32(middle)) - F32(reach), np.abs(v - F32(v0 - 0.045)) - F32(thick * 0.8))
            canvas.paint(canvas.cover(bar), traits.glasses_colour * F32(0.8), window)
    (left, v0), (right, _) = inner
    middle, reach = (left + right) / 2, abs(right - left) / 2
    window, u, v = scene.part(middle, v0 - 0.02, reach + 0.02, 0.06)
    t = (u - F32(middle)) * F32(1 / max(reach, 0.01))
    bridge = np.maximum(np.abs(v - F32(v0 - 0.045) - t * t * F32(0.02)) - F32(thick), np.abs(t) - F32(1))
    canvas.paint(canvas.cover(bridge), traits.glasses_colour, window)


def finish(scene: Scene) -> np.ndarray:
    """Film: a little grain, and highlights rolled off instead of clipped. Linear light [3, size, size]."""
    image = scene.canvas.image
    image += image * (scene.grain_field * F32(0.035))
    excess = np.maximum(image - F32(0.72), F32(0))
    return np.minimum(image, F32(0.72)) + excess / (F32(1) + excess * F32(1 / 0.28))
