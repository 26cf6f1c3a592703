"""Normalising: what the files tell afterwards, interruptions, hostile sources. Facts are read back by Pillow."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from faces import normalise as module
from faces.finding.align import Face
from faces.layout import Reading
from faces.manifest import Manifest, read_manifest, text_column, write_manifest
from faces.normalise import JOURNAL, MANIFEST, RECORD, Normalisation, normalise
from faces.procedural.portrait import render_face
from faces.source import open_source


def save(path: Path, seed: int, side: int = 96, form: str = "PNG", **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(render_face(seed, side)).save(path, form, **options)


@pytest.fixture
def leaky(tmp_path):
    """Real: JPEG of 120 px with EXIF; fake: PNG of 80 px."""
    root = tmp_path / "leaky"
    exif = Image.Exif()
    exif[0x010F] = "SecretCamera"
    for i in range(12):
        save(root / f"{'test' if i % 3 == 0 else 'train'}/real/{i}.jpeg", i, 120, "JPEG", quality=95, exif=exif)
        save(root / f"{'test' if i % 3 == 0 else 'train'}/fake/{i}.png", 100 + i, 80)
    return root


def tree(folder: Path) -> dict[str, str]:
    return {
        os.fsencode(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def images_of(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in tree(folder).items() if name.endswith((b".jpg", b".png"))}


def test_nothing_but_the_picture_is_left_to_tell_the_classes(leaky, tmp_path):
    before = tree(leaky)
    report = normalise(open_source(leaky), tmp_path / "even", Normalisation(64, quality=(60, 90)))
    assert tree(leaky) == before
    assert {label: tally.written for label, tally in report.classes.items()} == {0: 12, 1: 12} and not report.skipped
    kinds, qualities = set(), {"real": [], "fake": []}
    for path in (tmp_path / "even").rglob("*.jpg"):
        with Image.open(path) as image:
            assert image.size == (64, 64) and image.mode == "RGB" and b"Secret" not in path.read_bytes()
            kinds.add((image.format, str([factors[1:3] for factors in image.layer]), *sorted(image.info)))
            assert not image.getexif()
            qualities[path.parent.name].append(image.quantization[0][0])
    assert len(kinds) == 1  # one format, one chroma subsampling, the same header fields
    assert all(len(set(tables)) > 3 for tables in qualities.values())
    again = open_source(tmp_path / "even")
    assert sorted((i.label, i.split) for i in again.items) == sorted(
        (i.label, i.split) for i in open_source(leaky).items
    )


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"no_face": "keep"}, "`no_face` keep: faces are only looked for"),
        ({"format": "png", "quality": (80, 90)}, "are JPEG's"),
        ({"format": "png", "chroma": "444"}, "are JPEG's"),
    ],
)
def test_options_that_would_do_nothing_are_refused(how, told):
    with pytest.raises(UserError, match=told):
        Normalisation(**how)


def test_quality_is_uniform_and_knows_the_content_only():
    recipe = Normalisation(quality=(75, 95), seed=3)
    drawn = np.array([recipe.quality_of(hashlib.sha256(b"%d" % i).hexdigest()) for i in range(4200)])
    counts = np.bincount(drawn - 75, minlength=21)
    assert len(counts) == 21 and ((counts - 200) ** 2 / 200).sum() < 46  # chi-squared with 20 degrees: p = .001
    assert recipe.quality_of("ab") == Normalisation(quality=(75, 95), seed=3).quality_of("ab")
    assert any(Normalisation(seed=4).quality_of(f"{i}") != Normalisation(seed=3).quality_of(f"{i}") for i in range(9))


def test_the_manifest_tells_where_each_file_came_from(leaky, tmp_path):
    normalise(open_source(leaky), tmp_path / "even", Normalisation(64))
    rows = read_manifest(tmp_path / "even" / MANIFEST)
    assert len(rows) == 24
    for i in range(len(rows)):
        data = Path(rows.located(i)).read_bytes()
        assert hashlib.sha256(data).hexdigest() == rows["sha256"][i] and len(data) == rows["size"][i]
        original = (leaky / rows["original"][i]).read_bytes()
        assert hashlib.sha256(original).hexdigest() == rows["original_sha256"][i]
        with Image.open(io.BytesIO(original)) as image:
            facts = (rows["original_width"][i], rows["original_height"][i], rows["original_format"][i])
            assert facts == (str(image.width), str(image.height), image.format)
    assert len(open_source(tmp_path / "even" / MANIFEST)) == 24


def test_threads_and_interruptions_change_nothing(leaky, tmp_path, monkeypatch):
    (leaky / "train/real/broken.jpg").write_bytes(b"\xff\xd8\xff hello")
    source = open_source(leaky)
    normalise(source, tmp_path / "one", Normalisation(64), workers=1)
    encode, calls = module.encode_image, []

    def failing(*args):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return encode(*args)

    monkeypatch.setattr(module, "encode_image", failing)
    with pytest.raises(KeyboardInterrupt):
        normalise(source, tmp_path / "two", Normalisation(64), workers=1)
    monkeypatch.setattr(module, "encode_image", encode)
    made = images_of(tmp_path / "two")
    assert 0 < len(made) < 24 and not (tmp_path / "two" / MANIFEST).exists()
    with open(tmp_path / "two" / JOURNAL, "a") as file:
        file.write('{"path": "train/real/1.jp')  # killed in the middle of a line
    victim = tmp_path / "two" / os.fsdecode(sorted(made)[0])
    victim.write_bytes(b"")  # and the machine lost a file's content
    report = normalise(source, tmp_path / "two", Normalisation(64), workers=4)
    assert images_of(tmp_path / "two") == images_of(tmp_path / "one")
    assert (tmp_path / "two" / MANIFEST).read_bytes() == (tmp_path / "one" / MANIFEST).read_bytes()
    assert [name for name, _ in report.skipped] == ["train/real/broken.jpg"]
    third = normalise(source, tmp_path / "two", Normalisation(64))
    assert third.reused == 24 and third.written == 24
    save(leaky / "train/real/1.jpeg", 77, 100, "JPEG")  # a changed original is done anew
    assert normalise(open_source(leaky), tmp_path / "two", Normalisation(64)).reused == 23


def test_wrong_destinations_are_refused(leaky, tmp_path):
    source = open_source(leaky)
    for dest, words in (
        (leaky, "is the source"),
        (leaky / "train/even", "lies in the source"),
        (tmp_path, "holds the source"),
    ):
        with pytest.raises(UserError, match=words):
            normalise(source, dest, Normalisation(64))
    link = tmp_path / "link"
    link.symlink_to(leaky, target_is_directory=True)
    with pytest.raises(UserError, match="lies in"):
        normalise(source, link / "even", Normalisation(64))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        normalise(source, foreign, Normalisation(64))
    assert (foreign / "thesis.txt").read_text() == "mine" and len(list(foreign.iterdir())) == 1
    with pytest.raises(UserError, match="file of that name"):
        normalise(source, foreign / "thesis.txt", Normalisation(64))
    normalise(source, tmp_path / "even", Normalisation(64))
    with pytest.raises(UserError, match="begun with `quality`"):
        normalise(source, tmp_path / "even", Normalisation(64, quality=(10, 20)))
    write_manifest(leaky / "list.csv", Manifest({"path": text_column(["train/real/1.jpeg"])}, str(leaky)))
    with pytest.raises(UserError, match="images of the source lie in it"):
        normalise(open_source(leaky / "list.csv"), leaky, Normalisation(64))
    with pytest.raises(UserError, match="beside images of the source"):
        normalise(open_source(leaky / "list.csv"), leaky / "train/real/even", Normalisation(64))
    assert json.loads((tmp_path / "even" / RECORD).read_text())["resolution"] == 64


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Normalisation(quality=(90, 80)), "quality"),
        (lambda: Normalisation(quality=(0, 80)), "1 to 100"),
        (lambda: Normalisation(2), "resolution"),
        (lambda: Normalisation(align="eyes"), "ffhq"),
        (lambda: Normalisation(through=1), "through"),
    ],
)
def test_wrong_recipes_are_named(make, words):
    with pytest.raises(UserError, match=words):
        make()


def test_what_enlarging_leaks_is_told_and_repaired(leaky, tmp_path):
    source = open_source(leaky)
    (line,) = normalise(source, tmp_path / "a", Normalisation(112)).warnings()
    assert "0% of the real, 100% of the fake" in line and "`through` 80" in line
    (line,) = normalise(source, tmp_path / "b", Normalisation(64)).warnings()
    assert "120 px a side (real), 80 px a side (fake)" in line
    # what came through 80 px has no detail beyond that, in either class
    beyond = {}
    for name, recipe in (
        ("direct", Normalisation(112, format="png")),
        ("through", Normalisation(112, format="png", through=80)),
    ):
        assert normalise(source, tmp_path / name, recipe).written == 24
        power = {"real": [], "fake": []}
        for path in (tmp_path / name).rglob("*.png"):
            grey = np.asarray(Image.open(path).convert("L"), float)
            power[path.parent.name].append((np.abs(np.fft.fftshift(np.fft.fft2(grey))) ** 2)[:, :12].mean())
        beyond[name] = np.mean(power["real"]) / np.mean(power["fake"])
    assert beyond["direct"] > 4 and 0.5 < beyond["through"] < 2
    report = normalise(source, tmp_path / "d", Normalisation(112, min_side=100))
    assert report.classes[1].skipped == {"too small": 12} and report.classes[0].written == 12


class Finder:
    """Finds what the test says: the detector's own tests are elsewhere."""

    name = "of this test"

    def __init__(self, *answers):
        self.answers = answers

    def find(self, image):
        return list(self.answers[image[0, 0, 0] % len(self.answers)])


