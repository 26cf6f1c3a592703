"""A decoded frame as a player shows it: square pixels, turned and mirrored by the display matrix, uint8 RGB.

Colours go by what the frame says of its matrix and range (BT.601 and limited where it says nothing, as in FFmpeg),
through libswscale with bicubic filters. Transparency lies on mid-grey, as in photos (`faces.decode`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from faces.decode import MATTE

if TYPE_CHECKING:
    from av import VideoFrame
    from av.filter import Graph

ASPECTS = Fraction(1, 8), Fraction(8)  # of a pixel; what is beyond is a broken header, and taken for square
LEAST = 16  # pixels of a side; smaller pictures are no material for bwdif
HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics (ITU-T H.273) that are no SDR
WIDE = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}  # colour primaries, likewise


def aspect_of(given: Fraction | None) -> Fraction:
    """Width of a pixel by its height, 1 where it isn't said or absurd."""
    return given if given and ASPECTS[0] <= given <= ASPECTS[1] else Fraction(1)


def upright(frame: VideoFrame, aspect: Fraction, matrix: bytes | None) -> np.ndarray:
    """uint8 RGB [H, W, 3] of a frame whose pixels are `aspect` times as wide as high, under a display matrix (None: as
    it lies)."""
    clear = any(part.is_alpha for part in frame.format.components) or frame.format.has_palette
    shown = frame.reformat(format="rgba" if clear else "rgb24", interpolation="BICUBIC", threads=1)
    if aspect != 1:
        width = max(1, int(frame.width * aspect))
        shown = shown.reformat(width=width, height=frame.height, interpolation="BICUBIC", threads=1)
    pixels = shown.to_ndarray()
    if clear:
        alpha = pixels[..., 3:].astype(np.uint16)
        pixels = ((pixels[..., :3] * alpha + MATTE * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(turned(pixels, matrix))


def turned(pixels: np.ndarray, matrix: bytes | None) -> np.ndarray:
    """A picture under the nearest of the eight turns and mirrorings of a display matrix (ISO/IEC 14496-12, 6.2.2).

    The matrix {a, b, u, c, d, v, x, y, w} puts the pixel of column p and line q at column a p + c q, line b p + d q."""
    if matrix is None or len(matrix) < 36:
        return pixels
    a, b, _, c, d = struct.unpack("=5i", matrix[:20])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        across, down = a, d
    else:
        pixels = pixels.transpose(1, 0, 2)
        across, down = c, b
    if across < 0:
        pixels = pixels[:, ::-1]
    if down < 0:
        pixels = pixels[::-1]
    return pixels


def matrix_of(frame: VideoFrame) -> bytes | None:
    """The display matrix that lies beside a frame."""
    part: Any = frame.side_data.get("DISPLAYMATRIX")
    return None if part is None else bytes(part)


class Deinterlacer:
    """Frames one by one, those that are interlaced through FFmpeg's bwdif (each becomes one whole frame), the others
    as they are. What comes out may be frames behind what went in."""

    def __init__(self, time_base: Fraction):
        self._time_base = time_base
        self._graph: Graph | None = None
        self._form: tuple = ()

    def through(self, frame: VideoFrame | None) -> Iterator[VideoFrame]:
        """The frames that `frame` (None: the end) sets free."""
        form = () if frame is None else (frame.width, frame.height, frame.format.name)
        if self._graph is not None and form != self._form:  # the end, or another size
            self._graph.vpush(None)
            yield from self._pulled(self._graph)
            self._graph = None
        if frame is None:
            return
        if self._graph is None and (not frame.interlaced_frame or min(frame.width, frame.height) < LEAST):
            yield frame
            return
        if self._graph is None:
            self._graph, self._form = self._made(frame), form
        self._graph.vpush(frame)
        yield from self._pulled(self._graph)

    def _made(self, frame: VideoFrame) -> Graph:
        from av.filter import Graph

        graph = Graph()
        graph.threads = 1
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=self._time_base
        )
        weaver, sink = graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced"), graph.add("buffersink")
        source.link_to(weaver)
        weaver.link_to(sink)
        graph.configure()
        return graph

    def _pulled(self, graph: Graph) -> Iterator[VideoFrame]:
        import av

        while True:
            try:
                yield graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
