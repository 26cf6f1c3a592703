#!/usr/bin/env python3
"""How fast `detect.py` is as a program: start to verdict, images a second, video frames a second, memory, stages.

The shipped detector (or --model) is started as a user starts it, with the face step; of --repeat runs the best counts
for seconds, the largest for memory. The stages of a photo are measured in this process on one thread, in processor
time, which other work on the machine hardly changes.

    python benchmarks/detecting.py                                    # drawn faces of 256 and 1024 px; a few minutes
    python benchmarks/detecting.py --source my_faces/ --large my_photos/ --video clip.mp4 --json figures.json
    python benchmarks/detecting.py --untrained base                   # a hybrid detector with weights that know nothing
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.cli import run  # noqa: E402
from common.files import write_json  # noqa: E402
from common.outputs import plain  # noqa: E402
from common.parallel import cores  # noqa: E402
from discriminator.detector_base import Raw  # noqa: E402
from discriminator.engine import open_engine, open_judge  # noqa: E402
from discriminator.judge import Judge, doubt_on, note_on  # noqa: E402
from discriminator.locate import find_detector  # noqa: E402
from discriminator.options import SHIPPED, JudgeOptions  # noqa: E402
from faces.decode import decode_image  # noqa: E402
from faces.finding.face_step import View  # noqa: E402
from faces.procedural.portrait import render_face  # noqa: E402
from faces.source import open_source  # noqa: E402

T = TypeVar("T")
SIDE, LARGE = 256, 1024
FRAMES = 60
STAGED = 40  # photos whose stages are measured
# A photo's stages. rest: its doubts and notes, and what becomes of a logit.
STAGES = ("decode", "find", "cut", "prepare", "network", "rest")

# A small process between: a child's peak begins with that of the process it was forked from, and this one is large.
BETWEEN = """
import subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE)
seconds = time.perf_counter() - start
try:
    import resource
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    cpu = used.ru_utime + used.ru_stime
except ImportError:
    peak = cpu = float("nan")
sys.stdout.buffer.write(f"{seconds} {cpu} {peak}\\n".encode() + done.stdout)
"""


class Ran(NamedTuple):
    """One start of the program: its JSON document, seconds, processor seconds, peak memory in MB; NaN where the system
    doesn't tell."""

    document: dict
    seconds: float
    cpu: float
    peak: float


def detect(*args: str) -> Ran:
    """`detect.py args --json`."""
    command = [sys.executable, str(ROOT / "detect.py"), *args, "--json"]
    out = subprocess.run([sys.executable, "-c", BETWEEN, *command], stdout=subprocess.PIPE, check=True).stdout
    head, document = out.split(b"\n", 1)
    return Ran(json.loads(document), *map(float, head.split()))


def photos(folder: Path, source: str | None, count: int, side: int) -> Path:
    """The folder, with `count` photos: the source's as they are, or drawn faces of `side` pixels as JPEG."""
    folder.mkdir()
    if source is not None:
        given = open_source(source, max_items=count)
        for i in range(len(given)):
            shutil.copy(given.locate(i), folder / f"{i:05d}{Path(given.items[i].path).suffix}")
        return folder
    for i in range(min(count, 16)):
        Image.fromarray(render_face(i, side)).save(folder / f"{i:05d}.jpg", quality=85)
    for i in range(16, count):
        shutil.copy(folder / f"{i % 16:05d}.jpg", folder / f"{i:05d}.jpg")
    return folder


def clip(path: Path) -> Path | None:
    """A video of FRAMES drawn faces before a grey wall, 640 x 480; None without PyAV, which writes it."""
    if importlib.util.find_spec("av") is None:
        return None
    av: Any = importlib.import_module("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for i in range(FRAMES):
            frame = np.full((480, 640, 3), 120, np.uint8)
            frame[100:356, 100 + i : 356 + i] = render_face(i % 4, SIDE)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def untrained(folder: Path, size: str) -> Path:
    """A hybrid detector that has learnt nothing, and its exported form: speed does not depend on what weights know."""
    from discriminator.calibration import calibrate
    from discriminator.detector import Detector
    from discriminator.export_onnx import export_detector
    from discriminator.models import NetworkOptions, new_network
    from faces.preprocess import Preprocess

    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(-1, 1, 400), rng.normal(1, 1, 400)])
    calibration = calibrate(scores, np.repeat([0, 1], 400))
    net = new_network("hybrid", SIDE, options=NetworkOptions(size=size))
    detector = Detector(net, Preprocess(SIDE), calibration, {"face": "ffhq"})
    path = folder / f"{size}.safetensors"
    detector.save(path)
    export_detector(path.with_suffix(".onnx"), detector)
    return path


