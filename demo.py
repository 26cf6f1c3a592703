#!/usr/bin/env python3
"""The whole loop in a few minutes: train a small GAN and its detector, sample it, judge new images, report.

Faces are rendered by the project itself, so nothing is downloaded and nobody is shown. Each step is one of the
commands a user would type; it is printed before it runs.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from common import base  # noqa: F401  # isort: skip
import click

from common.cli import next_step, run, typed
from common.extras import PACKAGED
from common.options import OUTDIR, SEED, Checked, option, options

ROOT = Path(__file__).resolve().parent
UNSEEN = 6  # images of each class that are judged at the end
FIRST_UNSEEN_FACE = 1_000_000  # the demo set uses the seeds below
FIRST_UNSEEN_FAKE = 500_000


@dataclass(frozen=True)
class Demo(Checked):
    """What may differ between demonstrations."""

    outdir: str = OUTDIR(default="runs/demo", help="Where everything is written, one folder a run.")
    kimg: float = option(12.0, "Length of the training, thousands of images shown.", metavar="X", low=0, above=True)
    resolution: int = option(32, "Side of the images.", metavar="N", low=8)
    seed: int = SEED()


@click.command(help=__doc__, context_settings={"show_default": True})
@options(Demo, "asked")
def main(asked: Demo) -> None:
    outdir, kimg, resolution, seed = asked.outdir, asked.kimg, asked.resolution, asked.seed
    began = time.monotonic()
    out = Path(outdir)
    _step(
        "train the generator against the discriminator",
        ["train_gan", "--data", "demo", "--cfg", "tiny", "--resolution", resolution, "--kimg", kimg]
        + ["--lr", 0.01, "--tick", kimg / 12, "--snap", 6, "--image-snap", 2]
        + ["--metrics", "none", "--verdict-kimg", 3, "--seed", seed, "--outdir", out, "--no-report"],
    )
    folder = max((d for d in out.iterdir() if (d / "config.json").exists()), key=lambda d: d.name)
    unseen = folder / "unseen"
    _step(
        "sample the generator: new seeds, never used in training",
        ["synth", "--network", folder, "--seeds", f"{FIRST_UNSEEN_FAKE}-{FIRST_UNSEEN_FAKE + UNSEEN - 1}"]
        + ["--trunc", 0.8, "--outdir", unseen / "fake"],
    )
    _step(
        "a contact sheet of it",
        ["synth", "--network", folder, "--n", 60, "--trunc", 0.8, "--outdir", folder / "samples", "--grid"],
    )
    _render_unseen(unseen / "real", resolution)
    _step(
        "ask the detector about images it has not seen",
        ["detect", unseen, "--model", folder, "--explain", folder / "explained"],
        allowed=(0, 1),
    )
    report = _report(folder, unseen)
    print(f"\nreport  {report}   ({time.monotonic() - began:.0f} s in all)")
    next_step(
        f"open {typed(report)} in a browser. Its detector knows drawn faces only; to judge a photo by the shipped one:"
        " python detect.py photo.jpg"
    )


def _step(title: str, command: list, allowed: tuple[int, ...] = (0,)) -> None:
    """Print and run one of the project's own commands; stop the demo if it fails."""
    name, *words = (str(word) for word in command)
    script = ROOT / f"{name}.py"
    own, typed_as = [str(script)], f"python {script.name}"
    if PACKAGED:
        own, typed_as = ["-m", "ganface", name.replace("_", "-")], f"ganface {name.replace('_', '-')}"
    print(f"\n== {title}\n$ {typed_as} {shlex.join(words)}", flush=True)
    env = {**os.environ, "FACES_NEXT": "0"}  # the demo's own last line says what is next
    code = subprocess.run([sys.executable, *own, *words], env=env, check=False).returncode
    if code not in allowed:
        sys.exit(code if code in (129, 130, 143) else 128 - code if code < 0 else 2)


def _render_unseen(folder: Path, resolution: int) -> None:
    """Write faces of seeds the demo set does not contain."""
    from PIL import Image

    from faces.procedural.portrait import render_face

    folder.mkdir(parents=True, exist_ok=True)
    for i in range(UNSEEN):
        seed = FIRST_UNSEEN_FACE + i
        Image.fromarray(render_face(seed, resolution)).save(folder / f"face-{seed}.png")


def _report(folder: Path, unseen: Path) -> Path:
    """The HTML report of the run with the verdicts on the unseen images, also written as JSON."""
    from discriminator.detector import Detector
    from faces.decode import load_image
    from reports.gan_run import run_report
    from reports.page import VerdictCard

    detector = Detector.load(folder / "detector.safetensors")
    paths = [p for kind in ("real", "fake") for p in sorted((unseen / kind).glob("*.png"))]
    photos = [load_image(p) for p in paths]
    verdicts = detector.predict(photos)
    cards = [
        VerdictCard.of(p.name, photo, v, truth=p.parent.name)
        for p, photo, v in zip(paths, photos, verdicts, strict=True)
    ]
    rows = [{"file": str(p.relative_to(unseen)), **v.to_dict()} for p, v in zip(paths, verdicts, strict=True)]
    (folder / "unseen.json").write_text(json.dumps(rows, indent=1))
    return run_report(folder, cards=cards)


if __name__ == "__main__":
    run(main)
