"""Files as strangers send them: damaged, something else than their name says, or made to cost time and memory.

`FILES` maps a name to a function that gives the bytes; `write` puts one into a folder. Small valid files stand beside
them (`good_*`). Nothing is random but by a seed.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from discriminator.calibration import Calibration, calibrate
from discriminator.detector import Detector
from discriminator.hybrid import HybridConfig, HybridDiscriminator
from faces.preprocess import Preprocess
from stylegan2_ada.config import DiscriminatorConfig, GeneratorConfig
from stylegan2_ada.generator import Generator

FILES: dict[str, Callable[[], bytes]] = {}


def file(name: str):
    def keep(make: Callable[[], bytes]) -> Callable[[], bytes]:
        FILES[name] = make
        return make

    return keep


def text(name: str, content: str) -> None:
    FILES[name] = content.encode


def write(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(FILES[name]())
    return path


def encoded(image: Image.Image, form: str, **how) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **how)
    return out.getvalue()


def photo(side: int = 48, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))


# ---- images ---------------------------------------------------------------------------------------------------------

FILES["good.jpg"] = lambda: encoded(photo(), "JPEG")
FILES["empty.jpg"] = bytes
FILES["text.jpg"] = lambda: b"this is no picture, whatever its name says" * 20
FILES["cut.jpg"] = lambda: encoded(photo(), "JPEG")[:900]
FILES["cut.png"] = lambda: encoded(photo(), "PNG")[:900]
FILES["cut.webp"] = lambda: encoded(photo(), "WEBP")[:500]
FILES["head.jpg"] = lambda: encoded(photo(), "JPEG")[:12]
FILES["tiny.png"] = lambda: encoded(photo(4), "PNG")
FILES["float.tif"] = lambda: encoded(Image.new("F", (32, 32)), "TIFF")
FILES["whole.tif"] = lambda: encoded(Image.fromarray(np.full((32, 32), 1 << 20, np.int32)), "TIFF")
FILES["svg.png"] = lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>'
FILES["postscript.jpg"] = lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(hello) show\n"


def scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is there again and again."""
    data = encoded(photo(), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + b"\xff\xd9"


FILES["scans.jpg"] = lambda: scans(120)


def png(width: int, height: int, kind: int = 2, rows: bytes = b"") -> bytes:
    """A PNG by hand, whose rows may be fewer than it claims."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


FILES["bomb.png"] = lambda: png(20_000, 20_000)
FILES["wide.png"] = lambda: png(40_000, 20)
FILES["rgba.png"] = lambda: png(12_000, 12_000, 6)


@file("broken.zip")
def _() -> bytes:
    return b"PK\x03\x04" + bytes(100)


@file("bomb.zip")
def _() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("real/a.png", encoded(photo(), "PNG"))
        archive.writestr("fake/b.png", bytes(1000))
    data = out.getvalue()  # the directory's size of the second member is made a terabyte's
    at = data.rfind(b"PK\x01\x02")
    return data[: at + 24] + struct.pack("<I", 0xF0000000) + data[at + 28 :]


for _ending in ("txt", "json", "jsonl"):  # half a sign of UTF-16: found by fuzzing
    FILES[f"half.{_ending}"] = lambda: b"\xff\xfea"


@file("nameless.zip")
def _() -> bytes:
    """One member, whose name is empty in the directory: found by fuzzing."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("x", encoded(photo(), "PNG"))
    data = out.getvalue()
    at = data.rfind(b"PK\x01\x02")
    entry = data[at : at + 28] + bytes(2) + data[at + 30 : at + 46]
    end = data.rfind(b"PK\x05\x06")
    tail = data[end : end + 12] + struct.pack("<I", len(entry)) + data[end + 16 :]
    return data[:at] + entry + tail


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


DEEP = "[" * 100_000 + "]" * 100_000

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


# ---- generators -----------------------------------------------------------------------------------------------------


def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(GeneratorConfig(8, z_dim=8, w_dim=8, mapping_layers=2, channel_base=64, channel_max=8)).eval()


def generator_file(config: str | None = None, state: Callable[[dict], object] = lambda s: None, **changes) -> bytes:
    G = generator()
    tensors = {name: t.detach().clone().contiguous() for name, t in G.state_dict().items()}
    state(tensors)
    text = json.dumps(G.cfg.to_dict() | changes) if config is None else config
    return safetensors.torch.save(
        tensors, {"format": "stylegan2-ada-generator", "version": "1", "config": text, "meta": "{}"}
    )


def broken_weight(tensors: dict) -> None:
    tensors["synthesis.const"][0] = float("nan")


FILES["g.safetensors"] = generator_file
FILES["g-z.safetensors"] = lambda: generator_file(z_dim=30_000)
FILES["g-layers.safetensors"] = lambda: generator_file(mapping_layers=10**7)
FILES["g-side.safetensors"] = lambda: generator_file(resolution=1 << 20)
FILES["g-width.safetensors"] = lambda: generator_file(channel_base=1 << 24, channel_max=1 << 16)
FILES["g-word.safetensors"] = lambda: generator_file(w_dim="wide")
FILES["g-true.safetensors"] = lambda: generator_file(z_dim=True)
FILES["g-clamp.safetensors"] = lambda: generator_file(conv_clamp=[1])
FILES["g-deep.safetensors"] = lambda: generator_file(DEEP)
FILES["g-digits.safetensors"] = lambda: generator_file('{"resolution": ' + "9" * 3000 + "}")
FILES["g-list.safetensors"] = lambda: generator_file("[]")
FILES["g-nan.safetensors"] = lambda: generator_file(state=broken_weight)
FILES["g-lacks.safetensors"] = lambda: generator_file(state=lambda s: s.pop("mapping.w_avg"))
FILES["g-more.safetensors"] = lambda: generator_file(state=lambda s: s.update(x=torch.zeros(1)))
FILES["g-cut.safetensors"] = lambda: generator_file()[:2000]
FILES["page.pkl"] = lambda: b"<!DOCTYPE html><html>moved</html>"
FILES["pointer.pkl"] = lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
FILES["text.pkl"] = lambda: b"hello"


# ---- pickles and torch files ----------------------------------------------------------------------------------------

PROTO = b"\x80\x04"


def name(module: str, word: str) -> bytes:
    return b"c" + f"{module}\n{word}\n".encode()


def word(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def nested(depth: int) -> bytes:
    """((((…),),),)"""
    return b")" + b"\x85" * depth


def shared(levels: int) -> bytes:
    """Tuples of two same tuples of two same tuples …, the last of them in memo `levels`; all stay on the stack."""
    out = b")\x94"
    for i in range(levels):
        out += b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86\x94"
    return out


def module_of(children: bytes) -> bytes:
    """What stands for a recorded module; children: the opcodes of its dict of modules."""
    state = b"}(" + word("_modules") + children + b"u"
    meta = b"}(" + word("type") + word("class") + word("class_name") + word("Generator") + word("state") + state + b"u"
    return name("torch_utils.persistence", "_reconstruct_persistent_obj") + meta + b"\x85R"


def walk(levels: int, width: int) -> bytes:
    """Modules of `width` same modules of `width` same modules …, the last in memo `levels`; all stay on the stack."""
    out = module_of(b"}") + b"\x94"
    for i in range(levels):
        inner = b"}(" + b"".join(word(f"m{k}") + b"h" + bytes([i]) for k in range(width)) + b"u"
        out += module_of(inner) + b"\x94"
    return out


def colliding(count: int) -> bytes:
    """A dict whose keys are multiples of 2^61 - 1, all of which have the same hash."""
    keys = b"".join(
        b"\x8a\x0b" + (i * ((1 << 61) - 1)).to_bytes(11, "little", signed=True) + b"N" for i in range(count)
    )
    return PROTO + b"}(" + keys + b"u."


DTYPE = name("numpy", "dtype")
FILES["deepkey.pkl"] = lambda: PROTO + b"}" + nested(200_000) + b"Ns."
FILES["deepdtype.pkl"] = lambda: PROTO + DTYPE + nested(200_000) + b"\x85R."
FILES["shareddtype.pkl"] = lambda: PROTO + shared(60) + DTYPE + b"h\x3c\x85R."
FILES["sharedargs.pkl"] = lambda: PROTO + shared(60) + b"}" + word("G_ema") + b"h\x3cs."
FILES["colliding.pkl"] = lambda: colliding(20_000)
FILES["walk.pkl"] = lambda: PROTO + walk(15, 8) + b"}" + word("G_ema") + b"h\x0fs."
FILES["objects.pkl"] = lambda: PROTO + b"N" * 1_000_001 + b"."
FILES["system.pkl"] = lambda: PROTO + name("os", "system") + word("touch sentinel") + b"\x85R."
FILES["persistent.pkl"] = lambda: PROTO + b"NQ."
FILES["stop.pkl"] = lambda: PROTO + b"."
FILES["claims.pkl"] = lambda: PROTO + b"\x8d" + struct.pack("<Q", 1 << 40) + b"a."


def torch_file(content: object) -> bytes:
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def packed(data: bytes) -> bytes:
    """A torch file whose members are deflated, as torch never does."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    return out.getvalue()


def without_numbers(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            if "/data/" not in info.filename:
                new.writestr(info.filename, old.read(info))
    return out.getvalue()


class Runs:
    def __reduce__(self):
        return os.system, ("touch sentinel",)


def wide_state() -> dict:
    return {"synthesis.b4.const": torch.zeros(1).expand(1 << 20, 1 << 10, 4), "mapping.w_avg": torch.zeros(8)}


FILES["stride.pt"] = lambda: torch_file(wide_state())
FILES["runs.pt"] = lambda: torch_file({"a": Runs()})
FILES["packed.pt"] = lambda: packed(torch_file({"a": torch.zeros(9)}))
FILES["numbers.pt"] = lambda: without_numbers(torch_file({"a": torch.zeros(9)}))
FILES["cut.pt"] = lambda: torch_file({"a": torch.zeros(99)})[:600]
FILES["other.pt"] = lambda: torch_file({"a": torch.zeros(9)})
FILES["list.pt"] = lambda: torch_file([1, 2])
FILES["zip.pt"] = lambda: FILES["bomb.zip"]()


# ---- .npz -----------------------------------------------------------------------------------------------------------


def npz(**arrays) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def lying_npz(header: bytes, behind: bytes = b"") -> bytes:
    """An .npz whose array `mu` and `w` have this header."""
    head = header.ljust(117) + b"\n"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + behind
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in ("mu.npy", "sigma.npy", "w.npy"):
            archive.writestr(member, data)
    return out.getvalue()


EYE = np.eye(8)
FILES["good.npz"] = lambda: npz(mu=np.zeros(8), sigma=EYE)
FILES["cut.npz"] = lambda: npz(mu=np.zeros(8), sigma=EYE)[:300]
FILES["text.npz"] = lambda: b"nothing of numpy" * 5
FILES["bomb.npz"] = lambda: lying_npz(
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (70000000,), }", bytes(70_000_000)
)
FILES["claims.npz"] = lambda: lying_npz(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }")
FILES["python.npz"] = lambda: npz(mu=np.array([{}], dtype=object), sigma=EYE)
FILES["deephead.npz"] = lambda: lying_npz(b"(" * 90 + b")" * 20)
FILES["deepmeta.npz"] = lambda: npz(mu=np.zeros(8), sigma=EYE, meta=DEEP)
FILES["nan.npz"] = lambda: npz(mu=np.full(8, np.nan), sigma=EYE)
FILES["skew.npz"] = lambda: npz(mu=np.zeros(8), sigma=np.arange(64.0).reshape(8, 8))
FILES["badsum.npz"] = lambda: npz(mu=np.zeros(8), sigma=EYE).replace(b"mu.npy", b"mu.npy", 1)[:-4] + b"\xff\xff\xff\xff"
FILES["words.npz"] = lambda: npz(mu=np.array(["a"] * 8), sigma=EYE)


# ---- tables and lists -----------------------------------------------------------------------------------------------

text("inf.csv", "path,label,width\na.png,0,inf\nb.png,1,9\n")
text("huge.csv", "path,label,size\na.png,0,1e400\n")
text("digits.csv", "path,label,width\na.png,0," + "9" * 6000 + "\n")
text("nopath.csv", "picture of whom,label\na.png,0\n")
text("twice.csv", "path,label,note,note\na.png,0,x,y\n")
text("cells.csv", "path,label\na.png,0,more\n")
text("quote.csv", 'path,label\n"a.png,0\n')
text("label.csv", "path,label\na.png,perhaps\nb.png,never\n")
text("nul.csv", "path,label\na\0.png,0\n")
text("columns.csv", "path," + ",".join(f"c{i}" for i in range(60_000)) + "\na.png" + ",1" * 60_000 + "\n")
text("empty.csv", "")
text("list.txt", "a.png real\nb.png certainly\n")
text("deep.json", DEEP)
text("objects.json", '{"a":' * 50_000 + "1" + "}" * 50_000)
text("words.json", '{"what": {"is": "this"}}')
text("notjson.json", "{'a': 1}")
text("digits.json", '[{"path": "a.png", "label": ' + "1" * 5000 + "}]")
text("deep.jsonl", '{"path": "a.png", "label": 0}\n' + DEEP + "\n")
text("cut.jsonl", '{"path": "a.png", "label": 0}\n{"path": "b.p')
text("list.jsonl", "[1, 2]\n")
FILES["latin.json"] = lambda: '{"père": 1}'.encode("latin-1")


def classes(labels: object) -> Callable[[], bytes]:
    return lambda: json.dumps({"labels": labels}).encode()


FILES["huge/dataset.json"] = classes([["a.png", 10**10], ["b.png", 1]])
FILES["minus/dataset.json"] = classes([["a.png", -1], ["b.png", 1]])
FILES["hot/dataset.json"] = classes([["a.png", [0, 1, 1]], ["b.png", 1]])
FILES["deep/dataset.json"] = lambda: b'{"labels": ' + DEEP.encode() + b"}"
FILES["pairs/dataset.json"] = classes(["a.png", "b.png"])
FILES["words/dataset.json"] = classes([["a.png", {"a": 1}], ["b.png", 1]])

# ---- TOML -----------------------------------------------------------------------------------------------------------

text("dots.toml", "[options]\n" + "a." * 100_000 + "a = 1\n")
text("lists.toml", "[options]\nepochs = " + "[" * 10_000 + "]" * 10_000 + "\n")
text("outdir.toml", "[options]\noutdir = '/tmp/elsewhere'\n")
text("unknown.toml", "[options]\nepoch = 3\n")
text("half.toml", "[options\n")
text("digits.toml", "[options]\nepochs = " + "9" * 9000 + "\n")
FILES["latin.toml"] = lambda: "[options]\nabout = 'père'\n".encode("latin-1")
text("large.toml", "[options]\n" + "# nothing\n" * 120_000)


# ---- degradations ---------------------------------------------------------------------------------------------------


def steps(*items: object, **more: object) -> Callable[[], bytes]:
    return lambda: json.dumps({"steps": list(items), **more}).encode()


FILES["factor.json"] = steps({"name": "resize", "ranges": {"factor": [1e9, 1e9]}})
FILES["zoom.json"] = steps({"name": "screenshot", "ranges": {"zoom": [1, 1e6]}})
FILES["sigma.json"] = steps({"name": "blur", "ranges": {"sigma": [1, 1e12]}})
FILES["nan.json"] = lambda: b'{"steps": [{"name": "blur", "ranges": {"sigma": [NaN, NaN]}}]}'
FILES["many.json"] = steps(*[{"name": "hflip"}] * 1000)
FILES["named.json"] = steps({"name": ["hflip"]})
FILES["ranges.json"] = steps({"name": "jpeg", "ranges": [1, 2]})
FILES["chance.json"] = steps({"name": "jpeg", "probability": "often"})
FILES["group.json"] = steps({"name": "jpeg", "group": []})
FILES["kernel.json"] = steps({"name": "resize", "ranges": {"kernel": [["box"]]}})
