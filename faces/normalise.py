"""Both classes of a source through the same hands: one decoder, one alignment, one kernel, one encoder.

Most of what gives a class away without a look at a face is how its files were made: another format, another quality,
another size. Afterwards all images have one size, one format, one chroma subsampling and no metadata, and a quality
that is drawn from one range by the image's own SHA-256 and the seed: not by its class, nor by its place in a list.

What cannot be undone is what a class has lost before: a photo enlarged from 100 pixels stays soft, a face that was
compressed hard keeps its blocks. `NormaliseReport.warnings` says where the classes differ in that, and
`Normalisation.through` takes all of them through one smaller common size first.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TextIO

import numpy as np
from PIL import Image

from common import reading
from common.errors import BadImage, UserError
from common.files import disk_errors_of, try_lock, write_bytes, write_json
from common.parallel import Progress, in_order, told
from common.words import none_of
from faces.decode import decode
from faces.finding.align import FaceFinder, cut_quad
from faces.finding.face import Face
from faces.finding.face_step import photo_of
from faces.finding.frame import frame_of
from faces.manifest import Manifest, manifest_of, write_manifest
from faces.naming import targets
from faces.normalise_report import NormaliseReport
from faces.prepare_options import LEAST, Normalisation
from faces.preprocess import Preprocess
from faces.similar import phash
from faces.source import FaceSource
from faces.stores import FolderStore, RenderedStore, ZipStore

RECORD, JOURNAL, MANIFEST = "normalise.json", "normalise.jsonl", "manifest.csv"
VERSION = 1
# trouble with one name, not with the disk
_OF_ONE_FILE = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EISDIR, errno.ENOTDIR)


def normalise(
    source: FaceSource,
    dest: str | os.PathLike,
    recipe: Normalisation,
    finder: FaceFinder | None = None,
    *,
    call: Mapping[str, str | None] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> NormaliseReport:
    """Write every usable image of `source` into the folder `dest` by `recipe`; the originals are only read.

    The folder keeps the source's folders (`faces.naming`) and gets MANIFEST with the origin of every file, RECORD with
    the recipe, and JOURNAL with a line for each image. Files appear whole under their names or not at all. Called again
    after an interruption it makes what is missing; the result does not depend on that, nor on `workers`.

    call: how the source was named ("source", "labels", "split", "data_root"), for RECORD: an audit of the folder tells
    by it how to go on.

    Raises UserError where dest lies in the source or the other way round, is a folder of something else or of another
    recipe, or where no image is usable; OSError where the disk is full."""
    if recipe.align != "none" and finder is None:
        raise UserError("alignment needs a face finder")
    finder = finder if recipe.align != "none" else None
    dest = Path(os.path.abspath(dest))
    _check_apart(source, dest)
    try:
        with _taken(dest) as journal:
            _check_recipe(dest, recipe, finder.name if finder is not None else "", source.name, call or {})
            return _fill(source, dest, recipe, finder, journal, workers, progress)
    except OSError as error:
        if error.filename is None:  # a full disk says nothing but that
            error.filename = str(dest)
        raise


def _fill(
    source: FaceSource, dest: Path, recipe: Normalisation, finder: FaceFinder | None, journal: TextIO,
    workers: int | None, progress: Progress | None,
) -> NormaliseReport:  # fmt: skip
    detector = finder.name if finder is not None else ""
    names = targets(source, ".jpg" if recipe.format == "jpeg" else ".png")
    done, left_over = _finished(dest, source, names)
    made = _Maker(source, dest, recipe, finder, names)
    report = NormaliseReport(str(dest), recipe.resolution, {}, [], len(done), detector, left_over)
    lines: list[dict] = []
    total = len(source)
    work = in_order(lambda i: done[i] if i in done else made(i), total, workers)
    for i, fresh in enumerate(told(work, total, progress)):
        if i not in done:
            journal.write(json.dumps(fresh) + "\n")
            if i % 64 == 63:
                journal.flush()
        lines.append(fresh)
        report.count(fresh, source.items[i].label)
    if not report.written:
        name, reason = report.skipped[0] if report.skipped else (source.name, "it holds no images")
        raise UserError(none_of(total, "image", "can be used", f"{name}: {reason}", source.name))
    rows = [(i, line | more) for i, line in enumerate(lines) if not line["skipped"]
            for more in ({}, *line.get("more", ()))]  # fmt: skip
    kept = [i for i, _ in rows]
    write_manifest(dest / MANIFEST, _manifest(source, [line for _, line in rows], kept, recipe), replace=True)
    return report


def _check_apart(source: FaceSource, dest: Path) -> None:
    store, real = source.store, Path(os.path.realpath(dest))
    if isinstance(store, RenderedStore):
        return
    if isinstance(store, FolderStore):
        root = Path(os.path.realpath(store.root))
        if real.is_relative_to(root) or root.is_relative_to(real):
            words = "is" if real == root else "lies in" if real.is_relative_to(root) else "holds"
            raise UserError(f"{dest}: {words} the source {store.root}; choose a folder apart from it")
        return
    archive = store.path if isinstance(store, ZipStore) else ""
    for folder in {os.path.dirname(archive or source.locate(i)) for i in range(len(source))}:
        inside = Path(os.path.realpath(folder))
        if inside.is_relative_to(real):
            raise UserError(f"{dest}: images of the source lie in it ({folder}); choose a folder apart from it")
        if not archive and real.is_relative_to(inside):
            raise UserError(f"{dest}: lies beside images of the source ({folder}); choose a folder apart from them")


@contextlib.contextmanager
def _taken(dest: Path) -> Iterator[TextIO]:
    """The folder's journal, open for appending; as long as it is, no other process gets the folder."""
    try:
        dest.mkdir(parents=True, exist_ok=True)
        found = set(os.listdir(dest))
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{dest}: there is a file of that name; choose another folder") from None
    if RECORD not in found and found - {JOURNAL, f".{RECORD}.tmp"}:
        raise UserError(f"{dest}: is not empty, and not a folder that normalise made; choose a new one")
    with disk_errors_of(dest / JOURNAL), open(dest / JOURNAL, "a", encoding="utf-8") as journal:
        if not try_lock(journal.fileno()):
            raise UserError(f"{dest}: another normalise is writing into it; wait for it, or choose another folder")
        yield journal


