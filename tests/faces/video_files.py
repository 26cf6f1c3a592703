"""Small videos for tests, written by PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def grey(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Frame i is a flat grey of 4 i + 20, its upper half red (left) and blue (right), to tell channels and sides by."""
    frame = np.full((height, width, 3), 4 * number + 20, np.uint8)
    frame[: height // 2, : width // 2, 0] = frame[: height // 2, width // 2 :, 2] = 255
    return frame


def moving(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A bright disc that goes from left to right over a slope of colours."""
    y, x = np.mgrid[:height, :width].astype(float)
    frame = np.stack([4 * x, 5 * y, 255 - 2 * (x + y)], -1)
    frame[(x - 8 - 3 * number) ** 2 + (y - height / 2) ** 2 < 150] = 250, 240, 200
    return np.clip(frame, 0, 255).astype(np.uint8)


def write(
    path: str | Path,
    frames=40,
    *,
    codec: str = "mpeg4",
    fps: int = 10,
    times=None,
    picture=grey,
    pix_fmt: str = "yuv420p",
    matrix=None,
    aspect: Fraction | None = None,
    options: dict | None = None,
    full: bool = False,
    size: tuple[int, int] = (48, 64),
    form: str | None = None,
) -> str:
    """A video of `frames` pictures. times: of each, in milliseconds (default: by `fps`). matrix: nine numbers."""
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=fps, options={"qmin": "1", "qmax": "2"} | (options or {}))
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], pix_fmt
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if full:
            stream.codec_context.color_range = 2
        if matrix is not None:
            stream.set_display_matrix(matrix)
        base = Fraction(1, 1000) if times is not None else Fraction(1, fps)
        stream.codec_context.time_base = base
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(i, *size), format="rgb24")
            frame = frame.reformat(format=pix_fmt, dst_color_range=2 if full else None)
            frame.pts, frame.time_base = (i if times is None else times[i]), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return str(path)
