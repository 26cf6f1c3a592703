"""A detector as an ONNX file: the network's verdict, and in the metadata all that makes a verdict of its output."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from common import seal
from common.errors import UserError
from common.extras import lacking
from common.files import save_atomically
from common.words import counted
from discriminator.artefact import ResidualBank
from discriminator.detector import Detector, fits_half
from discriminator.detector_base import versioned
from discriminator.network import Network
from discriminator.onnx_detector import INPUT, LOGIT, ONNX_FORMAT, ONNX_KEY, PATCHES, VIEWS, OnnxDetector
from discriminator.onnx_file import content_of
from discriminator.views import FaceAndPixels, Preparation, Views
from faces.pixel_crops import BORDER
from faces.preprocess import Preprocess
from metrics.answers import EVEN
from stylegan2_ada.onnx_export import quiet_exporter

NEEDED = ("onnx", "onnxscript")
OPSET = 18
TOLERANCE = 1e-4  # in probability, between PyTorch and ONNX Runtime
LAST_BITS = 2.0**-21  # of a number: what rounding twice may have changed of it
CHECKED = (1, 3)  # sizes of the batches that are compared before the file gets its name


class _Verdict(nn.Module):
    def __init__(self, net: Network, patches: bool):
        super().__init__()
        self.net, self.patches = net, patches

    def forward(self, image):
        out, views = self.net.seen(image)
        outputs = (out.logit, *([out.patch_logits.sigmoid()] if self.patches else []), views)
        given = tuple(output for output in outputs if output is not None)
        return given if len(given) > 1 else out.logit


def describe(detector: Detector) -> dict:
    """What is written beside the network, as plain JSON types."""
    p, look = detector.preprocess, detector.second_look
    return {
        "format": ONNX_FORMAT,
        **versioned(detector),
        "source_sha256": detector.sha256,
        "architecture": detector.net.cfg.to_dict(),
        "preprocess": p.to_dict(),
        "calibration": detector.calibration.to_dict(),
        "meta": detector.meta,
        "in_words": {
            "input": f"{INPUT}: float32 [N, {', '.join(map(str, p.shape))}], x / 127.5 - 1 of upright 8-bit sRGB pixels"
            f" ({_layout(p)})",
            "preprocess": _preprocess_in_words(p),
            "output": f"{LOGIT}: float32 [N], uncalibrated; probability of a generated image = sigmoid({LOGIT} /"
            " temperature + bias); FAKE from `threshold` of a point of the calibration on, REAL below its `unsure_low`"
            f" and below {EVEN:g}, UNSURE between",
            **({} if look is None else {"second_look": look.in_words()}),
        },
    }


def _layout(p: Preparation) -> str:
    if isinstance(p, Preprocess):
        return "RGB" if p.channels == 3 else "luma"
    if isinstance(p, Views):
        return "one after the other: " + ", ".join(f"{c}x{h}x{w}" for c, h, w in p.shapes)
    (c, side, _), (count, channels, small, _) = p.face.shape, p.pixels.shape
    return (
        f"one after the other: the face {c}x{side}x{side}; 1 where there are crops, else -1;"
        f" {counted(count, 'crop')} of {channels}x{small}x{small}, row by row, all -1 where there are none"
    )


def _preprocess_in_words(p: Preparation) -> str:
    if isinstance(p, Views):
        return "; ".join(_preprocess_in_words(view) for view in p.views)
    points = (
        f"OpenCV's INTER_LINEAR (of more than four times {p.resolution} pixels first INTER_AREA to that; to enlarge,"
        " Pillow's lanczos)"
    )
    kernel = points if p.resample == "points" else f"Pillow's {p.resample}"
    said = f"crop {p.crop}, then {kernel} to {p.resolution}x{p.resolution} where it has another size"
    if isinstance(p, Preprocess) and p.qualities:
        said += f"; then saved as JPEG {', then '.join(map(str, p.qualities))} (chroma at half size) and read again"
    if isinstance(p, FaceAndPixels):
        crops = p.pixels
        said = (
            f"the face: {said}; the crops: {crops.grid} x {crops.grid} of {crops.side} x {crops.side} pixels of the"
            f" photo as it is, evenly spread over the face's upright frame without {100 * BORDER:g} % at each edge;"
            " none where they do not fit"
        )
    return said


def export_detector(path: str | os.PathLike, detector: Detector, *, opset: int = OPSET) -> float:
    """Write an .onnx file, float32 with an open batch, and return the largest difference in probability that a check
    against PyTorch found on random images.

    UserError without the packages torch's exporter needs, where a file is in the way, where the network can't be
    exported, or where the check finds more than TOLERANCE; then nothing is written.
    """
    path = Path(path)
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        needs = f"{path}: exporting to ONNX needs {' and '.join(absent)}"
        raise UserError(lacking(needs, "onnx"))
    if path.suffix.lower() != ".onnx":
        raise UserError(f"{path}: the exported file's name must end in .onnx; choose another")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; make it, or choose another place")
    if os.path.lexists(path):
        raise UserError(f"{path} exists and will not be overwritten; choose another name, or remove it")
    difference = 0.0

    def write(temporary: Path) -> None:
        nonlocal difference
        _program(detector, opset).save(str(temporary), external_data=False)
        _describe_in(temporary, describe(detector))
        difference = _difference(detector, OnnxDetector.load(temporary))
        if not difference <= TOLERANCE:
            raise UserError(
                f"{path}: the exported network differs by {difference:.2g} in probability from the original, more than"
                f" {TOLERANCE:g}; nothing was written"
            )

    save_atomically(path, write)
    return difference


def _program(detector: Detector, opset: int) -> torch.onnx.ONNXProgram:
    p, net = detector.preprocess, detector.net
    where = detector.device
    image = torch.zeros(2, *p.shape)
    banks = [part for part in net.modules() if isinstance(part, ResidualBank)]
    try:
        net.cpu()
        for bank in banks:  # the same sums in a form that ONNX Runtime is quick at
            bank.dense = True
        with torch.no_grad():
            out, views = net.seen(image)
        patches = out.patch_logits is not None
        names = [LOGIT] + [PATCHES] * patches + [VIEWS] * (views is not None)
        with quiet_exporter():
            return torch.onnx.export(  # type: ignore[return-value]  # with dynamo it always gives a program
                _Verdict(net, patches).eval(),
                (image,),
                input_names=[INPUT],
                output_names=names,
                dynamo=True,
                opset_version=opset,
                dynamic_shapes={"image": {0: torch.export.Dim("N")}},
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise UserError(f"this network can't be exported ({' '.join(str(error).split())[:160]})") from None
    finally:
        for bank in banks:
            bank.dense = False
        net.to(where)


def _describe_in(path: Path, header: dict) -> None:
    onnx = importlib.import_module("onnx")  # by name: an extra that only those need who export
    model = onnx.load(str(path))
    del model.metadata_props[:]
    model.producer_name, model.doc_string = "ganface", "see metadata_props: detector"
    for node in [*model.graph.node, *(n for f in model.functions for n in f.node)]:
        del node.metadata_props[:]  # the exporter's stack traces name this machine's folders
        node.doc_string = ""
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer]:
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    _halved(onnx, model.graph)
    header = {**header, seal.KEY: seal.seal_of(header, content_of(model.SerializeToString()))}
    entry = model.metadata_props.add()
    entry.key, entry.value = ONNX_KEY, json.dumps(header, sort_keys=True, allow_nan=False)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _halved(onnx: ModuleType, graph: Any) -> None:
    """Large numbers that float16 holds without loss are stored so and cast when the file is opened.

    But for the last bits: the exporter divides a norm's scale, which is what it divides by, by that once more, and on
    some processors the quotient is not 1 to the bit."""
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        rounded = halves.astype(np.float32)
        if not np.allclose(values, rounded, rtol=LAST_BITS, atol=0) or not fits_half(torch.from_numpy(rounded)):
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(halves, name + ".half"))
        casts.append(onnx.helper.make_node("Cast", [name + ".half"], [name], name + ".cast", to=onnx.TensorProto.FLOAT))
    for node in reversed(casts):
        graph.node.insert(0, node)


def _difference(detector: Detector, exported: OnnxDetector) -> float:
    """Largest difference in probability over noise, flat and smooth images in batches of several sizes."""
    p, rng = detector.preprocess, np.random.default_rng(0)
    largest = 0.0
    for n in CHECKED:
        noise = rng.uniform(-1, 1, (n, *p.shape)).astype(np.float32)
        ramp = np.broadcast_to(np.linspace(-1, 1, p.shape[-1], dtype=np.float32), noise.shape)
        for pixels in (noise, ramp.copy(), np.clip(ramp + noise * 0.05, -1, 1)):
            a, b = (d.calibration.probability(d.raw(pixels)[0]) for d in (detector, exported))
            largest = max(largest, float(np.abs(a - b).max()))
    return largest