def _check_recipe(dest: Path, recipe: Normalisation, detector: str, name: str, call: Mapping[str, str | None]) -> None:
    """Make the folder one of this recipe, or find that it is: by its record."""
    record = {"version": VERSION, "source": name, **asdict(recipe), "detector": detector}
    record["quality"] = list(recipe.quality)
    if not (dest / RECORD).exists():
        write_json(dest / RECORD, record | {"call": {key: value for key, value in call.items() if value}})
        return
    try:
        saved = reading.json_file(dest / RECORD)
        saved.setdefault("faces", "biggest")  # not yet recorded by earlier versions
        differs = [key for key in record if saved.get(key) != record[key]]
    except (OSError, ValueError, AttributeError):
        raise UserError(f"{dest / RECORD}: can't be read; choose a new folder") from None
    if differs:
        key = differs[0]
        named = f"`{key}`" if key in asdict(recipe) else key
        raise UserError(
            f"{dest}: was begun with {named} {_as_given(saved.get(key))}, not {_as_given(record[key])}; go on as it"
            " was, or choose a new folder"
        )


def _as_given(value: object) -> str:
    """A record's value as a person gives it: 75-95, ffhq."""
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def _finished(dest: Path, source: FaceSource, names: list[str | None]) -> tuple[dict[int, dict], int]:
    """The journal's lines of images whose results are there, by position, and how many results belong to no image."""
    lines: dict[str, dict] = {}
    text = "\n"
    with contextlib.suppress(FileNotFoundError), open(dest / JOURNAL, "r+", encoding="utf-8") as journal:
        for text in journal:
            with contextlib.suppress(ValueError, TypeError, KeyError):  # a killed run's last line may be half a line
                line = reading.json_of(text)
                lines[line["path"]] = line
        if not text.endswith("\n"):
            journal.write("\n")
    done = {}
    for i, (item, entry) in enumerate(zip(source.items, source._entries)):
        line = lines.pop(item.path, None)
        if line is None or line.get("skipped") or line.get("out") != names[i]:
            continue
        if [line.get("stamp"), line.get("size_before")] != [entry.stamp, entry.size]:
            continue
        with contextlib.suppress(OSError):
            if all(os.path.getsize(dest / one["out"]) == one["size"] for one in (line, *line.get("more", ()))):
                done[i] = line
    return done, sum(not line.get("skipped") for line in lines.values())


