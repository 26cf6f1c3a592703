"""Samples on disk: nothing half-written, nothing made twice, nothing mixed."""

import csv
import dataclasses
import os

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from synth.options import ImageFile, Rendering
from synth.writer import COLUMNS, MANIFEST, SampleSettings, SampleWriter, refuse_existing, write_table

SETTINGS = SampleSettings("ab" * 32, Rendering(psi=0.7))


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8), dtype=np.uint8)


def rows(folder):
    with open(folder / MANIFEST, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_files_and_manifest(tmp_path, images):
    with SampleWriter(tmp_path / "a" / "b", SETTINGS) as writer:
        writer.write([0, 1, 5, 4_000_000_000], images)
    names = ["seed000000.png", "seed000001.png", "seed000005.png", "seed4000000000.png"]
    for name, image in zip(names, images, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(writer.folder / name)), image.transpose(1, 2, 0))
    listed = rows(writer.folder)
    assert tuple(listed[0]) == COLUMNS
    assert [row["file"] for row in listed] == names
    assert listed[2]["seed"] == "5" and listed[2]["psi"] == "0.7" and listed[2]["network_sha256"] == "ab" * 32
    assert sorted(p.name for p in writer.folder.iterdir()) == sorted([*names, MANIFEST])  # no temporary files left


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_channels(tmp_path, channels, mode):
    image = np.full((1, channels, 4, 4), 9, np.uint8)
    with SampleWriter(tmp_path, SETTINGS) as writer:
        writer.write([0], image)
    assert Image.open(tmp_path / "seed000000.png").mode == mode


def test_jpeg(tmp_path, images):
    with SampleWriter(tmp_path, dataclasses.replace(SETTINGS, file=ImageFile("jpg", 80))) as writer:
        writer.write([3], images[:1])
        assert writer.done(3)
        with pytest.raises(UserError, match="alpha"):
            writer.write([4], np.zeros((1, 4, 8, 8), np.uint8))
    assert Image.open(tmp_path / "seed000003.jpg").format == "JPEG"
    assert rows(tmp_path)[0]["quality"] == "80"
    assert not list(tmp_path.glob(".*.tmp"))


def test_only_what_is_missing_is_made_again(tmp_path, images):
    with SampleWriter(tmp_path, SETTINGS) as writer:
        writer.write([0, 1, 2, 3], images)
    (tmp_path / "seed000001.png").unlink()
    whole = (tmp_path / "seed000002.png").read_bytes()
    (tmp_path / "seed000002.png").write_bytes(whole[:-5])
    (tmp_path / "seed000003.png").write_bytes(b"")
    with SampleWriter(tmp_path, SETTINGS) as writer:
        assert writer.missing([3, 2, 1, 0, 1, 9]) == [3, 2, 1, 9]
        writer.write([1, 2, 3, 9], images)
    with SampleWriter(tmp_path, SETTINGS) as writer:
        assert writer.missing([0, 1, 2, 3, 9]) == []
    assert [row["seed"] for row in rows(tmp_path)] == ["0", "1", "2", "3", "9"]  # listed once


def test_killed_while_appending_to_the_manifest(tmp_path, images):
    with SampleWriter(tmp_path, SETTINGS) as writer:
        writer.write([0, 1, 2, 3], images)
    text = (tmp_path / MANIFEST).read_bytes()
    header = text.index(b"\n") + 1
    for length in [*range(header, len(text), 17), len(text) - 1]:
        (tmp_path / MANIFEST).write_bytes(text[:length])
        with SampleWriter(tmp_path, SETTINGS) as writer:
            assert writer.missing(range(4)) == list(range(text[:length].count(b"\n") - 1, 4))
        assert (tmp_path / MANIFEST).read_bytes() == text[: text[:length].rindex(b"\n") + 1]


