"""Fuzzing of everything that reads files of strangers: `make fuzz MINUTES=5`, or python -m tests.fuzz --minutes 5.

Each target takes bytes and may raise nothing but what a person is told in a line; anything else, more than SECONDS of
computing or GIGABYTE of memory is a finding, whose input is kept in fuzz/. With the package atheris inputs follow the
coverage of the Python code, and what reached something new is kept in fuzz/corpus/, so the next run goes on from there;
without it small files and those of `tests.bad_files` are changed at random. --coverage tells what the corpus reaches.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
FOUND = ROOT / "fuzz"
SECONDS = 10.0
GIGABYTE = 10**9
LONGEST = 200_000  # bytes of an input
WORDS = (
    b"\xff\xda \xff\xd9 \xff\xc2 PK\x01\x02 PK\x03\x04 IHDR IDAT \x80\x04 \x85R. \x94 \x93 cos\nsystem\n"
    b' { [ ]] }} "a": inf nan NaN 1e999 -1 ,, ;; \n [[ a.b.c = 99999999999999999999 \xff\xff\xff\xff'
    b" \x7f\xff\xff\xff \x00\x00\x00\x00 shape fortran_order '<f8'"
).split(b" ")
MODULES = (
    "common.reading faces.decode faces.field_lists faces.sidecars faces.stores faces.moving.animation metrics.stats"
    " stylegan2_ada.interop discriminator.detector discriminator.onnx_detector discriminator.training.data"
    " discriminator.training.recipe_file"
)


def _image(data: bytes, folder: Path) -> None:
    from faces.decode import decode_image

    decode_image(data, "x", max_pixels=4_000_000)


def _video(data: bytes, folder: Path) -> None:
    from faces.moving.animation import Animation
    from faces.moving.frame import Limits

    list(zip(Animation(data, "x", Limits(pixels=1_000_000, seconds=2.0)).frames(0), range(20), strict=False))


def _networks(data: bytes, folder: Path) -> None:
    from stylegan2_ada.interop import read_networks

    read_networks(_kept(data, folder / "x.pkl"))


def _torch(data: bytes, folder: Path) -> None:
    from stylegan2_ada.torch_files import read_torch

    read_torch(_kept(data, folder / "x.pt"))


def _detector(data: bytes, folder: Path) -> None:
    from discriminator.detector import Detector

    Detector.load(_kept(data, folder / "x.safetensors"))


def _onnx(data: bytes, folder: Path) -> None:
    from discriminator.onnx_detector import OnnxDetector

    OnnxDetector.load(_kept(data, folder / "x.onnx"))


def _zip(data: bytes, folder: Path) -> None:
    from faces.stores import ZipStore, list_zip

    store = ZipStore(str(_kept(data, folder / "x.zip")))
    try:
        for entry in list_zip(store)[0][:5]:
            store.read(entry.path)
    finally:
        store.close()


def _table(ending: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        from faces.field_lists import read_list

        read_list(_kept(data, folder / f"x{ending}"))

    return read


def _classes(data: bytes, folder: Path) -> None:
    from faces.sidecars import _labels

    _labels(data, "x")


def _recipe(data: bytes, folder: Path) -> None:
    from discriminator.training.recipe_file import load

    load(str(_kept(data, folder / "x.toml")), ("epochs", "batch", "model"))


def _degradation(data: bytes, folder: Path) -> None:
    from discriminator.training.data import load_degradation

    chain, picture = load_degradation(str(_kept(data, folder / "x.json"))), np.zeros((24, 24, 3), np.uint8)
    chain.apply(picture, np.random.default_rng(0))


def _arrays(data: bytes, folder: Path) -> None:
    from metrics.stats import load_stats

    load_stats(_kept(data, folder / "x.npz"))


def _kept(data: bytes, path: Path) -> Path:
    path.write_bytes(data)
    return path


# name: (what reads, how the names of its first inputs end)
TARGETS: dict[str, tuple[Callable[[bytes, Path], None], tuple[str, ...]]] = {
    "image": (_image, (".jpg", ".png", ".webp", ".tif", ".gif")),
    "animation": (_video, (".gif", ".webp")),
    "networks": (_networks, (".pkl", "g.safetensors", "z.safetensors")),
    "torch": (_torch, (".pt",)),
    "detector": (_detector, ("good.safetensors", "deep.safetensors", "list.safetensors")),
    "onnx": (_onnx, (".onnx",)),
    "zip": (_zip, (".zip",)),
    "csv": (_table(".csv"), (".csv",)),
    "json": (_table(".json"), (".json",)),
    "jsonl": (_table(".jsonl"), (".jsonl",)),
    "text": (_table(".txt"), (".txt",)),
    "classes": (_classes, ("dataset.json",)),
    "recipe": (_recipe, (".toml",)),
    "degradation": (_degradation, ("factor.json", "many.json", "kernel.json", "group.json", "chain.json")),
    "npz": (_arrays, (".npz",)),
}


def seeds(endings: tuple[str, ...]) -> list[bytes]:
    """Small files, drawn or written here, to begin with."""
    from PIL import Image

    from tests import bad_files
    from tests.bad_files import encoded, photo

    more = {f"{form}{i}.{form}".lower(): encoded(picture, form)
            for form in ("PNG", "WEBP", "GIF", "TIFF", "JPEG")
            for i, picture in enumerate((photo(9), photo(9).convert("L")))}  # fmt: skip
    frames = [photo(9, i) for i in range(3)]
    more |= {f"moving.{form.lower()}": encoded(frames[0], form, save_all=True, append_images=frames[1:])
             for form in ("GIF", "WEBP")}  # fmt: skip
    more["turned.jpg"] = encoded(photo(20), "JPEG", progressive=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0")
    more["deep.png"] = encoded(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)), "PNG")
    more["good.csv"] = b"path,label,width\na.png,0,9\nb.png,1,\n"
    more["good.json"] = b'[{"path": "a.png", "label": 0}, {"path": "b.png", "label": "fake"}]'
    more["good.jsonl"] = b'{"path": "a.png", "label": 0}\n'
    more["good.toml"] = b"about = 'x'\n[options]\nepochs = 3\n"
    more["chain.json"] = b'{"steps": [{"name": "jpeg", "probability": 0.5, "ranges": {"quality": [50, 60]}}]}'
    files = more | {name: make() for name, make in bad_files.FILES.items() if name != "bomb.npz"}
    return [data for name, data in files.items() if name.endswith(endings) and len(data) <= LONGEST]


def changed(rng: np.random.Generator, corpus: list[bytes]) -> bytes:
    """One of the corpus, changed in a few places: bytes, words, pieces cut out, doubled, or of another."""
    data = bytearray(corpus[rng.integers(len(corpus))])
    for _ in range(int(rng.integers(1, 6))):
        at, kind = int(rng.integers(len(data) + 1)), rng.integers(7)
        length = min(1 << int(rng.integers(12)), len(data) - at)
        if kind == 0 and at < len(data):
            data[at] ^= int(rng.integers(1, 256))
        elif kind == 1:
            data[at : at + length] = b""
        elif kind == 2:
            data[at:at] = data[at : at + length] * int(rng.integers(1, 9))
        elif kind == 3:
            data[at:at] = WORDS[rng.integers(len(WORDS))]
        elif kind == 4:
            word = WORDS[rng.integers(len(WORDS))]
            data[at : at + len(word)] = word
        elif kind == 5:
            other = corpus[rng.integers(len(corpus))]
            start = int(rng.integers(len(other) + 1))
            data[at : at + length] = other[start : start + length]
        else:
            data[at : at + length] = rng.bytes(length)
    return bytes(data[:LONGEST])


def tried(name: str, data: bytes, folder: Path) -> str | None:
    """What is wrong with how the target takes the input, or None."""
    from common.errors import UserError
    from common.memory import at_most
    from common.reading import Unreadable

    began = time.process_time()
    try:
        with at_most(GIGABYTE):
            TARGETS[name][0](data, folder)
    except (UserError, Unreadable) as error:
        if "\n" in str(error):
            return f"a message of several lines: {str(error)[:200]!r}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "".join(traceback.format_exception(error, limit=-6))
    spent = time.process_time() - began
    return f"{spent:.1f} s of computing" if spent > SECONDS else None


def keep(name: str, data: bytes, what: str) -> Path:
    FOUND.mkdir(exist_ok=True)
    path = FOUND / f"{name}-{zlib.crc32(data):08x}"
    path.write_bytes(data)
    print(f"{path}: {what}", file=sys.stderr, flush=True)
    return path


def plain(name: str, seconds: float, seed: int, most: int | None = None) -> tuple[int, int]:
    """(inputs, findings) of a target without atheris. most: inputs, at most."""
    rng, corpus = np.random.default_rng([seed, zlib.crc32(name.encode())]), seeds(TARGETS[name][1])
    inputs = findings = 0
    kinds: set[str] = set()
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end and inputs != most:
            data = corpus[inputs] if inputs < len(corpus) else changed(rng, corpus)
            inputs += 1
            if (what := tried(name, data, Path(folder))) is not None and what[-200:] not in kinds:
                kinds.add(what[-200:])
                findings += 1
                keep(name, data, what)
    return inputs, findings


def corpus_of(name: str) -> Path:
    """The folder of a target's inputs that reached something new, the first ones among them."""
    folder = FOUND / "corpus" / name
    folder.mkdir(parents=True, exist_ok=True)
    for data in seeds(TARGETS[name][1]):
        path = folder / f"seed-{zlib.crc32(data):08x}"
        if not path.exists():
            path.write_bytes(data)
    return folder


