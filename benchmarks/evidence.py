"""What the lines of `detect.py --evidence` are worth: rates of the double-compression estimator and of the eyes' place.

    python benchmarks/evidence.py double PHOTOS [--count 60] [--first 0] [--json figures.json]
    python benchmarks/evidence.py eyes FOLDER... [--face-model FILE]

double: PHOTOS of 1000 pixels and more are made smaller to 400 (which leaves no trace of their own JPEG), saved once, or
twice at every pair of qualities, by libjpeg. eyes: the share of each folder's photos whose eyes sit where FFHQ's do.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.errors import BadImage
from evidence.containers import parts_of
from evidence.double import luminance, primary, said_from
from evidence.eyes import OFF, eyes_off
from faces.decode import load_image
from faces.finding.align import FaceFinder

SECOND = (50, 65, 75, 85, 90, 95)
FIRST = (None, 50, 60, 70, 75, 80, 85, 90, 95)


def saved(image: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def score(image: Image.Image, first: int | None, second: int) -> tuple[float, int]:
    if first is not None:
        image = Image.open(io.BytesIO(saved(image, first)))
    data = saved(image, second)
    parts = parts_of(data)
    told = primary(luminance(data), parts.tables[parts.components[0][2]])
    return told.score, told.quality


def photos(folder: str) -> list[Path]:
    return sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))


def double(args: argparse.Namespace) -> None:
    images = []
    for path in photos(args.photos)[args.first : args.first + args.count]:
        with Image.open(path) as image:
            images.append(image.convert("RGB").resize((args.side, args.side), Image.Resampling.LANCZOS))
    rows, once, twice = [], [], []
    for second in SECOND:
        for first in FIRST:
            told = [score(image, first, second) for image in images]
            scores = np.array([one[0] for one in told])
            said = float((scores >= said_from(second)).mean())
            right = float(np.mean([abs(q - (first or 0)) <= 3 for _, q in told]))
            same = first is not None and first == second
            (once if first is None or same else twice).append(said)
            row = {"first": first, "second": second, "said": said, "first_within_3": right, "n": len(images)}
            rows.append(row | {"scores": np.quantile(scores, [0, 0.5, 1]).round(4).tolist()})
            print(row, rows[-1]["scores"], flush=True)
    print(f"said of single {np.mean(once):.4f} of {len(images) * len(once)}; of double {np.mean(twice):.4f}")
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def eyes(args: argparse.Namespace) -> None:
    cv2.setNumThreads(1)
    finder = FaceFinder.open(args.face_model, False)
    for folder in args.folders:
        fit = n = 0
        for path in photos(folder)[: args.count]:
            try:
                photo = load_image(path)
            except BadImage as error:
                print(error, file=sys.stderr)
                continue
            n += 1
            faces = [face for face in finder.find(photo) if face.landmarks is not None][:1]
            fit += bool(
                faces and faces[0].landmarks is not None and eyes_off(faces[0].landmarks, *photo.shape[:2]) <= OFF
            )
        print(f"{fit} of {n} fit: {folder}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(required=True)
    one = jobs.add_parser("double")
    one.add_argument("photos")
    one.add_argument("--count", type=int, default=60)
    one.add_argument("--first", type=int, default=0)
    one.add_argument("--side", type=int, default=400)
    one.add_argument("--json")
    one.set_defaults(run=double)
    other = jobs.add_parser("eyes")
    other.add_argument("folders", nargs="+")
    other.add_argument("--count", type=int, default=500)
    other.add_argument("--face-model")
    other.set_defaults(run=eyes)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