class Unfit(Exception):
    """A picture that is left out: kind and reason, for the journal."""

    def __init__(self, kind: str, reason: str):
        self.line = {"skipped": kind, "reason": reason}


@dataclass(frozen=True)
class _Maker:
    """Called with a position: makes that image's result and returns its journal line. From several threads."""

    source: FaceSource
    dest: Path
    recipe: Normalisation
    finder: FaceFinder | None
    names: list[str | None]

    @functools.cached_property
    def _taken_names(self) -> set[str]:
        return {_same(name) for name in self.names if name is not None}

    def __call__(self, i: int) -> dict:
        source, entry, name = self.source, self.source._entries[i], self.names[i]
        line = {"path": source.items[i].path, "stamp": entry.stamp, "size_before": entry.size, "out": name}
        try:
            if name is None:
                raise Unfit("unusable", "its name leads out of the archive")
            return line | {"skipped": "", "reason": ""} | self._made(i, self.dest / name)
        except Unfit as unfit:
            return line | unfit.line
        except BadImage as error:
            return line | {"skipped": "unusable", "reason": error.reason}
        except OSError as error:
            if error.errno not in _OF_ONE_FILE:
                raise
            return line | {"skipped": "unusable", "reason": f"can't be written under its name ({error.strerror})"}

    def _made(self, i: int, path: Path) -> dict:
        source, recipe = self.source, self.recipe
        data = source.read(i)
        digest = hashlib.sha256(data).hexdigest()
        if isinstance(source.store, RenderedStore):
            decoded = source.decoded(i)
        else:
            decoded = decode(data, source.locate(i), min_side=min(LEAST, recipe.least))
        (pixels, facts), *others = cuts(decoded.pixels, recipe, self.finder)
        height, width = decoded.pixels.shape[:2]
        was = {"sha256": digest, "width": width, "height": height, "format": decoded.format, "mode": decoded.mode}
        line = {f"original_{key}": value for key, value in was.items()}
        line |= facts | self._saved(pixels, digest, path)
        if recipe.faces == "all":
            name = self.names[i] or ""
            line["more"] = [
                more | {"out": out} | self._saved(pixels, f"{digest}:{more['face']}", self.dest / out)
                for pixels, more in others
                for out in [self._name_of(name, more["face"])]
            ]
        return line

    def _saved(self, pixels: np.ndarray, digest: str, path: Path) -> dict:
        """The encoded picture's facts; it is then under its name."""
        encoded, quality = encode_image(pixels, digest, self.recipe)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, encoded, durable=False)
        return {
            "size": len(encoded),
            "sha256": hashlib.sha256(encoded).hexdigest(),
            "quality": quality,
            # of what will be read again, not of what went into the encoder
            "phash": phash(np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))),
        }

    def _name_of(self, name: str, face: int) -> str:
        """Where a further face of the picture that is called `name` goes: beside it, under no other picture's name."""
        stem, _, ending = name.rpartition(".")
        mark = "-face"
        while _same(f"{stem}{mark}{face}.{ending}") in self._taken_names:
            mark = f"-{mark}"
        return f"{stem}{mark}{face}.{ending}"


def _same(name: str) -> str:
    """What names have in common that some disks take for one."""
    return unicodedata.normalize("NFC", name).casefold()


def cuts(image: np.ndarray, recipe: Normalisation, finder: FaceFinder | None) -> list[tuple[np.ndarray, dict]]:
    """As `cut`, of every face that the recipe asks for, the biggest first; facts have besides face (its number, from
    1). Faces but the biggest that would be Unfit are left out. Raises Unfit where there is none."""
    if recipe.faces != "all" or finder is None:
        return [cut(image, recipe, finder)]
    found = finder.find(image)
    done = [cut(image, recipe, _Found(finder, found))]
    done[0][1]["face"] = 1
    for number in range(2, len(found) + 1):
        with contextlib.suppress(Unfit):
            pixels, facts = cut(image, replace(recipe, no_face="skip"), _Found(finder, [found[number - 1]]))
            done.append((pixels, facts | {"faces": len(found), "face": number}))
    return done