def guided(name: str, seconds: float, seed: int) -> None:
    """A target by atheris, which ends the process itself: with a code other than 0 for a finding."""
    atheris = importlib.import_module("atheris")  # by name: an extra that only those need who fuzz

    with atheris.instrument_imports(include=["common", "faces", "stylegan2_ada", "discriminator", "metrics"]):
        for module in MODULES.split():
            importlib.import_module(module)
    folder, inner = corpus_of(name), Path(tempfile.mkdtemp())
    escaped = ["".join(f"\\x{byte:02x}" for byte in word) for word in WORDS]
    words = _kept("".join(f'"{word}"\n' for word in escaped).encode(), inner / "words")

    def one(data: bytes) -> None:
        if (what := tried(name, data, inner)) is not None:
            keep(name, data, what)
            raise AssertionError(what)

    options = [f"-max_total_time={max(1, int(seconds))}", f"-max_len={LONGEST}", "-timeout=60", "-rss_limit_mb=4096"]
    options += [f"-seed={seed + 1}", f"-artifact_prefix={FOUND}{os.sep}{name}-", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, f"-dict={words}", str(folder)], one)
    atheris.Fuzz()


def by_atheris(name: str, seconds: float, seed: int) -> int:
    """A target in a process of its own; 1 for a finding. What it did is a line on stdout and one in fuzz/log.csv."""
    words = [sys.executable, "-m", "tests.fuzz", "--inside", "--target", name, "--minutes", str(seconds / 60)]
    began, spent = time.monotonic(), _children_seconds()
    done = subprocess.run([*words, "--seed", str(seed)], cwd=ROOT, capture_output=True, text=True, errors="replace")
    inputs, branches = (
        int((re.findall(form, done.stderr) or ["0"])[-1]) for form in (r"executed_units: (\d+)", r" cov: (\d+)")
    )
    took, spent = time.monotonic() - began, _children_seconds() - spent
    print(
        f"{name:12s} {inputs} inputs in {took:.0f} s ({spent:.0f} s of computing), {branches} branches reached,"
        f" exit {done.returncode}",
        flush=True,
    )
    with open(FOUND / "log.csv", "a") as log:
        log.write(f"{name},{took:.0f},{spent:.0f},{inputs},{branches},{done.returncode}\n")
    if done.returncode:
        print("\n".join(done.stderr.splitlines()[-30:]), flush=True)
    return int(done.returncode != 0)


