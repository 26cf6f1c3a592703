"""The sets of augmentations that go by a name (Karras et al. 2020, "Training GANs with Limited Data", Section 4)."""

_BLIT = {"xflip": 1, "rotate90": 1, "xint": 1}
_GEOM = {"scale": 1, "rotate": 1, "aniso": 1, "xfrac": 1}
_COLOR = {"brightness": 1, "contrast": 1, "lumaflip": 1, "hue": 1, "saturation": 1}
_FILTER, _NOISE, _CUTOUT = {"imgfilter": 1}, {"noise": 1}, {"cutout": 1}

# Name of a set of transformations -> arguments of `AugmentPipe`. All but `face` are the published sets.
AUGPIPES: dict[str, dict[str, float]] = {
    "blit": _BLIT,
    "geom": _GEOM,
    "color": _COLOR,
    "filter": _FILTER,
    "noise": _NOISE,
    "cutout": _CUTOUT,
    "bg": _BLIT | _GEOM,
    "bgc": _BLIT | _GEOM | _COLOR,
    "bgcf": _BLIT | _GEOM | _COLOR | _FILTER,
    "bgcfn": _BLIT | _GEOM | _COLOR | _FILTER | _NOISE,
    "bgcfnc": _BLIT | _GEOM | _COLOR | _FILTER | _NOISE | _CUTOUT,
    # Augmentations leak into the generator once p is high, and on a face three of them are seen at once: quarter turns
    # (lossless, so nothing gives them away), negatives, and green or purple skin. Portraits need none of them.
    "face": {k: v for k, v in (_BLIT | _GEOM | _COLOR).items() if k not in ("rotate90", "lumaflip", "hue")},
}
