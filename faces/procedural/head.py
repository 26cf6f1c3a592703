"""The head of a procedural portrait: skull and skin as a lit height field, eyes, brows, nose, mouth, ears, beard."""

from __future__ import annotations

import math

import numpy as np

from faces.procedural.canvas import F32, Window, blend, bump, lattice_field, noise_1d, normals, smoothstep, srgb, unit
from faces.procedural.hair import VAULT, opening
from faces.procedural.scene import Scene

Ellipse = tuple[float, float, float, float]  # on the face: middle and reach, in half widths and heights of the head


def _disc(u: np.ndarray, v: np.ndarray, at: tuple, ru: float, rv: float) -> np.ndarray:
    """Squared radius in an ellipse around `at`."""
    du, dv = (u - F32(at[0])) * F32(1 / ru), (v - F32(at[1])) * F32(1 / rv)
    return du * du + dv * dv


def _spot(
    scene: Scene, window: Window, at: Ellipse, shift: float = 0.0, lift: float = 0.0
) -> tuple[Window, np.ndarray]:
    """A soft elliptic spot of height 1 on the face, and where it lies in an array over `window`; no other pixels are
    computed. shift: to the left, in canvas units."""
    a, b, ru, rv = at
    u0, v0, sx, _ = scene.place(a, b, lift)
    u0, ru, rv = u0 - shift, ru * scene.traits.width * sx, rv * scene.traits.height
    rows, columns = scene.canvas.within(scene.window(u0, v0, ru, rv), window)
    u, v = scene.local(window)
    return (rows, columns), bump(_disc(u[rows, columns], v[rows, columns], (u0, v0), ru, rv))


