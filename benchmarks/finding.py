"""How many faces are found in made-up group scenes, by size, how many are invented, and what it costs.

    python benchmarks/finding.py PHOTOS [--face-model FILE] [--json figures.json] [--photos-1024 FOLDER]

PHOTOS: a folder of aligned crops with one face each. 20 scenes of 1920 x 1080, 1280 x 960 and 4000 x 3000 pixels have
faces of 12 to 250 pixels (the box's side, spread evenly on a logarithmic scale) on a wall of pieces of the photos'
upper corners; of 20 portraits of 1024 pixels each has three more faces of 15 to 120 pixels in its corners. Everything
is drawn from the seed. Found: a box whose shared area with the placed one is over .4 of the joint area. False: a box
that shares less than .1 with every placed one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faces.decode import load_image
from faces.finding.align import FaceFinder

SHAPES = ((1080, 1920), (960, 1280), (1080, 1920), (3000, 4000))
EDGES = (12, 16, 20, 28, 40, 60, 90, 140, 300)
Box = tuple[float, float, float, float]


def shared(a: Box, b: Box) -> float:
    """Shared area over joint area."""
    wide, tall = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(wide, 0) * max(tall, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


class Album:
    """Photos with the box of their one face."""

    def __init__(self, folder: Path, finder: FaceFinder, rng: np.random.Generator, count: int):
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".png"))
        self.photos: list[tuple[np.ndarray, Box]] = []
        for i in rng.permutation(len(files)):
            photo = load_image(files[i])
            found = finder.find(photo)
            if len(found) == 1 and photo.shape[0] == photo.shape[1]:
                self.photos.append((photo, found[0].box))
            if len(self.photos) == count:
                break

    def draw(self, rng: np.random.Generator, side: float) -> tuple[np.ndarray, Box]:
        """A photo reduced so that its face's box has the side, and where the box is in it."""
        photo, box = self.photos[rng.integers(len(self.photos))]
        factor = side / np.sqrt((box[2] - box[0]) * (box[3] - box[1]))
        to = max(8, round(photo.shape[0] * factor))
        how = cv2.INTER_AREA if to < photo.shape[0] else cv2.INTER_CUBIC
        x0, y0, x1, y1 = (x * to / photo.shape[0] for x in box)
        return cv2.resize(photo, (to, to), interpolation=how), (x0, y0, x1, y1)

    def wall(self, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        """Pieces of the photos' upper left corners side by side, enlarged: a background without faces."""
        tile = max(height, width) // 12
        out = np.zeros((height + tile, width + tile, 3), np.uint8)
        for y in range(0, height, tile):
            for x in range(0, width, tile):
                photo, _ = self.photos[rng.integers(len(self.photos))]
                piece = photo[: photo.shape[0] // 7, : photo.shape[1] // 7]
                out[y : y + tile, x : x + tile] = cv2.resize(piece, (tile, tile), interpolation=cv2.INTER_CUBIC)
        return np.ascontiguousarray(out[:height, :width])


def scene(album: Album, rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, list[Box]]:
    """A wall with 8 to 18 faces that do not overlap, and their boxes."""
    picture, boxes, taken = album.wall(rng, *shape), [], np.zeros(shape, bool)
    for _ in range(int(rng.integers(8, 19))):
        photo, box = album.draw(rng, float(np.exp(rng.uniform(np.log(12), np.log(250)))))
        side = len(photo)
        for _ in range(50):
            x, y = int(rng.integers(0, shape[1] - side)), int(rng.integers(0, shape[0] - side))
            if not taken[y : y + side, x : x + side].any():
                taken[y : y + side, x : x + side] = True
                picture[y : y + side, x : x + side] = photo
                boxes.append((box[0] + x, box[1] + y, box[2] + x, box[3] + y))
                break
    return picture, boxes


def portrait(album: Album, rng: np.random.Generator) -> tuple[np.ndarray, list[Box]]:
    """An aligned crop of 1024 pixels with a smaller face in three of its corners."""
    index = rng.integers(len(album.photos))
    photo, box = album.photos[index]
    factor = 1024 / len(photo)
    picture = cv2.resize(photo, (1024, 1024), interpolation=cv2.INTER_CUBIC)
    boxes: list[Box] = [tuple(x * factor for x in box)]  # type: ignore[list-item]
    for corner in rng.permutation(4)[:3]:
        small, there = album.draw(rng, float(np.exp(rng.uniform(np.log(15), np.log(120)))))
        side = len(small)
        x, y = (1024 - side) * (corner % 2), (1024 - side) * (corner // 2)
        picture[y : y + side, x : x + side] = small
        boxes.append((there[0] + x, there[1] + y, there[2] + x, there[3] + y))
    return picture, boxes


def count(finder: FaceFinder, scenes: list[tuple[np.ndarray, list[Box]]]) -> dict:
    """Found of placed by size, false faces, milliseconds a scene."""
    placed, found = [0] * (len(EDGES) - 1), [0] * (len(EDGES) - 1)
    false, spent = 0, 0.0
    for picture, boxes in scenes:
        begin = time.thread_time()
        faces = [face.box for face in finder.find(picture)]
        spent += time.thread_time() - begin
        for box in boxes:
            size = np.sqrt((box[2] - box[0]) * (box[3] - box[1]))
            at = int(np.clip(np.searchsorted(EDGES, size, side="right") - 1, 0, len(placed) - 1))
            placed[at] += 1
            found[at] += any(shared(box, face) > 0.4 for face in faces)
        false += sum(all(shared(box, face) < 0.1 for box in boxes) for face in faces)
    sizes = {f"{a} to {b} px": [f, p] for a, b, f, p in zip(EDGES, EDGES[1:], found, placed) if p}
    return {"found_of_placed": sizes, "found": sum(found), "placed": sum(placed), "false": false,
            "ms": round(1000 * spent / len(scenes), 1)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--photos-1024", type=Path)
    parser.add_argument("--face-model")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    finder, rng = FaceFinder.open(asked.face_model), np.random.default_rng(asked.seed)
    album = Album(asked.photos, finder, rng, 200)
    empty: list[tuple[np.ndarray, list[Box]]] = [(album.wall(rng, *SHAPES[i % len(SHAPES)]), []) for i in range(20)]
    out = {
        "scenes": count(finder, [scene(album, rng, SHAPES[i % len(SHAPES)]) for i in range(20)]),
        "portraits": count(finder, [portrait(album, rng) for _ in range(20)]),
        "empty": count(finder, empty),
    }
    if asked.photos_1024 is not None:
        files = sorted(asked.photos_1024.iterdir())[:60]
        photos = [load_image(path) for path in files]
        for photo in photos[:3]:
            finder.find(photo)
        begin = time.thread_time()
        faces = [len(finder.find(photo)) for photo in photos]
        spent = 1000 * (time.thread_time() - begin) / len(photos)
        out["1024"] = {"photos": len(photos), "faces": sum(faces), "ms": round(spent, 1)}
    text = json.dumps(out, indent=1)
    print(text)
    if asked.json is not None:
        asked.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
