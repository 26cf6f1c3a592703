"""YuNet's known file by ONNX Runtime: the boxes and landmarks of OpenCV's `FaceDetectorYN`, in two fifths of its time.

The network is fully convolutional. Of a view padded to whole cells of 32 pixels it tells, for each cell of 8, 16 and 32
pixels, how sure it is that a face's middle lies there (a class and an objectness, whose geometric mean is the score),
the middle's offset from the cell's corner and the logarithm of the box's sides, all in cells, and five landmarks.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

STRIDES = (8, 16, 32)
CELL = max(STRIDES)
NMS = 0.3  # shared area over joint area from which on the lower score of two boxes goes
MOST = 5000  # boxes that are compared
KEPT = 640 * 640  # pixels of a view; the memory that a larger one takes is given back after it
_PARTS = ("cls", "obj", "bbox", "kps")
_OUTPUTS = [f"{part}_{stride}" for stride in STRIDES for part in _PARTS]
# The file says 1 x 3 x 640 x 640. In its own format (Protocol Buffers: the number 640 as field 1 of a dimension, or a
# name as its field 2), names for height and width take as many bytes.
_SQUARE = bytes.fromhex("0a0208010a0208030a030880050a03088005")
_ANY = bytes.fromhex("0a0208010a0208030a031201680a03120177")


class YuNet:
    """Made of the file with the known SHA-256. Usable from several threads. least: scores below are no findings."""

    def __init__(self, path: Path, least: float) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # it would warn of every size that is not 640
        options.intra_op_num_threads = 1  # every photo has a thread
        options.enable_mem_pattern = False  # one for each size, and each would be kept
        data = path.read_bytes().replace(_SQUARE, _ANY, 1)
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self.least = least
        self._large = onnxruntime.RunOptions()
        self._large.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def detect(self, view: np.ndarray) -> np.ndarray:
        """Faces in uint8 RGB [H, W, 3], as float32 [n, 15]: x, y, width, height, the landmarks' x and y, the score; in
        pixels of the view, the highest score first."""
        height, width = view.shape[:2]
        blob = np.zeros((1, 3, height + -height % CELL, width + -width % CELL), np.float32)
        blob[0, :, :height, :width] = view.transpose(2, 0, 1)[::-1]  # it knows blue, green, red
        how = self._large if blob[0, 0].size > KEPT else None
        told = dict(zip(_OUTPUTS, self._session.run(_OUTPUTS, {"input": blob}, how), strict=True))
        rows = np.concatenate([self._rows(told, stride, blob.shape[3] // stride) for stride in STRIDES])
        if len(rows) < 2:
            return rows
        whole = np.trunc(rows[:, :4]).astype(int).tolist()  # as OpenCV compares them
        kept = cv2.dnn.NMSBoxes(whole, rows[:, 14].tolist(), self.least, NMS, 1.0, MOST)
        return rows[np.asarray(kept, int).ravel()]

    def _rows(self, told: dict[str, np.ndarray], stride: int, across: int) -> np.ndarray:
        """What one of the grids, `across` cells wide, finds: float32 [n, 15]."""
        sure, there, boxes, points = (told[f"{part}_{stride}"][0] for part in _PARTS)
        score = np.sqrt(sure.clip(0, 1) * there.clip(0, 1))[:, 0]
        at = np.flatnonzero(score >= self.least)
        corner = np.stack([at % across, at // across], 1).astype(np.float32)
        sides = np.exp(boxes[at, 2:]) * stride
        middle = (corner + boxes[at, :2]) * stride
        marks = (points[at].reshape(-1, 5, 2) + corner[:, None]) * stride
        rows = np.concatenate([middle - sides / 2, sides, marks.reshape(-1, 10), score[at, None]], 1)
        return rows.astype(np.float32, copy=False)