def skull(scene: Scene, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Squared 'radius' of the head's outline: 1 on it. An ellipse, squared off a little, tapering to the chin."""
    t = scene.traits
    down: np.ndarray = v * F32(1 / t.height)
    below = np.maximum(down, F32(0))
    if t.beard == "full":
        down = down - below * F32(0.055)  # a full beard hides the chin in itself
    across = (u - down * F32(0.13 * t.yaw)) * F32(1 / t.width) / (F32(1) - F32(t.taper) * below * below)
    a2, d2 = across * across, down * down
    square = np.where(down < 0, F32(VAULT), F32(t.square))
    return a2 + d2 - square * a2 * d2


def paint_ears(scene: Scene) -> None:
    canvas, t = scene.canvas, scene.traits
    for side in (-1, 1):
        shown = min(max(1.0 - side * t.yaw * 1.9, 0.0), 1.35)
        if shown < 0.25:
            continue
        u0, v0 = side * t.width * (0.985 + 0.015 * shown), t.height * 0.10 + 0.16 * t.pitch
        ru, rv = t.width * 0.155 * shown * t.ear, t.height * 0.205 * t.ear
        window, u, v = scene.part(u0, v0, ru * 1.3, rv * 1.3)
        lean = u - (v - F32(v0)) * F32(-0.22 * side)
        outer = _disc(lean, v, (u0, v0), ru, rv)
        inner = _disc(lean, v, (u0 + side * ru * 0.08, v0 - rv * 0.12), ru * 0.62, rv * 0.66)
        nx = np.clip((lean - F32(u0)) * F32(0.7 / ru), F32(-0.8), F32(0.8))
        nz = np.sqrt(F32(1) - nx * nx)
        hollow = F32(1) - F32(0.38) * smoothstep((F32(1.15) - inner) * F32(2))
        ear = scene.lit(t.skin * np.array([1.0, 0.90, 0.88], dtype=F32), nx, F32(0), nz, hollow)
        canvas.paint(canvas.cover((np.sqrt(outer) - F32(1)) * F32(ru)), ear, window)
        if t.earrings and t.style in ("bun", "short", "crop", "bob", "curly"):
            drop = np.sqrt(_disc(u, v, (u0, v0 + rv * 1.08), 0.020, 0.026)) - F32(1)
            canvas.paint(canvas.cover(drop * F32(0.02)), srgb(0.93, 0.80, 0.48), window)


def paint_head(scene: Scene) -> None:
    """Skin colours and features first (albedo), then the whole head lit at once by its height field."""
    canvas, t = scene.canvas, scene.traits
    window, u, v = scene.part(0.0, 0.0, t.width * 1.13, t.height * 1.07)
    outline = skull(scene, u, v)
    nx, ny, nz = normals(_relief(scene, window, outline), canvas.pixel)

    albedo = np.empty((3, *u.shape), dtype=F32)
    albedo[:] = t.skin[:, None, None]
    _complexion(scene, albedo, window)
    shade = _shadows(scene, window)
    _beard(scene, albedo, window)
    head = FacePainter(scene, albedo, window)
    head.mouth()
    head.nostrils()
    for side in (-1, 1):
        head.eye(side)
        head.brow(side)

    image = scene.lit(albedo, nx, ny, nz, shade)
    # a soft sheen where the half vector meets the normal (Blinn), by repeated squaring
    lx, ly, lz = t.light
    hx, hy, hz = lx, ly, lz + 1.0
    size = math.sqrt(hx * hx + hy * hy + hz * hz)
    glint = np.maximum(nx * F32(hx / size) + ny * F32(hy / size) + nz * F32(hz / size), F32(0))
    for _ in range(4):
        glint = glint * glint
    image += glint * shade * F32(0.075)
    rim = F32(1) - nz
    image += (rim * rim * rim) * F32(0.10) * t.fill[:, None, None] * t.backdrop[1][:, None, None]
    alpha = canvas.cover((np.sqrt(outline) - F32(1)) * F32(t.width))
    canvas.paint(alpha, image, window)
    head.catchlights()


def _relief(scene: Scene, window: Window, outline: np.ndarray) -> np.ndarray:
    """Height of the head towards the viewer, in canvas units: skull, brow, sockets, cheeks, nose, lips, chin."""
    t = scene.traits
    u, v = scene.local(window)
    w = t.width
    height = np.sqrt(np.maximum(F32(1) - F32(0.90) * outline, F32(0.03))) * F32(0.86 * w)

    def hill(a: float, b: float, ru: float, rv: float, amount: float, lift: float = 0.0) -> None:
        where, spot = _spot(scene, window, (a, b, ru, rv), lift=lift)
        height[where] += spot * F32(amount)

    man = 1.0 - t.feminine
    for side in (-1, 1):
        hill(side * t.eye_apart, 0.01, 0.34, 0.17, -0.060)
        hill(side * t.eye_apart, 0.015, 0.24, 0.085, 0.030)
        hill(side * 0.50, 0.40, 0.46, 0.30, 0.040 + 0.018 * max(t.smile, 0))
        hill(side * t.eye_apart, -0.20, 0.42, 0.12, 0.014 + 0.018 * man)
        hill(side * t.nose_width * 0.86, t.nose_length - 0.015, 0.13, 0.075, 0.034, 0.12)
    hill(0.0, 0.66, 0.52, 0.25, 0.030)
    hill(0.0, 0.90, 0.30, 0.15, 0.024 + 0.012 * man)
    hill(0.0, t.nose_length - 0.03, t.nose_width * 1.35, 0.135, 0.072, 0.20)
    # the bridge leans from between the eyes to the tip
    top, tip = scene.place(0, -0.10, 0.05), scene.place(0, t.nose_length - 0.03, 0.20)
    along = np.clip((v - F32(top[1])) * F32(1 / (tip[1] - top[1])), F32(0), F32(1))
    centre = F32(top[0]) + along * F32(tip[0] - top[0])
    across = (u - centre) * F32(1 / w) / (F32(0.21) + along * F32(0.07))
    reach = (v - F32(0.45 * top[1] + 0.55 * tip[1])) * F32(1.35 / (tip[1] - top[1]))
    return height + bump(across * across) * bump(reach * reach * F32(0.6)) * (F32(0.040) + along * F32(0.052))


def _complexion(scene: Scene, albedo: np.ndarray, window: Window) -> None:
    """Blush on cheeks, nose and ears, freckles, pores, and the lines that come with age."""
    t, canvas = scene.traits, scene.canvas
    u, v = scene.local(window)
    rosy = np.array([1.04, 0.80, 0.80], dtype=F32)
    warm = np.zeros_like(u)
    for amount, at in ((1, (-0.5, 0.36, 0.42, 0.24)), (1, (0.5, 0.36, 0.42, 0.24)), (0.7, (0, 0.4, 0.3, 0.14))):
        where, patch = _spot(scene, window, at)
        warm[where] += patch * F32(amount * t.blush)
    albedo *= F32(1) + warm * (rosy - F32(1))[:, None, None]

    pores = scene.grain_field[window]
    mottle = lattice_field(scene.clumps, canvas.size)[window]
    albedo *= F32(1) + pores * F32(0.030) + mottle * F32(0.030)
    if t.freckles:
        spots = np.maximum(lattice_field(scene.grain[::2, ::2], canvas.size)[window] - F32(0.35), F32(0))
        albedo *= F32(1) - spots * np.minimum(warm + F32(0.1), F32(1)) * F32(0.5 * t.freckles) * np.array(
            [0.5, 0.9, 1.1], dtype=F32
        ).reshape(3, 1, 1)
    if t.age > 0.5:
        depth = (t.age - 0.5) * 0.5
        line = np.zeros_like(u)
        for b in (-0.36, -0.43, -0.50):  # forehead
            at = scene.place(0.0, b)
            d = v - F32(at[1]) - (u - F32(at[0])) ** 2 * F32(0.35)
            line = line + bump(d * d * F32(1 / 0.012**2)) * bump(((u - F32(at[0])) * F32(1 / (0.62 * t.width))) ** 2)
        albedo *= F32(1) - line * F32(depth)


def _shadows(scene: Scene, window: Window) -> np.ndarray:
    """How open each point of the face is to the light: 1, less under hair, nose, brows and lower lip."""
    t = scene.traits
    u, v = scene.local(window)
    lx = t.light[0]
    shade = np.ones_like(u)

    def dim(a: float, b: float, ru: float, rv: float, amount: float, shift: float = 0.0) -> None:
        where, spot = _spot(scene, window, (a, b, ru, rv), shift * lx)
        shade[where] *= F32(1) - spot * F32(amount)

    dim(0.0, t.nose_length + 0.075, 0.30, 0.085, 0.42, 0.05)
    dim(-0.13 * scene.side, t.nose_length - 0.06, 0.19, 0.22, 0.20, 0.06)
    dim(0.0, 0.835 + 0.05 * t.mouth_open, 0.26, 0.060, 0.26)
    for side in (-1, 1):
        dim(side * (t.eye_apart - 0.20), -0.03, 0.20, 0.14, 0.26)
        dim(side * t.eye_apart, -0.085, 0.32, 0.085, 0.22)
        dim(side * t.eye_apart, 0.13, 0.25, 0.050, 0.08 + 0.14 * t.age)
        # the fold from nose to mouth corner, deeper with a smile and with age
        dim(side * 0.34, 0.52, 0.075, 0.13, 0.10 + 0.20 * max(t.smile, 0) + 0.15 * t.age)
        dim(side * (t.mouth_width + 0.06), 0.655 - 0.06 * t.smile, 0.085, 0.055, 0.25)
    if t.style not in ("bald", "rim"):
        edge = opening(scene, u - F32(0.05 * lx), v - F32(0.03))
        shade = shade * (F32(1) - F32(0.42) * smoothstep(F32(1) + edge * F32(9)))
    return shade


def _beard(scene: Scene, albedo: np.ndarray, window: Window) -> None:
    t = scene.traits
    if t.beard == "none":
        return
    u, v = scene.local(window)
    w, h = t.width, t.height
    lip_u, lip_v, sx, _ = scene.place(0.0, 0.66)
    x, y = (u - F32(lip_u)) * F32(1 / (w * sx)), (v - F32(lip_v)) * F32(1 / h)
    side = np.abs(x)
    upper_edge = F32(0.085) - F32(0.60) * smoothstep((side - F32(0.34)) * F32(1.9))
    strand = noise_1d(scene.strands, x * F32(30) + y * x * F32(22))
    jaw = smoothstep((y - upper_edge + strand * F32(0.014)) * F32(6.5))
    moustache = bump((x * F32(1 / 0.50)) ** 2 + ((y + F32(0.085) - side * F32(0.10)) * F32(1 / 0.085)) ** 2)
    moustache = np.minimum(moustache * F32(2.0), F32(1))
    chin = bump((x * F32(1 / 0.46)) ** 2 + ((y - F32(0.22)) * F32(1 / 0.24)) ** 2)
    chin = np.minimum(chin * F32(2.4), F32(1))
    under = F32(1) - F32(0.5) * bump((x * F32(1 / 0.24)) ** 2 + ((y - F32(0.09)) * F32(1 / 0.05)) ** 2)
    region = {
        "stubble": np.maximum(jaw * under, moustache) * F32(0.42),
        "full": np.maximum(jaw * under, moustache) * F32(0.93),
        "goatee": np.maximum(chin * under, moustache) * F32(0.88),
        "moustache": moustache * F32(0.92),
    }[t.beard]
    grit = scene.grain_field[window]
    colour = (t.hair * F32(0.75) + F32(0.004))[:, None, None] * (F32(1) + strand * F32(0.38))
    alpha = unit(region * (F32(1) + grit * F32(0.10) + strand * F32(0.10)))
    blend(albedo, alpha, colour)


class FacePainter:
    """Features painted into the head's albedo [3, h, w], whose pixels are `window` of the canvas."""

    def __init__(self, scene: Scene, albedo: np.ndarray, window: Window):
        self.scene, self.albedo, self.window = scene, albedo, window
        self._glints: list[tuple[float, float, float]] = []

    def _patch(self, u0: float, v0: float, ru: float, rv: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(u - u0, v - v0, albedo) of a rectangle, cut to the head's window."""
        rows, columns = self.scene.canvas.within(self.scene.window(u0, v0, ru, rv), self.window)
        u, v = self.scene.local(self.window)
        u, v, part = u[rows, columns], v[rows, columns], self.albedo[:, rows, columns]
        return u - F32(u0), v - F32(v0), part

    def eye(self, side: int) -> None:
        t, cover = self.scene.traits, self.scene.canvas.cover
        u0, v0, sx, _ = self.scene.place(side * t.eye_apart, 0.02)
        size = t.width * t.eye_size
        du, dv, part = self._patch(u0, v0, size * 1.5, size * 1.25)
        if not part.size:
            return
        tilt = t.eye_tilt * side
        e = (du + dv * F32(tilt)) * F32(1 / (size * sx))  # -1 .. 1 between the corners
        g = (dv - du * F32(tilt)) * F32(1 / size)
        out = e * F32(side)  # 1 at the outer corner
        arch = F32(1) - e * e
        wide = t.eye_open
        upper = F32(-wide) * arch * (F32(1) - F32(0.16) * out)
        lower = F32(0.58 * wide) * arch * (F32(1) + F32(0.20) * out)
        apart = np.maximum(upper - g, g - lower) * F32(size)

        # lid: lighter bulge with a crease above it
        crease = g - upper + F32(0.20 + 0.16 * t.lid)
        reach = bump(e * e * F32(0.62))
        blend(part, bump(crease * crease * F32(1 / 0.10**2)) * reach * F32(0.55), t.skin * F32(0.34))
        painted = bump((g - upper + F32(0.08)) ** 2 * F32(1 / 0.22**2)) * reach
        blend(part, painted * F32(0.30 * t.liner), t.skin * np.array([0.55, 0.42, 0.45], dtype=F32))

        ball = np.empty_like(part)
        white = srgb(0.88, 0.86, 0.85)
        corner = smoothstep((np.abs(e) - F32(0.55)) * F32(2.0))
        lid_shadow = F32(1) - F32(0.50) * smoothstep(F32(1) - (g - upper) * F32(1 / 0.30)) - F32(0.20) * corner
        ball[:] = white[:, None, None] * lid_shadow
        gx, gy = t.gaze[0] * 0.55 * sx + 0.20 * math.sin(t.yaw), t.gaze[1] * 0.3 - 0.06 - 0.2 * t.pitch
        ix, iy = e * F32(sx) - F32(gx), g - F32(gy)
        r = np.sqrt(ix * ix + iy * iy)
        radius = 0.51
        fibres = noise_1d(self.scene.strands, ix / (r + F32(0.03)) * F32(7)) * F32(0.22)
        glow = F32(0.75) + F32(0.5) * smoothstep(F32(0.5) + (iy * F32(1.2) - ix * F32(0.9 * self.scene.side)))
        limb = F32(1) - F32(0.62) * smoothstep((r - F32(radius * 0.66)) * F32(1 / (radius * 0.34)))
        iris = t.iris[:, None, None] * ((F32(1) + fibres) * glow * limb * lid_shadow)
        blend(ball, cover((r - F32(radius)) * F32(size), 0.016), iris)
        blend(ball, cover((r - F32(radius * 0.43)) * F32(size), 0.010), srgb(0.03, 0.03, 0.035))
        blend(part, cover(apart), ball)

        # tear corner, lashes and lid lines
        tear = bump((out + F32(0.93)) ** 2 * F32(1 / 0.16**2) + g * g * F32(1 / 0.12**2))
        blend(part, tear * F32(0.6), t.skin * np.array([1.0, 0.62, 0.60], dtype=F32))
        thick = F32(0.055 + 0.075 * t.liner) * (F32(0.45) + F32(0.55) * smoothstep(out * F32(0.6) + F32(0.6)))
        lash = np.maximum(np.abs(g - upper + thick * F32(0.35)) - thick, np.abs(e) - F32(1.06))
        dark = srgb(0.07, 0.05, 0.05)
        blend(part, cover(lash * F32(size), 0.012) * F32(0.62 + 0.36 * t.liner), dark)
        under = np.maximum(np.abs(g - lower - F32(0.02)) - F32(0.030), np.abs(e) - F32(0.92))
        blend(part, cover(under * F32(size), 0.014) * F32(0.28 + 0.34 * t.liner), t.skin * F32(0.16))
        if wide > 0.22:
            lx, ly = t.light[0], t.light[1]
            # undo the eye's own scaling to find the glint on the canvas
            glint_v = v0 + (gy + 0.26 * ly) * size + tilt * gx * size
            self._glints.append((u0 + (gx + 0.24 * lx) * size, glint_v, size * 0.10))

    def catchlights(self) -> None:
        """The window's reflection in each eye, painted over the finished head."""
        canvas = self.scene.canvas
        if self.scene.traits.glasses == "dark":
            return
        for u0, v0, radius in self._glints:
            window, u, v = self.scene.part(u0, v0, radius * 2.4, radius * 2.4)
            d = np.sqrt(_disc(u, v, (u0, v0), 1.0, 1.0)) - F32(radius)
            canvas.paint(canvas.cover(d, 0.014) * F32(0.80), srgb(0.98, 0.98, 0.98), window)

    def brow(self, side: int) -> None:
        t, cover = self.scene.traits, self.scene.canvas.cover
        lift = 0.02 * max(t.smile, 0) - 0.012 * t.pitch
        u0, v0, sx, _ = self.scene.place(side * (t.eye_apart + 0.015), 0.02 - t.brow_height - lift)
        half = t.width * 0.31
        du, dv, part = self._patch(u0, v0, half * 1.4, half * 0.9)
        e = du * F32(side / (half * sx))  # 1 at the temple
        past = e - F32(0.25)  # the arch falls slowly towards the nose, faster towards the temple
        bow = F32(-t.brow_arch) * (F32(1) - past * past * np.where(past > 0, F32(1.1), F32(0.40)))
        thick = F32(t.brow_weight * 0.80) * (F32(1) - F32(0.62) * smoothstep((e + F32(0.15)) * F32(0.85)))
        thick = thick * (F32(0.35) + F32(0.65) * smoothstep((e + F32(1)) * F32(2.2)))
        d = np.abs(dv - bow) - thick
        d = np.maximum(d, (np.abs(e) - F32(1)) * F32(half * 0.6))
        hairs = noise_1d(self.scene.strands, e * F32(21) - dv * F32(70)) * F32(0.14)
        strength = F32(0.80) * (F32(1) + hairs)
        blend(part, np.minimum(cover(d, 0.034) * strength, F32(1)), self.scene.traits.brow)

    def nostrils(self) -> None:
        t = self.scene.traits
        for side in (-1, 1):
            u0, v0, sx, _ = self.scene.place(side * t.nose_width * 0.50, t.nose_length + 0.035, 0.12)
            ru, rv = t.width * t.nose_width * 0.36 * sx, t.height * 0.028
            du, dv, part = self._patch(u0, v0, ru * 1.6, rv * 2.2)
            r2 = (du * F32(1 / (ru * 1.5))) ** 2 + ((dv + du * F32(0.25 * side)) * F32(1 / (rv * 1.9))) ** 2
            blend(part, bump(r2) * F32(0.80), t.skin * np.array([0.14, 0.08, 0.07], dtype=F32))
            # the wing's lower edge
            u0, v0, sx, _ = self.scene.place(side * t.nose_width * 0.98, t.nose_length + 0.012, 0.06)
            ru, rv = t.width * 0.060 * sx, t.height * 0.055
            du, dv, part = self._patch(u0, v0, ru * 1.6, rv * 1.6)
            r2 = (du * F32(1 / ru)) ** 2 + (dv * F32(1 / rv)) ** 2
            blend(part, bump(r2) * F32(0.34), t.skin * F32(0.30))

    def mouth(self) -> None:
        t, cover = self.scene.traits, self.scene.canvas.cover
        u0, v0, sx, _ = self.scene.place(0.0, 0.665, 0.04)
        size = t.width * t.mouth_width
        du, dv, part = self._patch(u0, v0, size * 1.25 * max(sx, 0.8), size * 1.1)
        m, n = du * F32(1 / (size * sx)), dv * F32(1 / size)
        m2 = m * m
        arch = np.maximum(F32(1) - m2, F32(0))
        arch = arch * (F32(1.3) - F32(0.3) * arch)
        curve = F32(0.10 * t.smile) - F32(0.34 * t.smile) * m2  # corners go up with a smile
        gap = F32(0.42 * t.mouth_open) * arch
        top, bottom = curve - gap * F32(0.22), curve + gap * F32(0.78)
        bow = F32(1) - F32(0.30) * bump(m2 * F32(1 / 0.26**2))
        upper = top - F32(0.215 * t.lip_full) * arch * bow * (F32(1) - F32(0.25) * arch * F32(t.mouth_open))
        lower = bottom + F32(0.285 * t.lip_full) * arch * (F32(0.72) + F32(0.28) * arch)
        lips = np.maximum(np.maximum(upper - n, n - lower), np.abs(m) - F32(1)) * F32(size)
        ripple = noise_1d(self.scene.strands, m * F32(11)) * F32(0.07)
        # the upper lip faces down and is darker; the lower one catches the light
        along = smoothstep((n - curve) * F32(1 / 0.30) + F32(0.5))
        shine = bump(((n - bottom - F32(0.12 * t.lip_full)) * F32(1 / 0.12)) ** 2 + m2 * F32(1 / 0.5**2))
        tone = F32(0.78) + F32(0.26) * along + ripple
        colour = t.lips[:, None, None] * tone + shine * F32(0.16) * t.skin[:, None, None]
        blend(part, cover(lips, 0.020) * F32(0.90), colour)
        if t.mouth_open > 0.12:
            hole = np.maximum(top - n, n - bottom) * F32(size)
            inside = np.empty_like(part)
            inside[:] = srgb(0.26, 0.08, 0.08)[:, None, None]
            tongue = bump(m2 * F32(1 / 0.55**2) + ((n - bottom) * F32(1 / 0.22)) ** 2)
            blend(inside, tongue * F32(0.75), srgb(0.62, 0.27, 0.27))
            bite = curve + gap * F32(0.42) + F32(0.02)
            seams = np.abs(m * F32(5.2) - np.floor(m * F32(5.2) + F32(0.5)))  # distance to the next gap between teeth
            enamel = F32(0.90) - F32(0.42) * m2 - F32(0.10) * bump((seams * F32(1 / 0.10)) ** 2)
            teeth = srgb(0.95, 0.93, 0.89)[:, None, None] * enamel
            blend(inside, cover((n - bite) * F32(size), 0.012) * smoothstep((F32(0.95) - np.abs(m)) * F32(6)), teeth)
            lip_shadow = F32(1) - F32(0.45) * smoothstep(F32(1) - (n - top) * F32(1 / 0.10))
            blend(part, cover(hole, 0.010), inside * lip_shadow)
        line = np.maximum(np.abs(n - curve) - F32(0.022), np.abs(m) - F32(1.02)) * F32(size)
        closed = F32(1.0 - min(t.mouth_open * 5, 1.0) * 0.999)
        fading = F32(1) - F32(0.75) * np.minimum(m2, F32(1))
        blend(part, cover(line, 0.018) * fading * closed * F32(0.85), t.lips * F32(0.22))
        corners = bump((np.abs(m) - F32(1)) ** 2 * F32(1 / 0.16**2) + ((n - curve) * F32(1 / 0.12)) ** 2)
        blend(part, corners * F32(0.50), t.skin * F32(0.22))
