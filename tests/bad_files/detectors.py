"""Detectors: our own files, and ONNX by hand."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable, Sequence

import numpy as np
import safetensors.torch
import torch

from discriminator.calibration import Calibration, calibrate
from discriminator.detector import Detector
from discriminator.hybrid import HybridConfig, HybridDiscriminator
from faces.preprocess import Preprocess
from stylegan2_ada.config import DiscriminatorConfig
from tests.bad_files.files import DEEP, FILES

# ---- detectors ------------------------------------------------------------------------------------------------------


def detector() -> Detector:
    """A tiny network; every photo is UNSURE."""
    torch.manual_seed(0)
    cfg = HybridConfig(DiscriminatorConfig(32, channel_base=128, channel_max=8), artefact_channels=4, verdict_dim=8)
    rng = np.random.default_rng(0)
    logits = np.concatenate([rng.normal(-1, 1, 300), rng.normal(1, 1, 300)])
    data = calibrate(logits, np.repeat([0, 1], 300)).to_dict() | {"bias": 0.0, "temperature": 100.0}
    return Detector(HybridDiscriminator(cfg), Preprocess(32), Calibration.from_dict(data), {})


def detector_file(change: Callable[[dict], object] = lambda header: None, key: str = "detector") -> bytes:
    """The file of `detector`, its header changed."""
    made = detector()
    header = {
        "format": "ganface-detector", "version": 1, "architecture": made.net.cfg.to_dict(),
        "preprocess": made.preprocess.to_dict(), "calibration": made.calibration.to_dict(), "meta": {},
    }  # fmt: skip
    text = change(header)
    tensors = {name: t.contiguous() for name, t in made.net.state_dict().items()}
    return safetensors.torch.save(tensors, {key: text if isinstance(text, str) else json.dumps(header)})


def changed(*way: str, to: object) -> Callable[[dict], None]:
    def change(header: dict) -> None:
        for key in way[:-1]:
            header = header[key]
        header[way[-1]] = to

    return change


FILES["good.safetensors"] = detector_file
FILES["empty.safetensors"] = bytes
FILES["cut.safetensors"] = lambda: detector_file()[:5000]
FILES["pickle.safetensors"] = lambda: pickle.dumps({"a": 1})
FILES["length.safetensors"] = lambda: struct.pack("<Q", 1 << 60) + b"{}"
FILES["nojson.safetensors"] = lambda: struct.pack("<Q", 10) + b"{not json}"
FILES["deephead.safetensors"] = lambda: struct.pack("<Q", len(DEEP)) + DEEP.encode()
FILES["deep.safetensors"] = lambda: detector_file(lambda header: DEEP)
FILES["other.safetensors"] = lambda: safetensors.torch.save({"a": torch.zeros(1)}, {"format": "pt"})
FILES["version.safetensors"] = lambda: detector_file(changed("version", to=99))
FILES["lookless.safetensors"] = lambda: detector_file(changed("version", to=2))
FILES["look.safetensors"] = lambda: detector_file(
    lambda h: h.update(version=2, second_look={"low": 0, "high": "1e999", "fade": 1})
)
FILES["trunk.safetensors"] = lambda: detector_file(changed("architecture", "trunk", "channel_base", to=10**9))
FILES["layers.safetensors"] = lambda: detector_file(changed("architecture", "trunk", "mapping_layers", to=10**7))
FILES["huge.safetensors"] = lambda: detector_file(
    lambda h: h["architecture"]["trunk"].update(channel_base=1 << 17, channel_max=1024, resolution=2048)
)
FILES["hidden.safetensors"] = lambda: detector_file(changed("architecture", "verdict_dim", to=8000))
FILES["words.safetensors"] = lambda: detector_file(changed("architecture", "trunk", "c_dim", to="many"))
FILES["list.safetensors"] = lambda: detector_file(changed("architecture", to=[1, 2]))
FILES["side.safetensors"] = lambda: detector_file(changed("preprocess", "resolution", to=10**6))
FILES["members.safetensors"] = lambda: detector_file(
    changed("architecture", to={"model": "ensemble", "method": "average", "sizes": [0, 0], "members": [{}] * 1000})
)


# ---- ONNX, by hand --------------------------------------------------------------------------------------------------


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def node(kind: str, inputs: list[str], outputs: list[str], *attributes: bytes, domain: str = "") -> bytes:
    body = b"".join(field(1, one) for one in inputs) + b"".join(field(2, one) for one in outputs)
    body += field(4, kind) + b"".join(field(5, one) for one in attributes)
    return body + (field(7, domain) if domain else b"")


def attribute(name: str, *, whole: int | None = None, graph: bytes | None = None, tensor: bytes | None = None) -> bytes:
    if whole is not None:
        return field(1, name) + field(3, whole) + field(20, 2)
    if graph is not None:
        return field(1, name) + field(6, graph) + field(20, 5)
    return field(1, name) + field(5, tensor or b"") + field(20, 4)


def int_tensor(name: str, values: list[int]) -> bytes:
    return field(1, len(values)) + field(2, 7) + field(8, name) + field(9, struct.pack(f"<{len(values)}q", *values))


def value(name: str, dims: list[int | str]) -> bytes:
    sides = b"".join(field(1, field(2, d) if isinstance(d, str) else field(1, d)) for d in dims)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, sides)))


def onnx(nodes: list[bytes], weights: Sequence[bytes] = (), *, meta: bool = True, more: bytes = b"") -> bytes:
    graph = b"".join(field(1, one) for one in nodes) + field(2, "g") + b"".join(field(5, one) for one in weights)
    graph += field(11, value("image", ["N", 3, 32, 32])) + field(12, value("logit", ["N"]))
    model = field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 17)) + more
    if meta:
        made = detector()
        header = {"format": "ganface-detector-onnx", "version": 1, "preprocess": made.preprocess.to_dict(),
                  "calibration": made.calibration.to_dict(), "meta": {}}  # fmt: skip
        model += field(14, field(1, "detector") + field(2, json.dumps(header)))
    return model


MEAN = node("ReduceMean", ["image"], ["mean"], attribute("keepdims", whole=0), field(1, "axes") + b"".join(
    field(8, one) for one in (1, 2, 3)) + field(20, 7))  # fmt: skip
LOGIT = node("Identity", ["mean"], ["logit"])
EXTERNAL = (
    field(1, 4) + field(2, 1) + field(8, "w") + field(13, field(1, "location") + field(2, "good.jpg")) + field(14, 1)
)

FILES["good.onnx"] = lambda: onnx([MEAN, LOGIT])
FILES["empty.onnx"] = bytes
FILES["text.onnx"] = lambda: b"no network at all, a text" * 9
FILES["cut.onnx"] = lambda: onnx([MEAN, LOGIT])[:200]
FILES["plain.onnx"] = lambda: onnx([MEAN, LOGIT], meta=False)
FILES["loop.onnx"] = lambda: onnx([node("Loop", ["", "", "image"], ["logit"], attribute("body", graph=b""))])
FILES["scan.onnx"] = lambda: onnx([node("Scan", ["image"], ["logit"], attribute("body", graph=b""))])
FILES["if.onnx"] = lambda: onnx([node("If", ["image"], ["logit"])])
FILES["custom.onnx"] = lambda: onnx([node("Shell", ["image"], ["logit"], domain="com.example")])
FILES["inside.onnx"] = lambda: onnx([MEAN, node("Relu", ["mean"], ["logit"], attribute("body", graph=b"\x12\x01g"))])
FILES["external.onnx"] = lambda: onnx([MEAN, LOGIT], [EXTERNAL])
FILES["constant.onnx"] = lambda: onnx([node("Constant", [], ["w"], attribute("value", tensor=EXTERNAL)), MEAN, LOGIT])
FILES["function.onnx"] = lambda: onnx([MEAN, LOGIT], more=field(25, field(1, "f")))
FILES["nodes.onnx"] = lambda: onnx([MEAN, LOGIT] + [node("Identity", ["mean"], [f"v{i}"]) for i in range(20_001)])
FILES["expand.onnx"] = lambda: onnx(
    [node("ConstantOfShape", ["sides"], ["zeros"]), node("ReduceSum", ["zeros"], ["sum"]), MEAN,
     node("Add", ["mean", "sum"], ["logit"])],
    [int_tensor("sides", [1 << 20, 1 << 20])],
)  # fmt: skip
FILES["shape.onnx"] = lambda: onnx([node("Flatten", ["image"], ["logit"])])
FILES["nothing.onnx"] = lambda: onnx([LOGIT])
