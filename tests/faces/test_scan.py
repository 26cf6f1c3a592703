"""What a scan says of files, against Pillow's own reading of them and against full decoding."""

import hashlib
import io
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from faces import scan as scanning
from faces.scan import jpeg_quality, scan
from faces.similar import distance, mirrored, phash
from faces.source import open_source


def picture(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)


def by_name(facts) -> dict:
    return {fact.path: fact for fact in facts}


@pytest.fixture
def folder(tmp_path):
    """One file of each kind, good and bad."""
    for kind in ("real", "fake"):
        (tmp_path / "train" / kind).mkdir(parents=True)
    real, fake = tmp_path / "train/real", tmp_path / "train/fake"
    picture(0).save(real / "q75.jpg", quality=75)
    picture(0).save(real / "q95_444.jpg", quality=95, subsampling=0)
    picture(1).convert("L").save(real / "grey.jpg", quality=50)
    picture(2).save(real / "turned.jpg", quality=90, exif=_orientation(6))
    picture(3).save(fake / "a.png")
    picture(3).save(fake / "b.webp", quality=80)
    picture(4).convert("CMYK").save(fake / "cmyk.jpg", quality=88)
    Image.new("RGB", (64, 48), (9, 9, 9)).save(fake / "flat.png")
    data = (real / "q75.jpg").read_bytes()
    (fake / "half.jpg").write_bytes(data[: len(data) * 2 // 3])
    (fake / "empty.jpg").write_bytes(b"")
    (fake / "text.jpg").write_bytes(b"hello")
    (fake / "bomb.png").write_bytes(bomb())
    return tmp_path


def _orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def bomb(side: int = 60_000) -> bytes:
    """A PNG of 3.6 gigapixels in some bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def test_facts_of_every_kind_of_file(folder):
    source = open_source(folder)
    facts = scan(source)
    assert [fact.path for fact in facts] == [item.path for item in source.items]
    assert [fact.label for fact in facts] == source.labels.tolist() and {fact.split for fact in facts} == {"train"}
    found = by_name(facts)
    for path, fact in found.items():
        data = (folder / path).read_bytes()
        assert (fact.bytes, fact.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    jpeg = found["train/real/q75.jpg"]
    assert (jpeg.format, jpeg.width, jpeg.height, jpeg.mode, jpeg.quality) == ("JPEG", 64, 48, "RGB", 75)
    assert jpeg.subsampling == "4:2:0" and len(jpeg.tables) == 16 and jpeg.error is None
    better = found["train/real/q95_444.jpg"]
    assert (better.quality, better.subsampling) == (95, "4:4:4") and better.tables != jpeg.tables
    grey = found["train/real/grey.jpg"]
    assert (grey.mode, grey.quality, grey.subsampling) == ("grey", 50, "grey")
    turned = found["train/real/turned.jpg"]
    assert (turned.width, turned.height) == (48, 64)
    png = found["train/fake/a.png"]
    assert (png.format, png.quality, png.tables, png.subsampling) == ("PNG", None, "", None)
    assert found["train/fake/b.webp"].format == "WEBP" and found["train/fake/cmyk.jpg"].mode == "CMYK"
    assert found["train/fake/flat.png"].phash is None and found["train/fake/flat.png"].error is None
    for name, reason in {
        "half.jpg": "truncated", "empty.jpg": "empty file", "text.jpg": "not an image", "bomb.png": "refused"
    }.items():  # fmt: skip
        bad = found[f"train/fake/{name}"]
        assert reason in bad.error and bad.phash is None


def test_hashes_equal_those_of_the_decoded_image(folder):
    source = open_source(folder)
    for i, fact in enumerate(scan(source)):
        if fact.error is None and fact.phash is not None:
            # a JPEG's own luma is not clipped to what RGB can show; these colours are wild
            apart = int(distance(fact.phash, phash(source.image(i))))
            assert apart <= (4 if fact.format == "JPEG" else 0), fact.path
            assert fact.mirrored == mirrored(fact.phash)


def test_cheap_hashes_of_real_faces_equal_those_of_the_decoded_image(shared_dir):
    source = open_source(shared_dir / "data/flickr140k", split="test", max_items=150)
    apart = [int(distance(fact.phash, phash(source.image(i)))) for i, fact in enumerate(scan(source))]
    assert max(apart) <= 1 and np.mean(apart) < 0.1


def test_headers_only_decodes_nothing(folder, monkeypatch):
    def no_decoding(*args):
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", no_decoding)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", no_decoding)
    found = by_name(scan(open_source(folder), pixels=False))
    assert found["train/real/q75.jpg"].quality == 75 and found["train/fake/half.jpg"].error is None
    assert all(fact.phash is None for fact in found.values()) and "refused" in found["train/fake/bomb.png"].error


@pytest.mark.parametrize("quality", range(1, 101))
def test_quality_is_the_encoders(quality):
    buffer = io.BytesIO()
    picture(0, (16, 16)).save(buffer, "JPEG", quality=quality)
    assert jpeg_quality(Image.open(buffer).quantization[0]) == quality


def test_quality_of_foreign_tables_is_the_nearest():
    mine = (np.arange(64) % 8 + 10).tolist()
    assert 60 < jpeg_quality(mine) < 95
    assert jpeg_quality([1] * 64) == 100 and jpeg_quality([255] * 64) == 1


@pytest.mark.parametrize("workers", [1, 3])
def test_processes_threads_and_progress_give_the_same(folder, workers, monkeypatch):
    source = open_source(folder)
    source = source.select(np.arange(200) % len(source))
    expected = [scan(source.select([i]), workers=1)[0] for i in range(len(source) // 16)]
    monkeypatch.setattr(scanning, "PROCESSES_FROM", 0)
    seen = []
    facts = scan(source, workers=workers, progress=lambda done, total: seen.append((done, total)))
    assert facts[: len(expected)] == expected and len(facts) == 200
    assert seen[-1] == (200, 200) and [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_worker_that_dies_loses_nothing(folder, monkeypatch):
    monkeypatch.setattr(scanning, "PROCESSES_FROM", 0)
    source = open_source(folder)
    source = source.select(np.arange(300) % len(source))
    expected = scan(source, workers=1)
    start = scanning.Crew.__init__

    def stillborn(self, *args):
        start(self, *args)
        self.all[0].kill()

    monkeypatch.setattr(scanning.Crew, "__init__", stillborn)
    assert scan(source, workers=2) == expected


def test_hostile_names_and_links(tmp_path):
    os.symlink(tmp_path, tmp_path / "loop")
    os.symlink("nowhere.png", tmp_path / "dangling.png")
    os.symlink("round.png", tmp_path / "round.png")
    names = ["a\nb.png", "c,\"d'.png", " .png", "é.png", os.fsdecode(b"\xff\xfe.png")]
    for i, name in enumerate(names):
        picture(i).save(tmp_path / "x.tmp", "PNG")
        os.rename(tmp_path / "x.tmp", tmp_path / name)
    facts = scan(open_source(tmp_path))
    assert sorted(fact.path for fact in facts) == sorted(names)
    assert all(fact.error is None and fact.phash for fact in facts)


def test_archives(tmp_path):
    buffer = io.BytesIO()
    picture(0).save(buffer, "JPEG")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../../up.jpg", buffer.getvalue())
        archive.writestr("/absolute.jpg", buffer.getvalue())
        archive.writestr("x/good.jpg", buffer.getvalue())
        archive.writestr("x/bad.jpg", buffer.getvalue()[:300])
    before = sorted(tmp_path.rglob("*"))
    found = by_name(scan(open_source(tmp_path / "a.zip")))
    assert found["x/good.jpg"].error is None and "truncated" in found["x/bad.jpg"].error
    assert found["../../up.jpg"].phash == found["x/good.jpg"].phash
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_vanishes_is_told(folder):
    source = open_source(folder)
    (folder / "train/real/q75.jpg").unlink()
    fact = by_name(scan(source))["train/real/q75.jpg"]
    assert fact.error == "no such file" and fact.sha256 == "" and fact.bytes > 0


def test_a_rendered_set_can_be_scanned():
    facts = scan(open_source("demo", max_items=3))
    assert [fact.format for fact in facts] == ["PNG"] * 3 and all(fact.phash for fact in facts)