def stages(judge: Judge, folder: Path) -> dict[str, float]:
    """Milliseconds of processor time that a photo of the folder takes in each stage: the mean without the slowest and
    the quickest tenth."""
    spent: dict[str, list[float]] = {name: [] for name in STAGES}
    detector, finder = judge.detector, judge.faces.finder
    assert finder is not None
    files = sorted(folder.iterdir())[:STAGED]

    def timed(name: str, work: Callable[..., T], *given: Any) -> T:
        begin = time.thread_time()
        made = work(*given)
        spent[name].append(1000 * (time.thread_time() - begin))
        return made

    def prepared(photo: np.ndarray, views: list[View]) -> list[np.ndarray]:
        rows = [detector.prepared(view.pixels, *view.upright(photo)) for view in views]
        return [detector.preprocess.normalise(row[None]) for row in rows]

    def rest(views: list[View], told: list[Raw]) -> None:
        for view, raw in zip(views, told, strict=True):
            doubt_on(view, detector), note_on(view, detector)
            detector.verdict(float(raw.logits[0]), judge.threshold)

    for path in [*files[:2], *files]:  # the first two warm up
        photo = timed("decode", decode_image, path.read_bytes(), "photo")
        views = timed("cut", judge.faces.views, photo, timed("find", finder.find, photo))
        rows = timed("prepare", prepared, photo, views)
        told = timed("network", lambda rows: [detector.raw(row) for row in rows], rows)
        timed("rest", rest, views, told)
    cut = max(1, len(files) // 10)
    return {name: float(np.mean(sorted(times[2:])[cut:-cut])) for name, times in spent.items()}


def folder_row(folder: Path, args: list[str], repeat: int, first: Ran) -> dict:
    """Of a folder: photos and images a second, processor ms for each photo beside the start's, peak memory."""
    runs = [detect(str(folder), *args) for _ in range(repeat)]
    count = len(list(folder.iterdir()))
    return {
        "photos": count,
        "images_per_second": count / min(ran.document["summary"]["seconds"] for ran in runs),
        "cpu_ms": 1000 * (min(ran.cpu for ran in runs) - first.cpu) / (count - 1),
        "peak_mb": max(ran.peak for ran in runs),
    }


def video_row(path: Path, args: list[str], repeat: int) -> dict:
    """Of a video, every frame judged: frames a second, peak memory."""
    runs = [detect(str(path), *args, "--every", "0") for _ in range(repeat)]
    frames = runs[0].document["results"][0]["video"]["frames"]
    seconds = min(ran.document["summary"]["seconds"] for ran in runs)
    return {"frames": frames, "frames_per_second": frames / seconds, "peak_mb": max(ran.peak for ran in runs)}


def printed(figures: dict) -> None:
    """The figures as tables."""
    first = figures["first"]
    click.echo(f"{figures['cores']} cores, {figures['detector']}")
    click.echo(f"first verdict {first['seconds']:.2f} s (processor {first['cpu']:.2f} s), {first['peak_mb']:.0f} MB")
    for side, row in figures["folders"].items():
        click.echo(
            f"{side:>5} px: {row['photos']} photos, {row['images_per_second']:.1f} images/s,"
            f" {row['cpu_ms']:.1f} ms of a processor each, {row['peak_mb']:.0f} MB"
        )
    if video := figures.get("video"):
        rate, peak = video["frames_per_second"], video["peak_mb"]
        click.echo(f"video: {video['frames']} frames, {rate:.1f} frames/s, {peak:.0f} MB")
    click.echo(f"{'ms a photo, one thread':24}" + "".join(f"{name:>9}" for name in STAGES) + f"{'all':>9}")
    for side, row in figures["stages"].items():
        cells = [*(row[name] for name in STAGES), sum(row.values())]
        click.echo(f"{side + ' px':>24}" + "".join(f"{ms:9.2f}" for ms in cells))


@click.command()
@click.option("--model", help="Detector to measure.  [default: the one that ships]")
@click.option("--untrained", "size", help="A hybrid detector of this size with random weights instead.")
@click.option("--source", help="Folder of photos of about 256 px.  [default: drawn faces]")
@click.option("--large", help="Folder of photos of about 1024 px.  [default: drawn faces]")
@click.option("--video", "film", help="Video of which every frame is judged.  [default: drawn faces, where PyAV is]")
@click.option("--n", "count", default=300, show_default=True, type=click.IntRange(12), help="Photos; large ones: half.")
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1))
@click.option("--runtime", default="onnx", show_default=True, type=click.Choice(["onnx", "torch"]))
@click.option("--face-model", help="YuNet's file.  [default: as detect.py finds it]")
@click.option("--json", "out", help="File for the figures.")
def main(
    model: str | None,
    size: str | None,
    film: str | None,
    runtime: str,
    face_model: str | None,
    out: str | None,
    **asked: Any,
) -> None:
    """Measure and print tables."""
    with tempfile.TemporaryDirectory() as scratch:
        file = untrained(Path(scratch), size) if size else find_detector(model, shipped=SHIPPED)
        args = ["--model", str(file), "--runtime", runtime, "--offline"]
        args += ["--face", "auto", *(["--face-model", face_model] if face_model else [])]
        figures = measured(Path(scratch), args, film, **asked)
        judge = open_judge(
            open_engine(file, runtime=runtime), JudgeOptions(model=str(file), face_model=face_model, offline=True)
        )
        figures |= {
            "detector": f"{size or file.name}, {runtime}, faces by {judge.faces.name}",
            "stages": {side: stages(judge, Path(scratch) / side) for side in figures["folders"]},
        }
    printed(figures)
    if out is not None:
        write_json(Path(out), plain(figures))


def measured(scratch: Path, args: list[str], film: str | None, *, count: int, repeat: int, **sources: Any) -> dict:
    """What whole runs of the program take. sources: `source` and `large`, folders or None."""
    folders = {
        str(SIDE): photos(scratch / str(SIDE), sources["source"], count, SIDE),
        str(LARGE): photos(scratch / str(LARGE), sources["large"], count // 2, LARGE),
    }
    one = str(sorted(folders[str(SIDE)].iterdir())[0])
    first = min((detect(one, *args) for _ in range(repeat)), key=lambda ran: ran.seconds)
    video = Path(film) if film else clip(scratch / "clip.mp4")
    return {
        "cores": cores(),
        "first": {"seconds": first.seconds, "cpu": first.cpu, "peak_mb": first.peak},
        "folders": {side: folder_row(folder, args, repeat, first) for side, folder in folders.items()},
        "video": None if video is None else video_row(video, args, repeat),
    }


if __name__ == "__main__":
    run(main)