def test_one_face_several_none(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    for i in range(3):
        image = np.full((90, 100, 3), 100, np.uint8)
        image[0, 0] = i
        image[20:60, 30:70] = (200, 30, 30)
        Image.fromarray(image).save(root / f"{i}.png")
    landmarks = np.array([[40, 38], [60, 38], [50, 45], [42, 52], [58, 52]], np.float32)
    big, small = Face((30, 20, 70, 60), landmarks, 0.9), Face((0, 0, 9, 9), None, 0.9)
    finder = Finder([big], [big, small], [])
    report = normalise(open_source(root), tmp_path / "skip", Normalisation(48, "ffhq", format="png"), finder)
    tally = report.classes[0]
    assert (tally.written, tally.several, tally.whole, tally.skipped) == (2, 1, 0, {"no face": 1})
    assert report.skipped == [("2.png", "no face found by of this test")]
    with Image.open(tmp_path / "skip/0.png") as image:
        assert image.getpixel((24, 24)) == (200, 30, 30)
    rows = read_manifest(tmp_path / "skip" / MANIFEST)
    assert rows["faces"].tolist() == ["1", "2"] and set(rows["aligned"]) == {"ffhq"}
    keep = normalise(open_source(root), tmp_path / "keep", Normalisation(48, "ffhq", no_face="keep"), finder)
    assert keep.classes[0].written == 3 and keep.classes[0].whole == 1
    tiny = Normalisation(48, "ffhq", min_side=85)
    with pytest.raises(UserError, match="the face's frame has 80 pixels"):
        normalise(open_source(root), tmp_path / "tiny", tiny, finder)


def test_all_faces_of_a_family_photo(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    image = np.full((90, 200, 3), 100, np.uint8)
    image[20:60, 30:70], image[20:60, 130:170] = (200, 30, 30), (30, 30, 200)
    image[0, 0] = 0
    Image.fromarray(image).save(root / "a.png")
    Image.fromarray(image).save(root / "a-face2.png")  # the name that a further face would get
    image[0, 0] = 1
    Image.fromarray(image).save(root / "b.png")
    points = np.array([[40, 38], [60, 38], [50, 45], [42, 52], [58, 52]], np.float32)
    left, right = Face((30, 20, 70, 60), points, 0.9), Face((130, 20, 169, 60), points + np.float32([100, 0]), 0.9)
    finder = Finder([left, right, Face((0, 0, 9, 9), points / 20, 0.9)], [left])
    recipe = Normalisation(48, "ffhq", format="png", faces="all")
    report = normalise(open_source(root), tmp_path / "out", recipe, finder)
    tally = report.classes[0]
    assert (tally.written, tally.further, tally.several) == (5, 2, 2)  # the one of 4 pixels is too small
    assert "2 with several faces (2 besides the biggest)" in report.lines()[0]
    rows = read_manifest(tmp_path / "out" / MANIFEST)
    told = dict(zip(rows["path"].tolist(), zip(rows["original"].tolist(), rows["face"].tolist())))
    assert told == {
        "a.png": ("a.png", "1"), "a--face2.png": ("a.png", "2"), "b.png": ("b.png", "1"),
        "a-face2.png": ("a-face2.png", "1"), "a-face2-face2.png": ("a-face2.png", "2"),
    }  # fmt: skip
    for name, colour in (("a.png", (200, 30, 30)), ("a--face2.png", (30, 30, 200))):
        with Image.open(tmp_path / "out" / name) as cut:
            assert cut.getpixel((24, 24)) == colour
    for i in range(len(rows)):
        assert hashlib.sha256(Path(rows.located(i)).read_bytes()).hexdigest() == rows["sha256"][i]
    before = tree(tmp_path / "out")
    (tmp_path / "out/a--face2.png").unlink()  # the machine lost a file
    assert normalise(open_source(root), tmp_path / "out", recipe, finder).reused == 2
    after = tree(tmp_path / "out")
    assert {k: v for k, v in after.items() if k != b"normalise.jsonl"} == {
        k: v for k, v in before.items() if k != b"normalise.jsonl"
    }
    with pytest.raises(UserError, match="begun with `faces` all, not biggest"):
        normalise(open_source(root), tmp_path / "out", Normalisation(48, "ffhq", format="png"), finder)
    with pytest.raises(UserError, match="`faces` all"):
        Normalisation(faces="all")


def test_mirrored_surroundings_are_told(tmp_path):
    square = np.array([[-20, 10], [-20, 50], [20, 50], [20, 10]], float)
    assert module.outside(square, 100, 100) == 0.5 and module.outside(square + 30, 100, 100) == 0
    assert module.outside(square + [0, 70], 100, 100) == 0.75
    landmarks = np.array([[40, 38], [60, 38], [50, 45], [42, 52], [58, 52]], np.float32)
    for label, left in (("real", 0), ("fake", 30)):
        (tmp_path / "in" / label).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (100 - left, 90), (i, 99, 99)).save(tmp_path / "in" / label / f"{i}.png")

    class Moving(Finder):
        def find(self, image):
            return [Face((0, 0, 40, 40), landmarks - [100 - image.shape[1], 0], 0.9)]

    report = normalise(open_source(tmp_path / "in"), tmp_path / "out", Normalisation(48, "ffhq"), Moving())
    assert any("0% of the real, 25% of the fake pictures' area" in line for line in report.warnings())


def test_labels_of_a_manifest_go_before_folder_names(tmp_path):
    save(tmp_path / "data/real/a.png", 1)
    save(tmp_path / "data/fake/a.png", 2)
    save(tmp_path / "data/other/a.jpg", 3, form="JPEG")
    columns = {
        "path": text_column(["../data/real/a.png", "../data/fake/a.png", "../data/other/a.jpg"]),
        "label": np.array([1, 0, 1], np.int8),
        "split": text_column(["train", "test", ""]),
        "generator": text_column(["stylegan2", "", "sg3"]),
        "note": text_column(["x", "y", "z"]),
    }
    (tmp_path / "lists").mkdir()
    write_manifest(tmp_path / "lists/m.csv", Manifest(columns, str(tmp_path / "lists")))
    normalise(open_source(tmp_path / "lists/m.csv"), tmp_path / "out", Normalisation(32))
    assert "1 image in no split" in open_source(tmp_path / "out").notes[0]
    again = open_source(tmp_path / "out", reading=Reading(unsplit=True))
    assert sorted((i.label, i.split) for i in again.items if i.split) == [(0, "test"), (1, "train")]
    assert sum(i.label for i in again.items) == 2 and len(again) == 3
    rows = read_manifest(tmp_path / "out" / MANIFEST)
    assert rows["generator"].tolist() == ["stylegan2", "", "sg3"] and rows["note"].tolist() == ["x", "y", "z"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "lists", "out"]


def test_equal_names_stay_two_files(tmp_path):
    for i, name in enumerate(("a.png", "a.PNG", "A.png", "a.bmp", "a.jpg")):
        save(tmp_path / "in" / name, i, form={"jpg": "JPEG", "bmp": "BMP"}.get(name[-3:], "PNG"))
    assert normalise(open_source(tmp_path / "in"), tmp_path / "out", Normalisation(32)).written == 5
    names = [p.name.casefold() for p in (tmp_path / "out").glob("*.jpg")]
    assert len(names) == len(set(names)) == 5


# ---- hostile sources --------------------------------------------------------------------------------------------


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its hundred bytes of data can't have."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.fixture
def hostile(tmp_path):
    """A folder of what must be refused, beside three good images of bad names."""
    root = tmp_path / "zoo" / "hostile"
    names = [b"new\nline.png", b"latin-\xe9.png", b"quote\",'.png"]
    root.mkdir(parents=True)
    for i, name in enumerate(names):
        save(root / f"{i}.png", i)
        os.rename(root / f"{i}.png", os.path.join(os.fsencode(root), name))
    good = (root / os.fsdecode(names[0])).read_bytes()
    (root / "bomb.png").write_bytes(png_claiming(50_000, 50_000))
    (root / "truncated.png").write_bytes(good[: len(good) // 2])
    (root / "empty.jpg").write_bytes(b"")
    (root / "wide.png").write_bytes(png_claiming(60_000, 40_000))
    Image.new("L", (60_000, 20)).save(root / "ribbon.png")
    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "self.png").symlink_to(root / "self.png")
    os.mkfifo(root / "pipe.jpg")
    return root


def test_hostile_folder(hostile, tmp_path):
    report = normalise(open_source(hostile), tmp_path / "out", Normalisation(48))
    reasons = dict(report.skipped)
    assert set(reasons) == {"bomb.png", "truncated.png", "empty.jpg", "wide.png", "ribbon.png"}
    assert "pixels" in reasons["bomb.png"] and "pixels" in reasons["wide.png"] and "a side of" in reasons["ribbon.png"]
    assert "truncated" in reasons["truncated.png"] and "empty" in reasons["empty.jpg"]
    written = set(images_of(tmp_path / "out"))
    assert written == {b"new\nline.jpg", b"latin-\xe9.jpg", b"quote\",'.jpg"}
    rows = read_manifest(tmp_path / "out" / MANIFEST)
    assert {os.fsencode(path) for path in rows["path"]} == written
    assert len(open_source(tmp_path / "out" / MANIFEST)) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "zoo"]


def test_hostile_zip(tmp_path):
    (tmp_path / "inner").mkdir()
    good = io.BytesIO()
    Image.fromarray(render_face(1, 64)).save(good, "PNG")
    with zipfile.ZipFile(tmp_path / "inner/evil.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        bad = ("../../evil.png", f"{tmp_path}/absolute.png", "a/../../../b.png", "..\\..\\c.png")
        for name in (*bad, "C:/d.png", "fine/real\n.png", "./e.png"):
            archive.writestr(zipfile.ZipInfo(name), good.getvalue())
        archive.writestr("bomb.png", bytes(513 << 20))
    report = normalise(open_source(tmp_path / "inner/evil.zip"), tmp_path / "inner/deep/out", Normalisation(32))
    skipped = dict(report.skipped)
    assert {"../../evil.png", f"{tmp_path}/absolute.png", "a/../../../b.png"} <= set(skipped)
    assert "513 MiB" in skipped["bomb.png"]
    assert report.written == len(images_of(tmp_path / "inner/deep/out")) <= 4
    files = [p for p in tmp_path.rglob("*") if p.is_file() and (tmp_path / "inner/deep/out") not in p.parents]
    assert files == [tmp_path / "inner/evil.zip"]


def test_a_source_of_ruins_is_an_error(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(b"no")
    with pytest.raises(UserError, match="the only image of in can't be used: a.jpg: not an image"):
        normalise(open_source(tmp_path / "in"), tmp_path / "out", Normalisation(32))
