"""Generators, pickles and torch files."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable

import safetensors.torch
import torch

from stylegan2_ada.config import GeneratorConfig
from stylegan2_ada.generator import Generator
from tests.bad_files.files import DEEP, FILES

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
