"""Arrays, tables and lists, TOML, degradations."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable

import numpy as np

from tests.bad_files.files import DEEP, FILES, text

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