@dataclass(frozen=True)
class _Found:
    """In a finder's place: what it found before."""

    by: FaceFinder
    faces: list[Face]

    @property
    def name(self) -> str:
        return self.by.name

    def find(self, image: np.ndarray) -> list[Face]:
        return self.faces


def cut(image: np.ndarray, recipe: Normalisation, finder: FaceFinder | _Found | None) -> tuple[np.ndarray, dict]:
    """uint8 [H, W, 3] -> (uint8 [R, R, 3], what was done). Raises Unfit where the picture is to be left out.

    What was done: faces (how many were found; -1: not looked for), aligned ("ffhq", "box" or "none"), side (pixels a
    side of the cut in the photo), outside (share of it beyond the photo's edges; of one that lies in a plain
    picture, beyond its own)."""
    facts = {"faces": -1, "aligned": "none", "outside": 0.0}
    quad = None
    if finder is not None:
        faces = finder.find(image)
        facts["faces"] = len(faces)
        with contextlib.suppress(ValueError, IndexError):  # landmarks that span no face; no face at all
            own = photo_of(image, faces[0], finder.by if isinstance(finder, _Found) else finder)
            quad, facts["aligned"] = frame_of(own.there)
            image = own.pixels
        if quad is None and recipe.no_face == "skip":
            raise Unfit("no face", f"no face found by {finder.name}")
    height, width = image.shape[:2]
    side = float(max(height, width) if recipe.crop == "pad" else min(height, width))
    if quad is not None:
        side = float(np.hypot(*(quad[3] - quad[0])))
        facts["outside"] = round(outside(quad, height, width), 3)
    facts["side"] = round(side, 1)
    if side < recipe.least:
        what = "the face's frame has" if quad is not None else "it has"
        raise Unfit("too small", f"{what} {side:.0f} pixels a side, fewer than {recipe.least}")
    first = recipe.through or recipe.resolution
    if quad is not None:
        try:
            image = cut_quad(image, quad, first, resample=recipe.resample)
        except ValueError as error:
            raise Unfit("no face", str(error)) from None
    else:
        image = Preprocess(first, recipe.crop, recipe.resample).uint8(image)
    return Preprocess(recipe.resolution, "none", recipe.resample).uint8(image), facts


def outside(quad: np.ndarray, height: int, width: int) -> float:
    """The share of a frame's area that lies beyond a photo's edges, to about 1 %."""
    u, v = np.meshgrid(*2 * [(np.arange(64) + 0.5) / 64])
    x, y = (quad[0] + u[..., None] * (quad[3] - quad[0]) + v[..., None] * (quad[1] - quad[0])).transpose(2, 0, 1)
    return float(((x < 0) | (x > width) | (y < 0) | (y > height)).mean())


def encode_image(pixels: np.ndarray, digest: str, recipe: Normalisation) -> tuple[bytes, int]:
    buffer = io.BytesIO()
    if recipe.format == "png":
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=6)
        return buffer.getvalue(), -1
    quality = recipe.quality_of(digest)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=2 if recipe.chroma == "420" else 0)
    return buffer.getvalue(), quality


def _manifest(source: FaceSource, lines: list[dict], kept: list[int], recipe: Normalisation) -> Manifest:
    items, count = [source.items[i] for i in kept], len(kept)
    own: dict[str, list] = {
        "path": [line["out"] for line in lines],
        "label": [item.label for item in items],
        "source": [source.name] * count,
        "generator": [""] * count,
        "split": [item.split for item in items],
        "fold": [None] * count,
        "width": [recipe.resolution] * count,
        "height": [recipe.resolution] * count,
        "format": [recipe.format.upper()] * count,
        "original": [item.path for item in items],
    }
    own |= {name: [line[name] for line in lines] for name in ("sha256", "phash", "size", "quality")}
    told = [f"original_{key}" for key in ("sha256", "width", "height", "format", "mode")]
    for key in (*told, "faces", "aligned", "side", "outside", *["face"] * (recipe.faces == "all")):
        own[key] = [str(line[key]) for line in lines]
    return manifest_of(own, source.manifest.select(kept) if source.manifest is not None else None)
