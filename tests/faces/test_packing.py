"""Packed archives, read back by zipfile and Pillow, and archives as other programs write them."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from faces.classes import ClassLabels
from faces.dataset import DecodedFaces
from faces.layout import Reading
from faces.packing import pack, stored_png
from faces.preprocess import Preprocess
from faces.procedural.portrait import render_face
from faces.source import open_source


def png(seed: int, side: int = 40) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(render_face(seed, side)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def both(tmp_path):
    root = tmp_path / "set"
    for i in range(8):
        folder = root / ("valid" if i % 4 == 0 else "train") / ("fake" if i % 2 else "real")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(png(i, 40 + i))
    (root / "train/real/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no")
    return root


def read_as_published(path: Path) -> tuple[list[str], np.ndarray, list | None]:
    """What a reader of the published format sees: the PNG members in order of their names, and the labels."""
    Image.init()
    with zipfile.ZipFile(path) as archive:
        names = sorted(n for n in archive.namelist() if os.path.splitext(n)[1].lower() in Image.EXTENSION)
        images = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names])
        labels = json.loads(archive.read("dataset.json"))["labels"]
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
    return names, images, labels


def test_an_archive_of_reals_is_the_published_layout(both, tmp_path):
    source = open_source(both, label=0)
    packed = pack(source, tmp_path / "a.zip", Preprocess(32))
    names, images, labels = read_as_published(tmp_path / "a.zip")
    assert names == [f"train/00000/img{i:08d}.png" for i in range(2)] + [f"valid/00000/img{i:08d}.png" for i in (2, 3)]
    assert images.shape == (4, 32, 32, 3) and images.dtype == np.uint8 and labels is None
    assert (packed.reals, packed.fakes, packed.enlarged, packed.classes) == (4, 0, 0, 0)
    assert [(os.path.basename(name), "truncated" in reason) for name, reason in packed.skipped] == [
        ("broken.jpg", True)
    ]
    pack(open_source(both, label=0, split="train"), tmp_path / "b.zip", Preprocess(32))
    assert read_as_published(tmp_path / "b.zip")[0] == ["00000/img00000000.png", "00000/img00000001.png"]


@pytest.mark.parametrize("crop", ["center", "pad"])
def test_training_gets_the_same_pixels_from_the_archive(both, tmp_path, crop):
    source, how = open_source(both), Preprocess(32, crop)
    pack(source, tmp_path / "a.zip", how)
    again = open_source(tmp_path / "a.zip")
    for split in ("train", "valid"):
        want = DecodedFaces.build(source.select(split=split), how)
        got = DecodedFaces.build(again.select(split=split), how)
        np.testing.assert_array_equal(got.images, want.images)
        np.testing.assert_array_equal(got.labels, want.labels)


def test_the_same_images_make_the_same_archive(both, tmp_path):
    for name, workers in (("a.zip", 1), ("b.zip", 3)):
        pack(open_source(both), tmp_path / name, Preprocess(32), workers=workers)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "b.zip", "set"]


def test_fakes_stay_fakes(both, tmp_path):
    pack(open_source(both, label=1), tmp_path / "fakes.zip", Preprocess(32))
    assert open_source(tmp_path / "fakes.zip").labels.tolist() == [1] * 4
    pack(open_source(both), tmp_path / "both.zip", Preprocess(32), classes="real-fake")
    names, _, labels = read_as_published(tmp_path / "both.zip")
    assert sorted(name for name, _ in labels) == names  # a reader that wants a label for each image finds one
    assert all(label == ("fake" in name) for name, label in labels)
    again = open_source(tmp_path / "both.zip")
    assert sorted(again.labels.tolist()) == [0] * 4 + [1] * 4
    assert sorted((i.label, i.split) for i in again.items) == sorted(
        (i.label, i.split) for i in open_source(both).items if "broken" not in i.path
    )


def test_classes_go_through(tmp_path):
    with zipfile.ZipFile(tmp_path / "theirs.zip", "w") as archive:  # as the published tool writes it
        labels = []
        for i in range(6):
            name = f"00000/img{i:08d}.png"
            archive.writestr(name, png(i, 32))
            labels.append([name, (i * 2) % 3])
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
    theirs = open_source(tmp_path / "theirs.zip")
    assert theirs.labels.tolist() == [0] * 6  # numbers are classes; without folders real and fake all are real
    assert ClassLabels(theirs).of(theirs).tolist() == [0, 2, 1, 0, 2, 1]
    packed = pack(theirs, tmp_path / "ours.zip", Preprocess(16))
    assert packed.classes == 3
    names, images, again = read_as_published(tmp_path / "ours.zip")
    assert again == labels and names == [name for name, _ in labels] and images.shape == (6, 16, 16, 3)
    ours = open_source(tmp_path / "ours.zip")
    assert ClassLabels(ours).of(ours).tolist() == [0, 2, 1, 0, 2, 1]
    pack(theirs, tmp_path / "plain.zip", Preprocess(16), classes="none")
    assert read_as_published(tmp_path / "plain.zip")[2] is None


def test_folders_as_classes(tmp_path):
    for i, name in enumerate(("old", "young", "old")):
        (tmp_path / "people" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "people" / name / f"{i}.png").write_bytes(png(i))
    source = open_source(tmp_path / "people", reading=Reading(classes=True))
    assert pack(source, tmp_path / "auto.zip", Preprocess(32)).classes == 0
    assert pack(source, tmp_path / "c.zip", Preprocess(32), classes="source").classes == 2
    assert [label for _, label in read_as_published(tmp_path / "c.zip")[2]] == [0, 0, 1]


def test_lacking_classes_are_told(both, tmp_path):
    with pytest.raises(UserError, match="^`classes` source: .* lies in no class folder"):
        pack(open_source(both), tmp_path / "c.zip", Preprocess(32), classes="source")
    with pytest.raises(UserError, match="at least 16"):
        pack(open_source(both), tmp_path / "c.zip", Preprocess(8))
    assert not list(tmp_path.glob("*.zip"))


def test_grey_and_transparent_become_rgb(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("L", (40, 50), 77).save(tmp_path / "in/g.png")
    Image.new("RGBA", (40, 50), (10, 20, 30, 0)).save(tmp_path / "in/t.png")
    pack(open_source(tmp_path / "in"), tmp_path / "a.zip", Preprocess(64))
    _, images, _ = read_as_published(tmp_path / "a.zip")
    assert images[0, 5, 5].tolist() == [77] * 3 and images[1, 5, 5].tolist() == [128] * 3


def test_nothing_is_overwritten_and_nothing_half_is_left(both, tmp_path, monkeypatch):
    source = open_source(both)
    (tmp_path / "there.zip").write_bytes(b"mine")
    with pytest.raises(UserError, match="not overwritten"):
        pack(source, tmp_path / "there.zip", Preprocess(32))
    assert (tmp_path / "there.zip").read_bytes() == b"mine"
    (tmp_path / "dangling.zip").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="not overwritten"):
        pack(source, tmp_path / "dangling.zip", Preprocess(32))
    for bad, words in (("a.tar", "end in .zip"), ("no/such/a.zip", "no folder")):
        with pytest.raises(UserError, match=words):
            pack(source, tmp_path / bad, Preprocess(32))
    before = sorted(tmp_path.iterdir())

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path / "b.zip", Preprocess(32), progress=stop)
    monkeypatch.setattr(zipfile.ZipFile, "writestr", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(UserError, match="b.zip: the archive can't be written .No space left"):
        pack(source, tmp_path / "b.zip", Preprocess(32))
    assert sorted(tmp_path.iterdir()) == before


def test_hostile_members(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for name in ("../../up.png", "/abs.png", "a\nb.png", "x\\..\\..\\c.png"):
            archive.writestr(zipfile.ZipInfo(name), png(1))
        archive.writestr("half.png", png(2)[:200])
    (tmp_path / "deep/er").mkdir(parents=True)
    packed = pack(open_source(tmp_path / "evil.zip"), tmp_path / "deep/er/out.zip", Preprocess(32))
    assert packed.reals + packed.fakes >= 3 and any("half.png" in name for name, _ in packed.skipped)
    with zipfile.ZipFile(tmp_path / "deep/er/out.zip") as archive:
        assert not any(".." in name or name[0] == "/" for name in archive.namelist())
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["deep", "er", "evil.zip", "out.zip"]
    with pytest.raises(UserError, match="the only image of .* can't be used: "):
        with zipfile.ZipFile(tmp_path / "ruins.zip", "w") as archive:
            archive.writestr("half.png", png(2)[:200])
        pack(open_source(tmp_path / "ruins.zip"), tmp_path / "x.zip", Preprocess(32))


@pytest.mark.parametrize("size", [(16, 16), (1, 300), (257, 33)])
def test_stored_png_is_read_by_all(size):
    """Pillow, OpenCV (libpng or spng) and the checksums of the container agree."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    data = stored_png(pixels)
    image = Image.open(io.BytesIO(data))
    image.verify()
    assert image.format == "PNG" and image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1], pixels)


def test_what_is_in_no_split_beside_splits_is_not_packed_unsaid(tmp_path):
    """A reader leaves it out, as it does in a folder."""
    rows = ["path,label,split"]
    for i, split in enumerate(["train", "valid", "", "train"]):
        (tmp_path / f"{i}.png").write_bytes(png(i))
        rows.append(f"{i}.png,{i % 2},{split}")
    (tmp_path / "m.csv").write_text("\n".join(rows))
    packed = pack(open_source(tmp_path / "m.csv"), tmp_path / "a.zip", Preprocess(32))
    assert (packed.reals, packed.fakes) == (1, 2) and [Path(name).name for name, _ in packed.skipped] == ["2.png"]
    again = open_source(tmp_path / "a.zip")
    assert len(again) == 3 and not again.notes
