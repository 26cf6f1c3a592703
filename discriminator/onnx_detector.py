"""A detector that ONNX Runtime serves: the same preprocessing, calibration and verdicts, without PyTorch.

The file (`discriminator.export_onnx` writes it) holds the network and, as JSON in its metadata under the key
`detector`, all that makes its output a verdict. Input `image` float32 [N, C, R, R] in [-1, 1], or rows [N, L] where a
photo is looked at in several ways; outputs `logit` float32 [N], positive = fake, uncalibrated; where the network has
patches `patch_map` float32 [N, h, w] in [0, 1]; and of one that joins two views `views` float32 [N, 2], their
calibrated log-odds of face and pixels (NaN without pixels).
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from common import reading
from common.errors import UserError
from discriminator.calibration import Calibration
from discriminator.detector_base import NOT_NUMBERS, DetectorBase, Raw, check_version, reason_of
from discriminator.join import Join
from discriminator.views import preprocess_from

ONNX_FORMAT = "ganface-detector-onnx"
ONNX_VERSION = 1
ONNX_KEY = "detector"
INPUT, LOGIT, PATCHES, VIEWS = "image", "logit", "patch_map", "views"


class OnnxDetector(DetectorBase):
    """Made by `load`. sha256: of the .onnx file; source_sha256: of the detector file it came from; header: the
    JSON of its metadata."""

    def __init__(self, session, header: dict, sha256: str):
        self._session, self.header, self.sha256 = session, header, sha256
        self.preprocess = preprocess_from(header["preprocess"])
        self.calibration = Calibration.from_dict(header["calibration"])
        self.meta = dict(header.get("meta") or {})
        self.source_sha256 = str(header.get("source_sha256") or "")
        outputs = [output.name for output in session.get_outputs()]
        self.in_threads = session.get_providers()[0] == "CPUExecutionProvider"
        self._outputs = [name for name in (LOGIT, PATCHES, VIEWS) if name in outputs]
        self.has_patches = PATCHES in outputs
        if VIEWS in outputs:
            self.join = Join.from_dict(header["architecture"]["join"])
        if LOGIT not in outputs or [i.name for i in session.get_inputs()] != [INPUT]:
            raise UserError(f"the network takes {INPUT} and gives {LOGIT}, this one has other names")
        side, channels = self.preprocess.resolution, self.preprocess.channels
        if tuple(session.get_inputs()[0].shape)[1:] != self.preprocess.shape:
            raise UserError(f"the network does not take {channels} channels of {side} px as the preprocessing makes")

    def raw(self, pixels: np.ndarray) -> Raw:
        """See `DetectorBase.raw`."""
        out = dict(zip(self._outputs, self._session.run(self._outputs, {INPUT: pixels}), strict=True))
        logits = out[LOGIT].astype(np.float64)
        if not np.isfinite(logits).all():
            raise UserError(NOT_NUMBERS)
        return Raw(logits, out.get(PATCHES), out.get(VIEWS))

    @classmethod
    def load(cls, path: str | os.PathLike, *, device: str = "cpu") -> OnnxDetector:
        """Read an .onnx detector. UserError if it isn't one, or damaged, or for a device ONNX Runtime doesn't have.

        device: "auto", "cpu" or "cuda"; auto is the CPU."""
        try:
            data = Path(path).read_bytes()
        except FileNotFoundError:
            raise UserError(f"{path}: there is no such file; make one with `detect.py export`") from None
        except OSError as error:
            raise UserError(f"{path}: can't be read: {error.strerror}") from None
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # one thread for an image and an image for each thread: the cores never wait for each other (2 cores: 8.0 ms an
        # image of the tiny hybrid at 256 px, and 9.3 ms with both on the same images), nor does a verdict depend on
        # what else is judged. The arena would keep every thread's peak of memory, and is no faster then.
        options.intra_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        providers: list = ["CPUExecutionProvider"]
        if device.startswith("cuda"):
            if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
                raise UserError(
                    f"`device` {device}: this ONNX Runtime has no CUDA; use `runtime` torch, or install onnxruntime-gpu"
                )
            index = int(device.partition(":")[2] or 0)
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": index}))
        elif device not in ("auto", "cpu"):
            raise UserError(f"`device` {device}: ONNX Runtime is used with cpu or cuda; give one, or `runtime` torch")
        try:
            session = onnxruntime.InferenceSession(data, options, providers=providers)
        except Exception as error:  # its exceptions have no base class of their own
            reason = " ".join(str(error).split())[:120]
            raise UserError(f"{path}: not a network ONNX Runtime can load ({reason}); export it again") from None
        try:
            text = session.get_modelmeta().custom_metadata_map.get(ONNX_KEY)
            header = reading.json_of(text) if text else {}
            if not isinstance(header, dict) or header.get("format") != ONNX_FORMAT:
                raise UserError(f"{path}: an ONNX file, but not of a detector; make one with `detect.py export`")
            check_version(path, header, ONNX_VERSION)
            return cls(session, header, hashlib.sha256(data).hexdigest())
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = reason_of(error)
            raise UserError(f"{path}: the detector's description does not fit: {reason}; export it again") from None
