"""Classes of a source: folder names, dataset.json, and what is refused."""

import json
import re
import zipfile

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from faces.classes import ClassLabels
from faces.layout import Reading
from faces.packing import pack
from faces.preprocess import Preprocess
from faces.source import open_source


def put(root, *paths):
    for i, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (i, 0, 0)).save(root / path)
    return open_source(root, reading=Reading(classes=True))


def test_folders_are_classes_in_natural_order(tmp_path):
    source = put(tmp_path, "class10/a.png", "class2/b.png", "class2/deep/c.png", "class10/d.png")
    labels = ClassLabels(source)
    assert labels.names == ["class2", "class10", "deep"]
    paths = ["class2/b.png", "class2/deep/c.png", "class10/a.png", "class10/d.png"]
    assert [item.path for item in source.items] == paths
    assert labels.of(source).tolist() == [0, 2, 1, 1]


def test_folders_of_labels_and_splits_are_no_classes(tmp_path):
    source = put(tmp_path, "train/real/old/a.png", "train/real/young/b.png", "valid/real/old/c.png", "train/fake/d.png")
    labels = ClassLabels(source)
    assert labels.names == ["old", "young"]
    assert dict(zip((i.path for i in source.items), labels.of(source).tolist(), strict=True)) == {
        "train/fake/d.png": -1, "train/real/old/a.png": 0, "train/real/young/b.png": 1, "valid/real/old/c.png": 0,
    }  # fmt: skip
    assert labels.of(source.select(split="valid")).tolist() == [0]


@pytest.mark.parametrize("packed", [False, True])
def test_dataset_json_decides(tmp_path, packed):
    """The published layout, in a folder and in a zip; classes that no image has are counted, too."""
    put(tmp_path / "set", "00000/a.png", "00000/b.png", "00001/c.png")
    told = {"labels": [["00000/a.png", 3], ["00000\\b.png", [0, 1, 0, 0]], ["00001/c.png", 0]]}
    (tmp_path / "set" / "dataset.json").write_text(json.dumps(told))
    spec = tmp_path / "set"
    if packed:
        spec = tmp_path / "set.zip"
        with zipfile.ZipFile(spec, "w") as archive:
            for path in (p for p in (tmp_path / "set").rglob("*") if p.is_file()):
                archive.write(path, path.relative_to(tmp_path / "set"))
    source = open_source(spec)
    labels = ClassLabels(source)
    assert labels.names == ["0", "1", "2", "3"] and labels.of(source).tolist() == [3, 1, 0]
    assert labels.of(source).dtype == np.int64


@pytest.mark.parametrize(
    "paths, told, words",
    [
        (["a.png", "x/b.png", "y/c.png"], None, "a.png lies in no class folder; put"),
        (["x/a.png", "x/b.png"], None, "are of one class"),
        (["x/a.png", "y/b.png"], {"labels": [["x/a.png", 0]]}, "names no class for y/b.png; complete it"),
        (["x/a.png", "y/b.png"], {"labels": [["x/a.png", 0], ["y/b.png", 0]]}, "are of one class"),
        (["x/a.png", "y/b.png"], {"labels": [["x/a.png", 0.5]]}, "neither a whole number nor a one-hot list"),
        (["x/a.png", "y/b.png"], {"labels": [["x/a.png", [1, 1]]]}, "one-hot"),
        (["x/a.png", "y/b.png"], {"labels": [["x/a.png", -1]]}, "can't be -1"),
        (["x/a.png", "y/b.png"], {"labels": {"x/A.png": 0, "y/b.png": 1}}, "(but for x/A.png, which is not there)"),
        (["x/a.png", "y/b.png"], '{"labels": {"x/a.png": 0, "y/b.png": 1, "x/a.png": 1}}', "'x/a.png' is there twice"),
        (["x/a.png", "y/b.png"], {"label": []}, "not a list of classes"),
        (["x/a.png", "y/b.png"], [], "not a list of classes"),
    ],
)
def test_what_is_no_set_of_classes(tmp_path, paths, told, words):
    source = put(tmp_path, *paths)
    if told is not None:
        (tmp_path / "dataset.json").write_text(told if isinstance(told, str) else json.dumps(told))
    with pytest.raises(UserError, match=re.escape(words)) as refused:
        ClassLabels(source)
    assert str(refused.value).startswith("`cond`: ")


def test_a_dataset_json_without_labels_leaves_the_folders(tmp_path):
    source = put(tmp_path, "x/a.png", "y/b.png")
    (tmp_path / "dataset.json").write_text('{"labels": null}')
    assert ClassLabels(source).names == ["x", "y"]


@pytest.mark.parametrize("packed", [False, True])
def test_what_a_dataset_json_names_and_is_not_there_is_said(tmp_path, packed):
    """Whatever the file's name is written like; `./` before a path says nothing. Fakes are there and need no class."""
    source = put(tmp_path / "set", "real/a.png", "real/b.png", "fake/c.png")
    told = {"labels": [["./real/a.png", 0], ["real/b.png", 1], ["fake/c.png", 1], ["real/gone.png", 1], ["d.png", 0]]}
    (tmp_path / "set" / "Dataset.JSON").write_text(json.dumps(told))
    if packed:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for path in sorted((tmp_path / "set").rglob("*.*")):
                archive.write(path, path.relative_to(tmp_path / "set"))
        source = open_source(tmp_path / "set.zip")
    (note,) = ClassLabels(source).notes
    assert note.endswith("ataset.JSON: names classes of 2 images that are not there, like real/gone.png")
    done = pack(source, tmp_path / "out.zip", Preprocess(16), classes="source")
    assert done.notes == [note] and done.classes == 2


def test_drawn_faces_have_no_classes():
    with pytest.raises(UserError, match="demo has no classes"):
        ClassLabels(open_source("demo"))
