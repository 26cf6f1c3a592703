"""Where the detector saw it: the patch map laid over the photo.

Blue patches look photographed, orange ones generated, by themselves and before any calibration; the photo goes grey
underneath, so that no colour of its own can be taken for evidence. The scale is fixed from 0 to 1: a map that says
nothing stays pale instead of being stretched into drama.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.errors import UserError
from discriminator import words
from discriminator.boxes import Mark, boxed
from discriminator.verdict import Verdict

# Blue and vermilion of Okabe & Ito (2008), which stay apart under every common colour blindness.
REAL_COLOUR = np.array([0, 114, 178], dtype=np.float32)
FAKE_COLOUR = np.array([213, 94, 0], dtype=np.float32)
OPACITY = 0.6
LABEL_COLOURS = {"REAL": (0, 114, 178), "FAKE": (190, 70, 0), "UNSURE": (90, 90, 90)}

_SIDE = 448  # longest side of the photo in a panel, pixels
_GAP = 16


def overlay(photo: np.ndarray, patch_map: np.ndarray, *, crop: str = "center") -> np.ndarray:
    """Photo uint8 [H, W, 3] under its map float [h, w] in [0, 1] -> uint8 [H, W, 3].

    crop: how the detector's preprocessing squared the photo ("center", "none" or "pad"), which says where the map lies;
    what the detector did not see is darkened.
    """
    if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8:
        raise UserError(f"expected H x W x 3 uint8 pixels, got {photo.dtype} {photo.shape}")
    fake, seen = _project(patch_map, photo.shape[:2], crop)
    return _tinted(photo, seen, np.where(fake >= 0.5, FAKE_COLOUR, REAL_COLOUR), np.abs(2 * fake - 1))


def _tinted(photo: np.ndarray, seen: np.ndarray, colour: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """The photo in grey under a colour of some strength [H, W, 1] where it was seen, dark elsewhere."""
    grey, strength = np.asarray(Image.fromarray(photo).convert("L"), np.float32)[..., None], strength * OPACITY
    mixed = grey * (1 - strength) + colour * strength
    return np.where(seen, mixed, grey * 0.35).round().clip(0, 255).astype(np.uint8)


def _project(patch_map: np.ndarray, shape: tuple[int, int], crop: str) -> tuple[np.ndarray, np.ndarray]:
    """The map in the photo's pixels [H, W, 1], and a mask [H, W, 1] of the pixels it covers."""
    height, width = shape
    if crop == "none":
        top = left = 0
        tall, wide = height, width
    elif crop in ("center", "pad"):
        tall = wide = (min if crop == "center" else max)(height, width)
        # Negative where the square is larger than the photo.
        top = (height - tall) // 2 if crop == "center" else -((tall - height) // 2)
        left = (width - wide) // 2 if crop == "center" else -((wide - width) // 2)
    else:
        raise UserError(f"crop must be center, none or pad, not {crop!r}")
    picture = Image.fromarray(np.asarray(patch_map, dtype=np.float32))
    large = np.asarray(picture.resize((wide, tall), Image.Resampling.BILINEAR))
    out, seen = np.full(shape, 0.5, np.float32), np.zeros(shape, bool)
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + tall, height), min(left + wide, width)
    out[y0:y1, x0:x1] = large[y0 - top : y1 - top, x0 - left : x1 - left]
    seen[y0:y1, x0:x1] = True
    return out[..., None], seen[..., None]


def overlay_cam(photo: np.ndarray, cam: np.ndarray, *, crop: str = "center", towards_fake: bool = True) -> np.ndarray:
    """Photo uint8 [H, W, 3] under a Grad-CAM float [h, w] in [0, 1]: the stronger a place spoke for FAKE (or, in blue,
    for REAL), the more colour. uint8 [H, W, 3]."""
    strength, seen = _project(cam, photo.shape[:2], crop)
    return _tinted(photo, seen, FAKE_COLOUR if towards_fake else REAL_COLOUR, strength.clip(0, 1))


