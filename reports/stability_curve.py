"""A small curve of what became of a verdict in other versions of its photo: SVG for pages, PNG for everybody else."""

from __future__ import annotations

import io
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from common.files import write_bytes
from discriminator.words import HEADLINES

WIDTH, HEIGHT = 640, 238
LEFT, TOP, RIGHT, BOTTOM = 142, 26, 12, 70  # room beside the bands
COLOURS = {"FAKE": "#d55e00", "UNSURE": "#767676", "REAL": "#0072b2"}  # told apart by the colour-blind; and by shape
INK, PALE = "#222222", {"FAKE": "#fbeee4", "UNSURE": "#f3f3f3", "REAL": "#e6f1f8"}
SCALE = 2  # of the PNG


@dataclass(frozen=True)
class Shape:
    """kind: "box", "line", "square", "triangle", "dot", "text" or "slanted" (text that rises); at: its numbers."""

    kind: str
    at: tuple[float, ...]
    colour: str
    text: str = ""


def curve_svg(stability: dict, *, inline: bool = False) -> str:
    """An <svg> of `discriminator.stability.Stability.to_dict`'s result, a file or (inline) a part of a page; "" where
    nothing was tried."""
    if not stability["points"]:
        return ""
    body = "".join(_as_svg(shape) for shape in _shapes(stability))
    space = "" if inline else ' xmlns="http://www.w3.org/2000/svg"'
    return (
        f'<svg{space} viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        f' role="img" font-family="sans-serif" font-size="11"><title>{escape(stability["reason"])}</title>{body}</svg>'
    )


def save_curve(path: Path, stability: dict) -> None:
    """The same as a file, SVG or PNG by its ending; whole or not at all."""
    if path.suffix.lower() == ".svg":
        write_bytes(path, curve_svg(stability).encode())
        return
    picture = Image.new("RGB", (SCALE * WIDTH, SCALE * HEIGHT), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(11 * SCALE)
    for shape in _shapes(stability):
        _draw(picture, draw, font, shape)
    out = io.BytesIO()
    picture.save(out, "PNG")
    write_bytes(path, out.getvalue())


def _shapes(stability: dict) -> list[Shape]:
    low, high = stability["unsure_low"], stability["threshold"]
    bands = [("FAKE", high, 1.0), ("UNSURE", low, high), ("REAL", 0.0, low)]
    bands = [band for band in bands if band[2] > band[1]]
    each = (HEIGHT - TOP - BOTTOM) / len(bands)
    shapes = [Shape("text", (6, 16), INK, stability["reason"][:100])]
    for i, (label, _, _) in enumerate(bands):
        y = TOP + i * each
        shapes.append(Shape("box", (LEFT, y, WIDTH - RIGHT, y + each), PALE[label]))
        shapes.append(Shape("text", (6, y + each / 2 + 4), COLOURS[label], HEADLINES[label]))

    def height(p: float) -> float:
        p = low / 2 if p < low else p  # below it all scores are told alike: they lie on one line
        for i, (_, start, end) in enumerate(bands):
            if p >= start:
                return TOP + (i + 1 - (p - start) / (end - start)) * each
        return TOP + len(bands) * each

    all_ = [{"version": "as it is", "verdict": stability["before"], "probability": stability["probability"]}]
    all_ += stability["points"]
    step = (WIDTH - LEFT - RIGHT) / len(all_)
    spots = [(LEFT + (i + 0.5) * step, height(point["probability"])) for i, point in enumerate(all_)]
    row = [i for i, point in enumerate(all_) if i == 0 or point["version"].startswith("JPEG")]
    shapes += [Shape("line", (*spots[a], *spots[b]), INK) for a, b in zip(row, row[1:])]
    marks = {"FAKE": "square", "UNSURE": "triangle", "REAL": "dot"}
    for (x, y), point in zip(spots, all_, strict=True):
        shapes.append(Shape(marks[point["verdict"]], (x, y), COLOURS[point["verdict"]]))
        shapes.append(Shape("slanted", (x, HEIGHT - BOTTOM + 12), INK, point["version"].partition(",")[0]))
    return shapes


def _corners(shape: Shape) -> list[tuple[float, float]]:
    x, y = shape.at
    if shape.kind == "square":
        return [(x - 4, y - 4), (x + 4, y - 4), (x + 4, y + 4), (x - 4, y + 4)]
    return [(x, y - 5), (x + 5, y + 4), (x - 5, y + 4)]


def _as_svg(shape: Shape) -> str:
    at, colour = [f"{x:.1f}" for x in shape.at], shape.colour
    if shape.kind == "box":
        x0, y0, x1, y1 = shape.at
        return f'<rect x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}" fill="{colour}"/>'
    if shape.kind == "line":
        return '<line x1="{}" y1="{}" x2="{}" y2="{}"'.format(*at) + f' stroke="{colour}"/>'
    if shape.kind == "dot":
        return f'<circle cx="{at[0]}" cy="{at[1]}" r="4.5" fill="{colour}"/>'
    if shape.kind in ("square", "triangle"):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in _corners(shape))
        return f'<polygon points="{points}" fill="{colour}"/>'
    turned = f' transform="rotate(-40 {at[0]} {at[1]})" text-anchor="end"' if shape.kind == "slanted" else ""
    return f'<text x="{at[0]}" y="{at[1]}" fill="{colour}"{turned}>{escape(shape.text)}</text>'


def _draw(picture: Image.Image, draw: ImageDraw.ImageDraw, font, shape: Shape) -> None:
    at = [SCALE * x for x in shape.at]
    if shape.kind == "box":
        draw.rectangle(at, fill=shape.colour)
    elif shape.kind == "line":
        draw.line(at, fill=shape.colour, width=SCALE)
    elif shape.kind == "dot":
        r = 4.5 * SCALE
        draw.ellipse([at[0] - r, at[1] - r, at[0] + r, at[1] + r], fill=shape.colour)
    elif shape.kind in ("square", "triangle"):
        draw.polygon([(SCALE * x, SCALE * y) for x, y in _corners(shape)], fill=shape.colour)
    elif shape.kind == "text":
        draw.text((at[0], at[1]), shape.text, fill=shape.colour, font=font, anchor="ls")
    else:
        wide = int(draw.textlength(shape.text, font=font)) + 4
        label = Image.new("RGBA", (2 * wide, 2 * wide), (255, 255, 255, 0))
        ImageDraw.Draw(label).text((wide, wide), shape.text, fill=shape.colour, font=font, anchor="rs")
        label = label.rotate(40, Image.Resampling.BICUBIC)
        picture.paste(label, (int(at[0]) - wide, int(at[1]) - wide), label)
