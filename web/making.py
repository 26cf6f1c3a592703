"""Faces from a generator for the page: seeds, mixtures and walks, as `synth.py` makes them."""

from __future__ import annotations

import base64
import io
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import UserError
from common.words import counted
from stylegan2_ada.interop import load_any_generator
from synth.interpolate import walk
from synth.mixing import mixtures, parse_styles
from synth.network import find_network
from synth.options import Rendering, Walk, parse_seeds
from synth.sample import sample

MOST = 16  # faces of a request
SIDE = 1024  # pixels; larger networks would take a request's time


@dataclass(frozen=True)
class Face:
    """A made face: a name for its file, what it was made of in words, and its picture as a PNG."""

    name: str
    caption: str
    png: bytes

    def to_dict(self) -> dict:
        """Plain JSON types."""
        text = base64.b64encode(self.png).decode()
        return {"name": self.name, "caption": self.caption, "picture": f"data:image/png;base64,{text}"}


class Maker:
    """A generator that makes faces, one request at a time, on the CPU. UserError where the file is none."""

    def __init__(self, network: str):
        file = find_network(network, parameter="generator")
        self.file = Path(file).name
        self._generator, _ = load_any_generator(file, "cpu")
        self.resolution = self._generator.cfg.resolution
        if self.resolution > SIDE:
            raise UserError(f"`generator` {network}: makes {self.resolution} pixels; at most {SIDE} can be served")
        self._one = threading.Lock()

    def to_dict(self) -> dict:
        """What a page should know, in plain JSON types."""
        return {"file": self.file, "resolution": self.resolution, "most": MOST, "classes": self._generator.cfg.c_dim}

    def make(
        self,
        seeds: str,
        truncation: float = 0.7,
        *,
        mix: int | None = None,
        styles: str = "coarse",
        to: int | None = None,
        steps: int = 8,
        class_index: int | None = None,
    ) -> list[Face]:
        """Faces of seeds (`1-4,9`); with `mix` each with that seed's styles in the layers `styles`; with `to` a walk
        from the first seed to that one in `steps` pictures. UserError for what is not to be had."""
        if any(b - a >= MOST for a, b in _ranges(seeds)):
            raise UserError(f"`seeds` {seeds[:80]}: at most {MOST} faces in one request")
        wanted = parse_seeds(seeds)
        how = Rendering(psi=truncation, class_index=class_index)
        if mix is not None and to is not None:
            raise UserError("`mix` and `to`: give one of them")
        if len(wanted) > MOST or not 2 <= steps <= MOST:
            raise UserError(f"`seeds`: at most {MOST} faces, or 2 to {MOST} `steps`, in one request")
        with self._one:
            if to is not None:
                return self._walk(wanted[0], to, steps, how)
            if mix is not None:
                return self._mixed(wanted, mix, styles, how)
            images = sample(self._generator, wanted, how)
        return [
            _face(f"seed{seed:06d}", f"seed {seed}, truncation {truncation:g}", image)
            for seed, image in zip(wanted, images, strict=True)
        ]

    def _mixed(self, seeds: Sequence[int], mix: int, styles: str, how: Rendering) -> list[Face]:
        layers = parse_styles(styles, self._generator.num_ws)
        images = mixtures(self._generator, list(seeds), [mix], layers, how).both[:, 0]
        return [
            _face(f"seed{seed:06d}-mix{mix:06d}", f"seed {seed} with the {styles} layers of {mix}", image)
            for seed, image in zip(seeds, images, strict=True)
        ]

    def _walk(self, start: int, end: int, steps: int, how: Rendering) -> list[Face]:
        way = Walk(frames_per_key=steps - 1, method="linear")
        frames = walk(self._generator, [start, end], way, how)
        return [
            _face(
                f"seed{start:06d}-to{end:06d}-{i}",
                f"{i} of {counted(steps - 1, 'step')} from seed {start} to {end}",
                frame.transpose(2, 0, 1),
            )
            for i, frame in enumerate(frames)
        ]


def _ranges(seeds: str) -> list[tuple[int, int]]:
    """The ranges in a list of seeds, before any is laid out."""
    return [(int(a), int(b)) for a, b in re.findall(r"(\d{1,12})\s*-\s*(\d{1,12})", seeds)]


def _face(name: str, caption: str, image: np.ndarray) -> Face:
    """image: uint8 [C, H, W]."""
    pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
    out = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(out, "PNG")
    return Face(f"{name}.png", caption, out.getvalue())
