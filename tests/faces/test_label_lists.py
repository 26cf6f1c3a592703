"""Tables and lists of the field: which column and which file say what is real and what is fake."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from faces.field_lists import read_list
from faces.layout import Reading
from faces.source import FaceSource, open_source
from tests.photo_folders import plant


def by_path(source: FaceSource) -> dict[str, int]:
    return {item.path: item.label for item in source.items}


# ---- tables -------------------------------------------------------------------------------------------------------


def table(folder: Path, text: str, name: str = "m.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.fixture
def photos(tmp_path):
    return plant(tmp_path, *(f"p/{i}.png" for i in range(6)))


def test_numbers_against_words(photos):
    """As the 140k set's own lists: 1 is real."""
    rows = "".join(f"p/{i}.png,{int(i < 3)},{'real' if i < 3 else 'fake'}\n" for i in range(6))
    spec = table(photos, "path,label,label_str\n" + rows)
    with pytest.raises(UserError, match=r"row 1: label is '1' \(fake here\) and «label_str» is 'real', like 5 more"):
        open_source(spec)
    assert open_source(spec, reading=Reading("real=1,fake=0")).labels.tolist() == [0, 0, 0, 1, 1, 1]
    one = rows.replace("p/0.png,1", "p/0.png,0").replace(",1,real", ",0,real").replace(",0,fake", ",1,fake")
    assert open_source(table(photos, "path,label,label_str\n" + one)).labels.tolist() == [0, 0, 0, 1, 1, 1]
    wrong = table(photos, "path,label,label_str\n" + one.replace("p/5.png,1", "p/5.png,0"))
    with pytest.raises(UserError, match=r"row 6: label is '0' \(real here\) and «label_str» is 'fake', like 0 more"):
        open_source(wrong)
    with pytest.raises(UserError, match="holds nothing of that name in its labels"):
        open_source(spec, reading=Reading("real=A,fake=B"))


@pytest.mark.parametrize(
    ("header", "cells", "want"),
    [
        ("label_str", ("real", "fake"), (0, 1)),
        ("class", ("REAL", "FAKE"), (0, 1)),
        ("category", ("original", "Deepfakes"), (0, 1)),
        ("what", ("Real Images", "AI-Generated Images"), (0, 1)),
        ("is_fake", ("0", "1"), (0, 1)),
        ("is_real", ("True", "False"), (0, 1)),
        ("target", ("0", "1"), (0, 1)),
    ],
)
def test_labels_in_another_column_are_used_and_said(photos, header, cells, want):
    spec = table(photos, f"filename,{header}\np/0.png,{cells[0]}\np/1.png,{cells[1]}\n")
    source = open_source(spec)
    assert source.labels.tolist() == list(want)
    assert f"labels are those of its column «{header}»" in source.notes[0]


def test_who_asks_for_no_labels_gets_the_paths(photos):
    """`detect.py` judges what a list names, whatever it says of labels."""
    from faces.manifest import read_manifest

    spec = table(photos, "path,label,label_str\np/0.png,1,real\np/1.png,perhaps,fake\n")
    assert read_manifest(spec, labels=False)["path"].tolist() == ["p/0.png", "p/1.png"]


def test_words_that_nobody_knows_are_asked_for(photos):
    spec = table(photos, "path,label\np/0.png,klasse1\np/1.png,klasse2\n")
    with pytest.raises(UserError, match="row 1: label is 'klasse1'.*`labels` real=klasse1,fake=klasse2"):
        open_source(spec)
    assert open_source(spec, reading=Reading("real=klasse2,fake=klasse1")).labels.tolist() == [1, 0]


def test_splits_in_another_column(photos):
    source = open_source(table(photos, "path,label,subset\np/0.png,0,train\np/1.png,1,dev\np/2.png,1,\n"))
    assert [item.split for item in source.items] == ["train", "valid", None]


# ---- lists of the field -------------------------------------------------------------------------------------------


def test_lines_of_path_and_label(tmp_path):
    plant(tmp_path, "p/a.png", "p/b c.png", "p/d.png")
    for text in ("# two columns\np/a.png 0\np/b c.png 1\n\np/d.png fake\n", "p/a.png\t0\np/b c.png\t1\np/d.png\t1\n"):
        source = open_source(table(tmp_path, text, "list.txt"))
        assert by_path(source) == {"p/a.png": 0, "p/b c.png": 1, "p/d.png": 1}
        assert "`labels` real=1,fake=0" in source.notes[0]
    turned = open_source(tmp_path / "list.txt", reading=Reading("real=1,fake=0"))
    assert turned.labels.tolist() == [1, 0, 0]
    bare = open_source(table(tmp_path, "p/a.png\np/b c.png\n", "bare.lst"))
    assert by_path(bare) == {"p/a.png": 0, "p/b c.png": 0}
    with pytest.raises(UserError, match="line 2: 'p/b.png maybe' is not a path and a label"):
        open_source(table(tmp_path, "p/a.png 0\np/b.png maybe\n", "bad.txt"))


