"""dataset.json in archives and folders as others leave them: read or refused, never passed over."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from common.errors import UserError
from faces.classes import ClassLabels
from faces.layout import Reading
from faces.packing import pack
from faces.preprocess import Preprocess
from faces.source import open_source
from tests.photo_folders import plant


def both(root: Path, a: str, b: str, count: int = 2) -> Path:
    return plant(root, *(f"{name}/{i}.png" for name in (a, b) for i in range(count)))


def archive(path: Path, labels, folder: str = "", slash: str = "/", inner: str = "") -> Path:
    """Shards as the published tool makes them; `folder` above all of it, dataset.json in `inner`."""
    with zipfile.ZipFile(path, "w") as file:
        for i in range(4):
            image = plant(path.parent / "tmp", "x.png") / "x.png"
            name = f"{folder}{i // 2:05d}/img{i:08d}.png".replace("/", slash)
            info = zipfile.ZipInfo(name)
            info.filename = name  # as Windows' programs leave them
            file.writestr(info, image.read_bytes())
        file.writestr(f"{inner}dataset.json", labels if isinstance(labels, str) else json.dumps({"labels": labels}))
    return path


FOUR = [[f"{i // 2:05d}/img{i:08d}.png", i % 2] for i in range(4)]


@pytest.mark.parametrize(
    "how",
    [
        {"labels": FOUR},
        {"labels": FOUR, "folder": "mydata/", "inner": "mydata/"},
        {"labels": [["mydata/" + path, c] for path, c in FOUR], "folder": "mydata/"},
        {"labels": [["mydata/" + path, c] for path, c in FOUR], "folder": "mydata/", "inner": "mydata/"},
        {"labels": [[path.replace("/", "\\"), c] for path, c in FOUR], "slash": "\\"},
        {"labels": [[path.replace("/", "\\"), c] for path, c in FOUR]},
        {"labels": "\ufeff" + json.dumps({"labels": FOUR})},
        {"labels": dict(FOUR)},
    ],
)
def test_classes_are_read_wherever_their_file_lies(tmp_path, how):
    spec = archive(tmp_path / "set.zip", **how)
    source = open_source(spec)
    classes = ClassLabels(source)
    assert classes.names == ["0", "1"] and classes.of(source).tolist() == [0, 1, 0, 1]
    pack(source, tmp_path / "out.zip", Preprocess(16))
    again = open_source(tmp_path / "out.zip")
    assert ClassLabels(again).of(again).tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ('{"labels": [["00000/img00000000.png", 0],]}', "not a list of classes"),
        (FOUR + [["00000/img00000000.png", 1]], "img00000000.png has two classes, 0 and 1"),
        (FOUR[:2], "img00000002.png, nor for 1 more of 4"),
    ],
)
def test_a_class_file_that_is_there_is_read_or_refused(tmp_path, labels, told):
    for inner in ("", "deep/"):
        spec = archive(tmp_path / f"set{bool(inner)}.zip", labels, folder=inner, inner=inner)
        source = open_source(spec)
        with pytest.raises(UserError, match="^`cond`: .*dataset.json.*" + told):
            ClassLabels(source)
        with pytest.raises(UserError):
            pack(source, tmp_path / "out.zip", Preprocess(16))  # no classes are dropped without a word


def test_divisions_of_an_archive_are_no_classes(tmp_path):
    with pytest.raises(UserError, match=r"says that there are no classes \(null\)"):
        ClassLabels(open_source(archive(tmp_path / "a.zip", None)))
    with pytest.raises(UserError, match="a folder that is a number, as archives are divided"):
        ClassLabels(open_source(both(tmp_path / "b", "00000", "00001")))
    people = both(tmp_path / "c", "old/00000", "young/00000")
    assert ClassLabels(open_source(people, reading=Reading(classes=True))).names == ["old", "young"]


def test_classes_of_a_manifest(tmp_path):
    """A manifest made of an archive (`prepare_data.py split`) keeps the archive's classes."""
    archive(tmp_path / "set.zip", FOUR)
    rows = "".join(f"set.zip/{path},0\n" for path, _ in FOUR)
    (tmp_path / "m.csv").write_text("path,label\n" + rows)
    source = open_source(tmp_path / "m.csv")
    assert ClassLabels(source).of(source).tolist() == [0, 1, 0, 1]


# ---- the cases that were reported -----------------------------------------------------------------------------------


def test_reported_classes(shared_dir):
    cases = shared_dir / "cases/classes"
    if not cases.is_dir():
        pytest.skip(f"no {cases}")
    for name in ("back.zip", "wrapped.zip"):
        source = open_source(cases / name)
        assert ClassLabels(source).of(source).tolist() == [0, 1] * 20
    for name, told in (("null.zip", "no classes"), ("commafolder", "not a list of classes")):
        with pytest.raises(UserError, match=told):
            ClassLabels(open_source(cases / name))
