#!/usr/bin/env python3
"""How fast `detect.py` is as a program: start to verdict, images a second in a folder of JPEGs, the face step, memory.

Untrained hybrid detectors are made and exported (speed does not depend on what the weights have learned), and detect.py
is started as a user starts it; of --repeat runs the best counts.

    python benchmarks/detecting.py                                        # drawn faces, 256x256; a minute or two
    python benchmarks/detecting.py --source my_faces/ --face-model face_detection_yunet_2023mar.onnx
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.cli import run  # noqa: E402
from common.parallel import cores  # noqa: E402
from discriminator.calibration import calibrate  # noqa: E402
from discriminator.detector import Detector  # noqa: E402
from discriminator.export_onnx import export_detector  # noqa: E402
from discriminator.models import HYBRID_SIZES, NetworkOptions, new_network  # noqa: E402
from faces.preprocess import Preprocess  # noqa: E402
from faces.procedural.portrait import render_face  # noqa: E402
from faces.source import open_source  # noqa: E402

SIDE = 256


# A small process between: a child's peak begins with that of the process it was forked from, and this one is large.
BETWEEN = """
import subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE)
seconds = time.perf_counter() - start
try:
    import resource
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
except ImportError:
    peak = float("nan")
sys.stdout.buffer.write(f"{seconds} {peak}\\n".encode() + done.stdout)
"""


def detect(*args: str) -> tuple[dict, float, float]:
    """(the JSON document, seconds of the whole program, peak memory in MB; NaN where the system doesn't tell)."""
    command = [sys.executable, str(ROOT / "detect.py"), *args, "--json"]
    out = subprocess.run([sys.executable, "-c", BETWEEN, *command], stdout=subprocess.PIPE, check=True).stdout
    head, document = out.split(b"\n", 1)
    seconds, peak = map(float, head.split())
    return json.loads(document), seconds, peak


def photos(folder: Path, source: str | None, count: int) -> None:
    """`count` JPEGs of SIDE pixels: the source's as they are, or drawn faces."""
    if source is not None:
        given = open_source(source, max_items=count)
        for i in range(len(given)):
            shutil.copy(given.locate(i), folder / f"{i:05d}{Path(given.items[i].path).suffix}")
        return
    for i in range(count):
        Image.fromarray(render_face(i % 16, SIDE)).save(folder / f"{i:05d}.jpg", quality=75)


@click.command()
@click.option("--source", help="Folder of photos to judge.  [default: drawn faces]")
@click.option("--n", "count", default=300, show_default=True, type=click.IntRange(2), help="Photos in the folder.")
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1))
@click.option("--face-model", help="YuNet's file.  [default: the cache's, or the Haar cascade]")
def main(source: str | None, count: int, repeat: int, face_model: str | None) -> None:
    """Measure and print a table."""
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(-1, 1, 400), rng.normal(1, 1, 400)])
    calibration = calibrate(scores, np.repeat([0, 1], 400))
    finder = ["--offline", *(["--face-model", face_model] if face_model else [])]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "photos"
        folder.mkdir()
        photos(folder, source, count)
        one = str(sorted(folder.iterdir())[0])
        click.echo(f"{cores()} cores, {count} photos; ms an image are of one thread")
        click.echo(f"{'':26}{'start to verdict':>17}{'images/s':>10}{'face ms':>9}{'network ms':>12}{'peak MB':>9}")
        for size in HYBRID_SIZES:
            net = new_network("hybrid", SIDE, options=NetworkOptions(size=size))
            detector = Detector(net, Preprocess(SIDE), calibration, {"face": "ffhq"})
            detector.save(Path(scratch) / f"{size}.safetensors")
            export_detector(Path(scratch) / f"{size}.onnx", detector)
            for runtime in ("onnx", "torch"):
                for face in ("whole", "auto"):
                    args = ["--model", str(Path(scratch) / f"{size}.safetensors"), "--runtime", runtime]
                    args += ["--face", face, *finder]
                    cold = min(detect(one, *args)[1] for _ in range(repeat))
                    runs = [detect(str(folder), *args) for _ in range(repeat)]
                    summary = min((document["summary"] for document, _, _ in runs), key=lambda s: s["seconds"])
                    stages = {name: 1000 * s / count for name, s in summary["stage_seconds"].items()}
                    click.echo(
                        f"{size:6}{runtime:6}{'face step' if face == 'auto' else 'whole':14}{cold:15.2f} s"
                        f"{count / summary['seconds']:10.1f}{stages['face']:9.1f}{stages['network']:12.1f}"
                        f"{max(peak for _, _, peak in runs):9.0f}"
                    )


if __name__ == "__main__":
    run(main)