def explain(
    photo: np.ndarray,
    verdict: Verdict,
    *,
    crop: str = "center",
    title: str = "",
    view: np.ndarray | None = None,
    cam: np.ndarray | None = None,
    towards_fake: bool = True,
    box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """A panel for people: verdict in words, the photo, what was judged under its maps, the scale: uint8 [H', W', 3].

    view: what was judged where that is not the photo itself (an aligned face). cam: Grad-CAM [h, w] in [0, 1], drawn
    beside the patch map; towards_fake: what it speaks for. box: the face's x0, y0, x1, y1 as shares of the photo's
    sides, drawn on it. ValueError where there is neither a patch map nor a Grad-CAM.
    """
    if verdict.patch_map is None and cam is None:
        raise UserError("this detector has no artefact branch, so there is no patch map to draw, and no Grad-CAM came")
    photo = fit(photo)
    view = photo if view is None else fit(view)
    pictures = [(photo if box is None else boxed(photo, [Mark(box, verdict.label)]), "the photo")]
    if verdict.patch_map is not None:
        pictures.append((overlay(view, verdict.patch_map, crop=crop), "what each patch looks like by itself"))
    if cam is not None:
        caption = f"what spoke for {'FAKE' if towards_fake else 'REAL'} (Grad-CAM)"
        pictures.append((overlay_cam(view, cam, crop=crop, towards_fake=towards_fake), caption))
    return _panel(pictures, verdict, title)


def _panel(pictures: list[tuple[np.ndarray, str]], verdict: Verdict, title: str) -> np.ndarray:
    """Pictures with their captions beside each other: above them the verdict in words, on the right the scale."""
    height = max(picture.shape[0] for picture, _ in pictures)
    head, foot, legend = 96, 68, 128
    width = sum(picture.shape[1] + _GAP for picture, _ in pictures) + 2 * _GAP + legend
    panel = Image.new("RGB", (width, head + height + foot), "white")
    draw = ImageDraw.Draw(panel)
    big, normal, small = (ImageFont.load_default(size) for size in (30, 17, 14))

    said = words.HEADLINES[verdict.label]
    draw.text((_GAP, 12), said, fill=LABEL_COLOURS[verdict.label], font=big)
    x = _GAP + draw.textlength(said, font=big) + _GAP
    _write(draw, (x, 22), f"score {words.score(verdict)}, «looks generated» from {verdict.threshold:.2g}", normal,
           panel.width - x - _GAP)  # fmt: skip
    _write(draw, (_GAP, 52), words.says(verdict), small, panel.width - 2 * _GAP)
    _write(draw, (_GAP, 72), title, small, panel.width - 2 * _GAP)

    x = _GAP
    for picture, caption in pictures:
        panel.paste(Image.fromarray(picture), (x, head))
        _write(draw, (x, head + height + 10), caption, small, picture.shape[1])
        x += picture.shape[1] + _GAP
    panel.paste(Image.fromarray(_scale(18, height)), (x, head))
    draw.rectangle((x, head, x + 17, head + height - 1), outline=(120, 120, 120))
    for value, text in ((1.0, "1 looks\ngenerated"), (0.5, "0.5 says\nnothing"), (0.0, "0 looks\nphotographed")):
        y = head + (1 - value) * height
        y = min(max(y - 17, head), head + height - 34)
        draw.multiline_text((x + 24, y), text, fill="black", font=small)
    _write(draw, (_GAP, head + height + 36), verdict.note, small, panel.width - 2 * _GAP)
    return np.asarray(panel)


def fit(photo: np.ndarray, side: int = _SIDE) -> np.ndarray:
    """The photo with its longest side at `side` (default: the panel's size); small ones are enlarged without smoothing
    them away."""
    height, width = photo.shape[:2]
    scale = side / max(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    kernel = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(np.ascontiguousarray(photo)).resize(size, kernel))


def _scale(width: int, height: int) -> np.ndarray:
    """The colour scale over middle grey, 1 at the top."""
    values = np.repeat(np.linspace(1, 0, height, dtype=np.float32)[:, None], width, axis=1)
    return overlay(np.full((height, width, 3), 128, np.uint8), values, crop="none")


def _write(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, font, room: float) -> None:
    """One line of text, its middle left out where it would not fit (both ends of a path matter)."""
    # The built-in font lacks most scripts; a file may be called anything.
    text = "".join(c if c.isprintable() else "?" for c in text)
    shown, keep = text, len(text)
    while keep > 4 and (length := draw.textlength(shown, font=font)) > room:
        keep = min(keep - 2, int(keep * room / length))
        shown = text[: keep // 2] + "…" + text[-(keep // 2) :]
    draw.text(at, shown, fill="black", font=font)
