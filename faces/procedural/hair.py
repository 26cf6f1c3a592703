"""Hair of a procedural portrait: behind the head, in locks over the shoulders, and in front with its hairline; hats."""

from __future__ import annotations

import math

import numpy as np

from faces.procedural.canvas import F32, Window, lattice_field, noise_1d, smoothstep
from faces.procedural.scene import Scene

LONG = ("long", "bob")
ROUND = ("afro", "curly")
VAULT = 0.42  # how much broader than an ellipse the top of the skull is, on everyone; hair follows it


def _dome(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Radius, 1 on the outline, of the cap of hair: an ellipse squared off as the skull is."""
    x2, y2 = x * x, y * y
    return np.sqrt(np.maximum(x2 + y2 - F32(VAULT) * x2 * y2, F32(0)))


def _cap(scene: Scene) -> tuple[float, float, float]:
    """Half width, half height and centre height of the hair's outer ellipse around the skull."""
    t = scene.traits
    extra = {
        "short": 0.035 + 0.09 * t.volume, "crop": 0.018 + 0.02 * t.volume, "long": 0.06 + 0.10 * t.volume,
        "bob": 0.08 + 0.12 * t.volume, "bun": 0.035 + 0.03 * t.volume, "curly": 0.14 + 0.16 * t.volume,
        "afro": 0.26 + 0.26 * t.volume, "rim": 0.03, "bald": 0.0,
    }[t.style]  # fmt: skip
    centre = -0.10 * t.height
    return t.width * (1.0 + extra), t.height * (0.90 + extra * 0.95), centre


def opening(scene: Scene, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed distance (about, in canvas units) to the part of the head that hair leaves free: negative on the face."""
    t = scene.traits
    wide = {"short": 0.93, "crop": 0.96, "long": 0.86, "bob": 0.85, "bun": 0.95, "curly": 0.88, "afro": 0.90}.get(
        t.style, 0.95
    )
    top = -t.height * (t.hairline - 0.34 * t.fringe) - 0.10 * t.pitch
    bottom = t.height * 1.15
    centre, half = (top + bottom) / 2, (bottom - top) / 2
    shift = 0.36 * t.width * math.sin(t.yaw)
    y = (v - F32(centre)) * F32(1 / half)
    lean = F32(0.0 if t.fringe > 0.6 else 0.55 * t.part * t.width) * np.minimum(y, F32(0)) ** 2
    x = (u - F32(shift) - lean) * F32(1 / (t.width * wide))
    if t.fringe:
        # a fringe is combed to the side of the parting: its edge slopes
        y = y + x * F32(0.10 * t.part)
    x2, y2 = x * x, y * y
    square = 0.30 + 0.45 * min(t.fringe, 0.9)
    return (np.sqrt(np.maximum(x2 + y2 - F32(square) * x2 * y2, F32(1e-6))) - F32(1)) * F32(t.width * wide)


def _texture(scene: Scene, window: Window) -> np.ndarray:
    if scene.traits.style in ROUND:
        # waves in two directions, bent by the clumps, cross into ringlets
        u, v = scene.local(window)
        bend = lattice_field(scene.clumps, scene.canvas.size)[window] * F32(1.6)
        one = noise_1d(scene.strands[:64], (u * F32(0.8) + v * F32(0.6)) * F32(22) + bend)
        two = noise_1d(scene.strands[64:128], (v * F32(0.8) - u * F32(0.6)) * F32(22) - bend)
        return one * F32(0.45) + two * F32(0.45) + one * two * F32(0.5)
    return scene.strand_field[window]


def _hair_colour(scene: Scene, window: Window, texture: np.ndarray, dim: float) -> np.ndarray:
    """Lit hair, linear [3, h, w]: the cap's rounded normal, strands, and a band of sheen facing the light."""
    t = scene.traits
    u, v = scene.local(window)
    wide, high, centre = _cap(scene)
    nx = np.clip(u * F32(0.93 / wide), F32(-0.96), F32(0.96))
    ny = np.clip((v - F32(centre)) * F32(0.93 / high), F32(-0.96), F32(0.55))
    nz = np.sqrt(np.maximum(F32(1) - nx * nx - ny * ny, F32(0.05)))
    light = scene.lit(t.hair, nx, ny, nz, dim * (F32(1) + texture * F32(0.42)), flesh=0.5)
    lx, ly, _ = t.light
    off = ny - F32(-0.45 + 0.25 * ly) + (nx - F32(lx)) * F32(0.10)
    band = np.maximum(F32(1) - off * off * F32(1 / 0.42**2), F32(0))
    lit_side = smoothstep(nx * F32(lx) + nz * F32(0.7))
    sheen = band * band * lit_side * np.maximum(F32(0.55) + texture * F32(0.8), F32(0)) * F32(dim)
    strength = 0.35 if t.style in ROUND else 0.8
    light += sheen * ((t.hair * F32(0.55) + F32(0.035)) * t.key)[:, None, None] * F32(strength)
    return light


def _hanging(scene: Scene) -> tuple[Window, np.ndarray, np.ndarray]:
    """The pixels hair behind the head may reach (`Scene.part`)."""
    wide, high, centre = _cap(scene)
    if scene.traits.style in LONG:
        top, bottom = centre - high * 1.05, _length(scene) + 0.08
    else:
        top, bottom = centre - high * 1.15, centre + high * 1.7
    return scene.part(0.0, (top + bottom) / 2, wide * 1.25, (bottom - top) / 2)


def _length(scene: Scene) -> float:
    """How far down (v) long hair hangs."""
    t = scene.traits
    return t.height * ((0.72 + 0.32 * t.length) if t.style == "bob" else (1.05 + 1.0 * t.length))


def _drape(scene: Scene, u: np.ndarray, v: np.ndarray, texture: np.ndarray) -> np.ndarray:
    """Signed distance to hair that hangs: the cap above, a curtain below it down to the hair's length."""
    t = scene.traits
    wide, high, centre = _cap(scene)
    y = np.minimum(v - F32(centre), F32(0)) * F32(1 / high)
    end = _length(scene)
    below = np.maximum(v - F32(centre), F32(0))
    sway = noise_1d(scene.strands[64:128], v * F32(2.2) + np.where(u > 0, F32(0), F32(9.5))) * F32(0.05 + 0.07 * t.wave)
    tuck = F32(0.10 if t.style == "bob" else -0.05) * (below * F32(1 / end)) ** 2
    half = F32(wide) * (F32(1) + (sway * F32(0.7) + F32(0.03) - tuck) * smoothstep(below * F32(3)))
    x = u / half
    cap = (_dome(x, y) - F32(1)) * F32(wide)
    curtain = v - F32(end) + texture * F32(0.05) + x * x * F32(-0.06 if t.style == "bob" else 0.10)
    return np.maximum(cap, curtain)


def paint_hair_behind(scene: Scene) -> None:
    """All hair that the neck and the head will cover."""
    canvas, t = scene.canvas, scene.traits
    if t.style in ("bald", "crop", "short", "rim"):
        return
    window, u, v = _hanging(scene)
    wide, high, centre = _cap(scene)
    if t.style == "bun":
        knot_u, radius = 0.35 * t.part * t.width - 0.3 * t.yaw * t.width, 0.20
        knot_v = -t.height * (1.02 + 0.1 * t.volume)
        window, u, v = scene.part(knot_u, knot_v, radius * 1.3, radius * 1.3)
        texture = _texture(scene, window)
        d = np.sqrt((u - F32(knot_u)) ** 2 + ((v - F32(knot_v)) * F32(1.15)) ** 2) - F32(radius)
        canvas.paint(canvas.cover(d + texture * F32(0.012)), _hair_colour(scene, window, texture, 0.9), window)
        return
    texture = _texture(scene, window)
    if t.style in LONG:
        d = _drape(scene, u, v, texture) + texture * F32(0.010)
    else:
        lobe = lattice_field(scene.clumps, canvas.size)[window] * F32(0.05 if t.style == "afro" else 0.065)
        reach = 1.0 if t.style == "afro" else 1.05 + 0.5 * t.length * t.feminine
        y = (v - F32(centre)) * F32(1 / high)
        y = np.where(y > 0, y * F32(1 / reach), y)
        x = u * F32(1 / wide)
        d = (np.sqrt(x * x + y * y) - F32(1)) * F32(wide) + lobe + texture * F32(0.022)
    canvas.paint(canvas.cover(d, 0.02), _hair_colour(scene, window, texture, 0.62), window)


def paint_locks(scene: Scene) -> None:
    """Long hair that falls in front of the shoulders, beside the neck."""
    canvas, t = scene.canvas, scene.traits
    if t.style != "long" or t.length < 0.25:
        return
    window, u, v = _hanging(scene)
    texture = scene.strand_field[window]
    gap = F32(t.width) * (F32(0.86) - F32(0.30) * smoothstep((v - F32(0.3)) * F32(1.6)))
    inner = gap - np.abs(u - F32(0.1 * t.yaw))
    d = np.maximum(np.maximum(_drape(scene, u, v, texture), inner), F32(-0.05) - v) + texture * F32(0.016)
    canvas.paint(canvas.cover(d, 0.015), _hair_colour(scene, window, texture, 0.85), window)


def paint_front_hair(scene: Scene) -> None:
    """The hair over the forehead and beside the face, with a soft, strand-ragged hairline; or the hat."""
    canvas, t = scene.canvas, scene.traits
    wide, high, centre = _cap(scene)
    window, u, v = scene.part(0.0, centre, wide * 1.08, high * 1.08)
    if t.style != "bald":
        texture = _texture(scene, window)
        x, y = u * F32(1 / wide), (v - F32(centre)) * F32(1 / high)
        if t.style in LONG or t.style in ROUND:
            y = np.minimum(y, F32(0))
        outer = (_dome(x, y) - F32(1)) * F32(wide)
        if t.style in ROUND:
            outer = outer + lattice_field(scene.clumps, canvas.size)[window] * F32(0.05)
        free = opening(scene, u, v)
        ragged = texture * F32(0.010 if t.style not in ROUND else 0.028)
        d = np.maximum(outer + texture * F32(0.008), F32(-1) * free + ragged)
        alpha = canvas.cover(d, 0.030 if t.style == "crop" else 0.018)
        if t.style in LONG:
            end = t.height * 0.62
            alpha = alpha * smoothstep((F32(end) - v) * F32(4))
        elif t.style in ROUND:
            alpha = alpha * smoothstep((F32(0.30 * t.height) - v) * F32(5))
        else:
            # sideburns fade out beside the ear
            burn = 0.10 if t.style == "crop" else 0.16 + (0.10 if t.beard == "full" else 0.0)
            alpha = alpha * smoothstep((F32(burn * t.height + 0.16 * t.pitch) - v) * F32(7))
            if t.style == "rim":
                alpha = alpha * smoothstep((v + F32(0.42 * t.height)) * F32(9)) * F32(0.85)
            if t.style == "crop":
                alpha = alpha * F32(0.92)
        canvas.paint(alpha, _hair_colour(scene, window, texture, 1.0), window)
    if t.hat:
        _paint_hat(scene)


def _paint_hat(scene: Scene) -> None:
    """A knitted cap pulled over the hair."""
    canvas, t = scene.canvas, scene.traits
    hair_wide, hair_high, _ = _cap(scene)
    wide, high = max(t.width * 1.10, hair_wide * 1.03), max(t.height * 1.06, hair_high * 1.10)
    window, u, v = scene.part(0.0, -0.6 * high, wide * 1.1, high * 0.75)
    x, y = u * F32(1 / wide), (v + F32(0.06)) * F32(1 / high)
    brim = v + F32(0.40 * t.height) + u * u * F32(0.25) + F32(0.10 * t.pitch)
    d = np.maximum((_dome(x, y) - F32(1)) * F32(wide), brim)
    nz = np.sqrt(np.maximum(F32(1) - x * x - y * y, F32(0.06)))
    rib = noise_1d(scene.strands, u * F32(26) / (F32(0.4) + nz)) * F32(0.12)
    seam = brim + F32(0.16)
    roll = F32(1) + F32(0.22) * smoothstep(seam * F32(14)) - F32(0.25) * smoothstep(F32(1) - np.abs(seam) * F32(40))
    colour = scene.lit(np.minimum(t.backdrop[0] * F32(0.6) + t.clothes * F32(0.5), F32(0.9)), x, y, nz, roll + rib, 0.4)
    canvas.paint(canvas.cover(d), colour, window)
