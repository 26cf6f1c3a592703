"""YuNet's known file by ONNX Runtime: the boxes and landmarks of OpenCV's `FaceDetectorYN`, in two fifths of its time.

The network is fully convolutional. Of a view padded to whole cells of 32 pixels it tells, for each cell of 8, 16 and 32
pixels, how sure it is that a face's middle lies there (a class and an objectness, whose geometric mean is the score),
the middle's offset from the cell's corner and the logarithm of the box's sides, all in cells, and five landmarks.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from common.memory import share_arena
from faces.finding.network_parts import part_of

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

STRIDES = (8, 16, 32)
CELL = max(STRIDES)
NMS = 0.3  # shared area over joint area from which on the lower score of two boxes goes
MOST = 5000  # boxes that are compared
_PARTS = ("cls", "obj", "bbox", "kps")
_OUTPUTS = [f"{part}_{stride}" for stride in STRIDES for part in _PARTS]
# The first layers, up to the value of the grid of 8 pixels that all others follow from, take most of the time and
# memory. They look no further than HALO pixels (19, in whole cells of 8), so a view of more than WHOLE pixels goes
# through them strip by strip: the same numbers, in a memory that does not grow with the view.
_STEM, _STEM_CHANNELS = "206", 64
HALO = 24
WHOLE = 640 * 640
STRIP = 1 << 18  # pixels of a strip, its halo included: about what stays in the caches
KEPT = 1280 * 1280  # pixels of a view; the memory that the other layers take for a larger one is given back after it


class YuNet:
    """Made of the file with the known SHA-256. Usable from several threads. least: scores below are no findings."""

    def __init__(self, path: Path, least: float) -> None:
        import onnxruntime

        self._data = path.read_bytes()  # of views of 640 x 640 pixels; its parts take any
        self._whole = _session(part_of(self._data, "input", 3, _OUTPUTS))
        self.least = least
        self._large = onnxruntime.RunOptions()
        self._large.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    @cached_property
    def _stem(self) -> InferenceSession:
        return _session(part_of(self._data, "input", 3, [_STEM]))

    @cached_property
    def _heads(self) -> InferenceSession:
        return _session(part_of(self._data, _STEM, _STEM_CHANNELS, _OUTPUTS))

    def detect(self, view: np.ndarray) -> np.ndarray:
        """Faces in uint8 RGB [H, W, 3], as float32 [n, 15]: x, y, width, height, the landmarks' x and y, the score; in
        pixels of the view, the highest score first."""
        told = self._told(view)
        across = (view.shape[1] + CELL - 1) // CELL * CELL
        rows = np.concatenate([self._rows(told, stride, across // stride) for stride in STRIDES])
        if len(rows) < 2:
            return rows
        whole = np.trunc(rows[:, :4]).astype(int).tolist()  # as OpenCV compares them
        kept = cv2.dnn.NMSBoxes(whole, rows[:, 14].tolist(), self.least, NMS, 1.0, MOST)
        return rows[np.asarray(kept, int).ravel()]

    def _told(self, view: np.ndarray) -> dict[str, np.ndarray]:
        """What the network says of a view, padded by zeros to whole cells, by its outputs' names."""
        height, width = (length + -length % CELL for length in view.shape[:2])
        if height * width <= WHOLE:
            return dict(zip(_OUTPUTS, self._whole.run(_OUTPUTS, {"input": _planes(view, height, width)}), strict=True))
        grid = np.empty((1, _STEM_CHANNELS, height // STRIDES[0], width // STRIDES[0]), np.float32)
        step = max(CELL, STRIP // width - 2 * HALO)
        step -= step % CELL
        for top in range(0, height, step):
            low, high = max(top - HALO, 0), min(top + step + HALO, height)
            made = self._stem.run([_STEM], {"input": _planes(view[low:high], high - low, width)})[0]
            rows = grid[:, :, top // STRIDES[0] : (top + step) // STRIDES[0]]
            first = (top - low) // STRIDES[0]
            rows[:] = made[:, :, first : first + rows.shape[2]]
        how = self._large if height * width > KEPT else None
        return dict(zip(_OUTPUTS, self._heads.run(_OUTPUTS, {_STEM: grid}, how), strict=True))

    def _rows(self, told: dict[str, np.ndarray], stride: int, across: int) -> np.ndarray:
        """What one of the grids, `across` cells wide, finds: float32 [n, 15]."""
        sure, there, boxes, points = (told[f"{part}_{stride}"][0] for part in _PARTS)
        score = np.sqrt(sure.clip(0, 1) * there.clip(0, 1))[:, 0]
        at = np.flatnonzero(score >= self.least)
        if not at.size:
            return np.empty((0, 15), np.float32)
        corner = np.stack([at % across, at // across], 1).astype(np.float32)
        sides = np.exp(boxes[at, 2:]) * stride
        middle = (corner + boxes[at, :2]) * stride
        marks = (points[at].reshape(-1, 5, 2) + corner[:, None]) * stride
        rows = np.concatenate([middle - sides / 2, sides, marks.reshape(-1, 10), score[at, None]], 1)
        return rows.astype(np.float32, copy=False)


def _session(network: bytes) -> InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1  # every photo has a thread
    share_arena(options)
    options.enable_mem_pattern = False  # one for each size, and each would be kept
    return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])


def _planes(rows: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 RGB [h, w, 3] as the network takes it: blue, green, red, float32 [1, 3, height, width], the rest zeros."""
    planes = np.zeros((1, 3, height, width), np.float32)
    for plane, colour in zip(planes[0, ::-1], cv2.split(np.ascontiguousarray(rows)), strict=True):
        plane[: rows.shape[0], : rows.shape[1]] = colour
    return planes