def _children_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def reached(name: str) -> tuple[int, int, int]:
    """(files, lines reached, lines) of the functions of this project that the target enters with its corpus."""
    entered: dict = {}

    def trace(frame, event, _):
        code = frame.f_code
        if not code.co_filename.startswith(f"{ROOT}{os.sep}") or "tests" in Path(code.co_filename).parts:
            return None
        lines = entered.setdefault(code, set())

        def local(frame, event, _):
            if event == "line":
                lines.add(frame.f_lineno)
            return local

        return local

    files = sorted(corpus_of(name).iterdir())
    with tempfile.TemporaryDirectory() as folder:
        tried(name, files[0].read_bytes(), Path(folder))  # what is imported late is no function of the reader
        sys.settrace(trace)
        for file in files:
            tried(name, file.read_bytes(), Path(folder))
        sys.settrace(None)
    lines = {code: {line for *_, line in code.co_lines() if line} - {code.co_firstlineno} for code in entered}
    return len(files), sum(len(entered[code] & lines[code]) for code in entered), sum(map(len, lines.values()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="of all targets together  [5]")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="only this one (several times)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--coverage", action="store_true", help="no fuzzing: the lines that the inputs kept reach")
    parser.add_argument("--plain", action="store_true", help="without atheris, though it is installed")
    parser.add_argument("--most", type=int, metavar="N", help="inputs of each target, with --plain")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    names = asked.target or list(TARGETS)
    seconds = 60 * asked.minutes / len(names)
    if asked.coverage:
        for name in names:
            files, hit, lines = reached(name)
            print(f"{name:12s} {files} inputs reach {hit} of {lines} lines of the functions entered", flush=True)
        return 0
    with_atheris = not asked.plain and importlib.util.find_spec("atheris") is not None
    if asked.inside:
        guided(names[0], seconds, asked.seed)
    print("inputs by atheris" if with_atheris else "inputs changed at random (atheris is not installed)", flush=True)
    bad = 0
    for name in names:
        if with_atheris:
            bad += by_atheris(name, seconds, asked.seed)
        else:
            inputs, findings = plain(name, seconds, asked.seed, asked.most)
            print(f"{name:12s} {inputs} inputs, {findings} findings", flush=True)
            bad += findings
    print(f"findings: {bad}" + (f", kept in {FOUND}" if bad else ""))
    return 1 if bad else 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