def test_killed_between_image_and_manifest(tmp_path, images, monkeypatch):
    with SampleWriter(tmp_path, SETTINGS) as writer:
        writer.write([0], images[:1])
        monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            writer.write([1], images[1:2])
        monkeypatch.undo()
    assert not (tmp_path / "seed000001.png").exists() and not list(tmp_path.glob(".*.tmp"))
    (tmp_path / "seed000001.png").write_bytes(b"unlisted")
    with SampleWriter(tmp_path, SETTINGS) as writer:
        assert writer.missing([0, 1]) == [1]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"network_sha256": "cd" * 32}, "network_sha256"),
        ({"how": Rendering(psi=0.5)}, "psi"),
        ({"file": ImageFile("jpg")}, "jpg"),
        ({"how": Rendering(0.7, noise_mode="none")}, "noise_mode"),
        ({"how": Rendering(0.7, class_index=1)}, "class"),
        ({"how": Rendering(0.7, cutoff=3)}, "cutoff"),
        ({"how": Rendering(0.7, precision="bf16")}, "precision"),
    ],
)
def test_other_settings_are_refused_in_one_line(tmp_path, images, change, named):
    with SampleWriter(tmp_path, SETTINGS) as writer:
        writer.write([0], images[:1])
    with pytest.raises(UserError, match=named) as error:
        SampleWriter(tmp_path, dataclasses.replace(SETTINGS, **change))
    assert "`outdir`" in str(error.value) and "\n" not in str(error.value)


def test_foreign_folders_are_refused(tmp_path):
    (tmp_path / "seed000007.png").write_bytes(b"mine")
    with pytest.raises(UserError, match="without a manifest"):
        SampleWriter(tmp_path, SETTINGS)
    assert (tmp_path / "seed000007.png").read_bytes() == b"mine"
    for text in ("", "a,b\n1,2\n", "\x00\xff", ",".join(COLUMNS) + "\nx.png,one,,,,,,\n", ",".join(COLUMNS) + "\nx\n"):
        (tmp_path / MANIFEST).write_text(text, encoding="latin-1")
        with pytest.raises(UserError, match="manifest"):
            SampleWriter(tmp_path, SETTINGS)
        assert (tmp_path / MANIFEST).read_text(encoding="latin-1") == text


def test_wrong_image_files():
    for wrong in ({"format": "gif"}, {"quality": 0}, {"quality": 101}, {"quality": 80}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            ImageFile(**wrong)


def test_a_manifest_of_version_0_1_is_carried_on(tmp_path, images):
    with SampleWriter(tmp_path, SETTINGS) as writer:
        writer.write([0, 1], images[:2])
    text = (tmp_path / MANIFEST).read_text()
    older = "".join(",".join(line.split(",")[:8]) + "\n" for line in text.splitlines())
    (tmp_path / MANIFEST).write_text(older)
    with pytest.raises(UserError, match="precision"):  # its images were made in fp32, without a cutoff
        SampleWriter(tmp_path, dataclasses.replace(SETTINGS, how=Rendering(0.7, precision="bf16")))
    assert (tmp_path / MANIFEST).read_text() == older
    with SampleWriter(tmp_path, SETTINGS) as writer:
        assert writer.missing([0, 1, 2]) == [2]
        writer.write([2], images[2:3])
    assert rows(tmp_path)[0]["precision"] == "fp32" and len(rows(tmp_path)) == 3
    assert (tmp_path / MANIFEST).read_text().startswith(text)


def test_nothing_is_replaced_without_leave(tmp_path):
    (tmp_path / "b").touch()
    refuse_existing([tmp_path / "a"], False)
    refuse_existing([tmp_path / "a", tmp_path / "b"], True)
    for force, advice in ((False, "`force`"), (None, "another place$")):
        with pytest.raises(UserError, match=advice):
            refuse_existing([tmp_path / "a", tmp_path / "b"], force)
    with pytest.raises(UserError, match="there already"):
        refuse_existing([tmp_path], True)  # a folder is never replaced


def test_tables(tmp_path):
    write_table(tmp_path / "t.csv", [{"a": 1, "b": None}, {"a": "x,y", "b": 2.5}], ("a", "b"))
    assert (tmp_path / "t.csv").read_bytes() == b'a,b\n1,\n"x,y",2.5\n'
