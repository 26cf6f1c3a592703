"""A detector that ONNX Runtime serves: the same preprocessing, calibration and verdicts, without PyTorch.

The file (`discriminator.export_onnx` writes it) holds the network and, as JSON in its metadata under the key
`detector`, all that makes its output a verdict. Input `image` float32 [N, C, R, R] in [-1, 1], or rows [N, L] where a
photo is looked at in several ways; outputs `logit` float32 [N], positive = fake, uncalibrated; where the network has
patches `patch_map` float32 [N, h, w] in [0, 1]; and of one that joins two views `views` float32 [N, 2], their
calibrated log-odds of face and pixels (NaN without pixels).
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
from pathlib import Path

import numpy as np

from common import reading, seal
from common.errors import UserError
from common.memory import at_most, give_back, share_arena
from discriminator.calibration import Calibration
from discriminator.detector_base import NOT_NUMBERS, DetectorBase, Raw, check_version, reason_of, second_look_from
from discriminator.join import Join
from discriminator.onnx_file import check_network, content_of
from discriminator.views import preprocess_from

AGAIN = "export it again"
NO_DETECTOR = "an ONNX file, but not of a detector; make one with `detect.py export`"
MOST_VALUES = 1 << 26  # of one input; 2048 x 2048 in colour are 13 million
TRIAL_SECONDS = 60.0  # for one blank image; detectors here take 0.01 to 1
TRIAL_BYTES = 1 << 30  # that loading and one image may take, beside four times the file
ONNX_FORMAT = "ganface-detector-onnx"
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
        self.second_look = second_look_from(header)
        self.source_sha256 = str(header.get("source_sha256") or "")
        outputs = [output.name for output in session.get_outputs()]
        self.in_threads = session.get_providers()[0] == "CPUExecutionProvider"
        self._outputs = [name for name in (LOGIT, PATCHES, VIEWS) if name in outputs]
        self.has_patches = PATCHES in outputs
        if VIEWS in outputs:
            self.join = Join.from_dict(header["architecture"]["join"])
        if LOGIT not in outputs or [i.name for i in session.get_inputs()] != [INPUT]:
            raise UserError(f"the network takes {INPUT} and gives {LOGIT}, this one has other names")
        if math.prod(self.preprocess.shape) > MOST_VALUES:
            raise UserError(f"the network takes {list(self.preprocess.shape)} values, more than any detector here")
        side, channels = self.preprocess.resolution, self.preprocess.channels
        if tuple(session.get_inputs()[0].shape)[1:] != self.preprocess.shape:
            raise UserError(f"the network does not take {channels} channels of {side} px as the preprocessing makes")

    def once(self, pixels: np.ndarray) -> Raw:
        """See `DetectorBase.once`. UserError, too, where the network fails, or gives something else than it should."""
        return self._checked(_run(self._session, self._outputs, pixels), len(pixels))

    def _checked(self, values: list[np.ndarray], count: int) -> Raw:
        out = dict(zip(self._outputs, values, strict=True))
        shapes = {
            LOGIT: (count,),
            VIEWS: (count, 2),
            PATCHES: (count, *out[PATCHES].shape[1:3]) if PATCHES in out else (),
        }
        for name, value in out.items():
            if value.dtype != np.float32 or value.shape != shapes[name]:
                raise UserError(f"the detector's network gives {name} as {value.dtype} {list(value.shape)}; {AGAIN}")
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
        digest = hashlib.sha256(data).hexdigest()
        seal.check_listed(path, digest)
        try:
            check_network(data)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # one thread for an image and an image for each thread: the cores never wait for each other (2 cores: 8.0 ms an
        # image of the tiny hybrid at 256 px, and 9.3 ms with both on the same images), nor does a verdict depend on
        # what else is judged.
        options.intra_op_num_threads = 1
        # The arena keeps what an image takes, 20 to 40 MB a thread. Asked of the system anew for each image it cost
        # 4000 to 6600 page faults, a quarter of the time (36 and 27 ms). A pattern is the same sum as one block, which
        # is no faster and takes more.
        share_arena(options)
        options.enable_mem_pattern = False
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
            said = _try(onnxruntime, data)
            give_back()
            session = onnxruntime.InferenceSession(data, options, providers=providers)
            session._model_bytes = None  # the file's bytes, which it would keep
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        except Exception as error:  # its exceptions have no base class of their own
            raise UserError(f"{path}: not a network ONNX Runtime can load ({_reason(error)}); {AGAIN}") from None
        try:
            text = session.get_modelmeta().custom_metadata_map.get(ONNX_KEY)
            header = reading.json_of(text) if text else {}
            if not isinstance(header, dict) or header.get("format") != ONNX_FORMAT:
                raise UserError(f"{path}: {NO_DETECTOR}")
            check_version(path, header)
            made = cls(session, header, digest)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = reason_of(error)
            raise UserError(f"{path}: the detector's description does not fit: {reason}; export it again") from None
        try:
            made._checked([said[name] for name in made._outputs], 1)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        seal.check_seal(path, header, content_of(data))  # last: what else is wrong tells more
        del data
        give_back()  # opening takes twice what is left: 40 MB of the shipped detector's
        return made


def _run(session, names: list[str] | None, pixels: np.ndarray, options=None) -> list[np.ndarray]:
    """What the network gives. UserError, one line, where it fails."""
    try:
        return session.run(names, {INPUT: pixels}, options)
    except Exception as error:  # its exceptions have no base class of their own
        raise UserError(f"the detector's network fails ({_reason(error)}); {AGAIN}") from None


def _try(onnxruntime, data: bytes) -> dict[str, np.ndarray]:
    """What a network says of a blank image, computed node by node as it stands, within bounds of time and memory: two
    numbers in a file can make a value of any size, and optimising a network computes what is constant. UserError where
    the bounds do not suffice."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with at_most(TRIAL_BYTES + 4 * len(data)):
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        if not session.get_modelmeta().custom_metadata_map.get(ONNX_KEY):
            raise UserError(NO_DETECTOR)
        inputs = session.get_inputs()
        sides = inputs[0].shape[1:] if len(inputs) == 1 else []
        if [one.name for one in inputs] != [INPUT] or inputs[0].type != "tensor(float)":
            raise UserError(f"the network takes {INPUT}, and nothing else; this one has other names")
        if not all(isinstance(side, int) and side > 0 for side in sides) or math.prod(sides) > MOST_VALUES:
            raise UserError(f"its network takes images of {[str(side)[:20] for side in sides]} values; {AGAIN}")
        running = onnxruntime.RunOptions()
        timer = threading.Timer(TRIAL_SECONDS, setattr, (running, "terminate", True))
        timer.start()
        try:
            names = [output.name for output in session.get_outputs()]
            return dict(zip(names, _run(session, names, np.zeros((1, *sides), np.float32), running), strict=True))
        except UserError:
            if running.terminate:
                raise UserError(f"its network takes more than {TRIAL_SECONDS:g} s for one image; {AGAIN}") from None
            raise
        finally:
            timer.cancel()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