def test_metadata_of_dfdc(tmp_path):
    plant(tmp_path, "aaa/0.png", "aaa/1.png", "bbb_000.png", "bbb_001.png", "other.png")
    real = {"label": "REAL", "split": "train"}
    fake = {"label": "FAKE", "split": "train", "original": "bbb.mp4"}
    entries = {"aaa.mp4": fake, "bbb.mp4": real, "ccc.mp4": real}
    (tmp_path / "metadata.json").write_text(json.dumps(entries))
    for spec in (tmp_path, tmp_path / "metadata.json"):
        source = open_source(spec)
        assert by_path(source) == {"aaa/0.png": 1, "aaa/1.png": 1, "bbb_000.png": 0, "bbb_001.png": 0}
        assert source.splits == {"train"} and set(source.manifest["identity"]) == {"bbb"}
        notes = " ".join(source.notes)
        assert "1 image beside it of no video" in notes and "1 of its 3 videos have no frames" in notes
    empty = tmp_path / "videos"
    empty.mkdir()
    (empty / "metadata.json").write_text(json.dumps(entries))
    with pytest.raises(UserError, match="no frames of them lie beside it; .* prepare_data.py frames"):
        read_list(empty / "metadata.json")


def test_records_line_by_line(tmp_path):
    plant(tmp_path, "a.png", "b.png")
    lines = '{"file_name": "a.png", "label": "real"}\n\n{"file_name": "b.png", "label": 1}\n'
    assert open_source(table(tmp_path, lines, "metadata.jsonl")).labels.tolist() == [0, 1]
    odd = lines.replace("}", ', "text": "a\u2028b\x85c"}').replace(
        "\n", "\r\n"
    )  # no ends of lines, in JSON nor elsewhere
    assert open_source(table(tmp_path, odd, "metadata.jsonl")).labels.tolist() == [0, 1]
    plant(tmp_path, "a\u2028b.png")
    assert open_source(table(tmp_path, "a.png 0\na\u2028b.png 1\n", "list.txt")).labels.tolist() == [0, 1]
    for bad, told in (("{", "line 1: not JSON"), ("[1]", "line 1: not a record"), ("", "without images")):
        with pytest.raises(UserError, match=told):
            open_source(table(tmp_path, bad, "bad.jsonl"))


def bench(split_frames: dict) -> str:
    """A list as DeepfakeBench's: set, label, split, compression, video."""
    tree: dict = {}
    for (label, split, video), frames in split_frames.items():
        inner = tree.setdefault(label, {}).setdefault(split, {}).setdefault("c23", {})
        inner[video] = {"label": label, "frames": frames}
    return json.dumps({"FaceForensics++": tree})


def test_lists_of_deepfakebench(tmp_path):
    names = [f"ff/{v}/{i}.png" for v in ("000", "000_003") for i in range(2)]
    plant(tmp_path / "data", *names)
    (tmp_path / "data/lists").mkdir()
    text = bench({("FF-real", "train", "000"): [n.replace("/", "\\") for n in names[:2]],
                  ("FF-DF", "val", "000_003"): names[2:]})  # fmt: skip
    spec = table(tmp_path / "data/lists", text, "FaceForensics++.json")
    source = open_source(spec)
    assert [(i.path, i.label, i.split) for i in source.items] == [
        (names[0], 0, "train"), (names[1], 0, "train"), (names[2], 1, "valid"), (names[3], 1, "valid"),
    ]  # fmt: skip
    assert source.manifest["generator"].tolist() == ["", "", "FF-DF", "FF-DF"]
    assert source.manifest["identity"].tolist() == ["000", "000", "000_003", "000_003"]
    celeb = bench({("CelebDFv2_real", "train", "a"): names[:2], ("CelebDFv2_fake", "test", "b"): names[2:]})
    assert open_source(table(tmp_path / "data", celeb, "celeb.json")).labels.tolist() == [0, 0, 1, 1]
    odd = bench({("Mystery", "train", "a"): names})
    with pytest.raises(UserError, match="'Mystery'.*`labels` real=Mystery"):
        open_source(table(tmp_path / "data", odd, "odd.json"))


def test_records_in_json(tmp_path):
    plant(tmp_path, "a.png", "b.png")
    records = [{"image": "a.png", "label": "real"}, {"image": "b.png", "label": "fake"}]
    for i, data in enumerate((records, {"a.png": 0, "b.png": "fake"})):
        assert open_source(table(tmp_path, json.dumps(data), f"{i}.json")).labels.tolist() == [0, 1]
    for name, data, told in (
        ("c", "{", "not JSON"),
        ("d", "7", "none of the lists"),
        ("e", '{"labels": []}', "classes"),
    ):
        with pytest.raises(UserError, match=told):
            open_source(table(tmp_path, data, f"{name}.json"))


# ---- the cases that were reported -----------------------------------------------------------------------------------


def counts(source: FaceSource) -> tuple[int, int]:
    return int((source.labels == 0).sum()), int((source.labels == 1).sum())


def test_reported_labels(shared_dir):
    cases = shared_dir / "cases/labels"
    if not cases.is_dir():
        pytest.skip(f"no {cases}")
    assert counts(open_source(cases / "lab_real_deepfake")) == (12, 12)
    with pytest.raises(UserError, match="«label_str» is 'real', like 23 more rows"):
        open_source(cases / "train140k.csv")
    said = open_source(cases / "train140k.csv", reading=Reading("real=1,fake=0"))
    assert said.labels.tolist() == [0] * 12 + [1] * 12
    assert np.array_equal(open_source(cases / "str_only.csv").labels, said.labels)
    split = open_source(cases / "splits")
    assert split.splits == {"train", "test"} and counts(split.select(split="test")) == (20, 20)
