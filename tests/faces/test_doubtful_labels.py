"""Where nothing says for certain what is real and fake: it is asked or said, never passed over."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from common.errors import UserError
from discriminator.inputs import expand
from faces.layout import Reading, label_word, split_word
from faces.manifest import read_manifest
from faces.source import FaceSource, open_source
from tests.photo_folders import plant


def labels(source: FaceSource) -> dict[str, int]:
    return {item.path: item.label for item in source.items}


def table(root: Path, text: str, name: str = "m.csv") -> str:
    plant(root, *(f"p/{i}.png" for i in range(4)))
    (root / name).write_text(text)
    return str(root / name)


# ---- folders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("real", "fake"),
    [
        ("RealFaces", "FakeFaces"),
        ("real1", "fake1"),
        ("Real 2", "Fake(2)"),
        ("trainReal", "trainFake"),
        ("label_0", "label_1"),
        ("class0", "class1"),
        ("realImages", "AIFaces"),
    ],
)
def test_humps_and_numbers_part_words(tmp_path, real, fake):
    source = open_source(plant(tmp_path / "set", f"{real}/1.png", f"{fake}/1.png"))
    assert labels(source) == {f"{real}/1.png": 0, f"{fake}/1.png": 1}


def test_words_that_are_known_stay_whole():
    assert [label_word(name) for name in ("Face2Face", "FaceSwap", "ReAl", "NotReal", "RealESRGAN")] == [
        1, 1, 0, None, None,
    ]  # fmt: skip
    assert [split_word(name) for name in ("train2017", "Val_1", "Set2")] == ["train", "valid", None]


@pytest.mark.parametrize("name", ["ai", "fakes_ffhq", "stylegan2-samples"])
def test_one_folder_that_sounds_of_fakes(tmp_path, name):
    for root in (plant(tmp_path / name, "1.png"), plant(tmp_path / "outer", f"{name}/1.png")):
        source = open_source(root)
        assert set(source.labels) == {0} and f"say `labels` fake={name}" in source.notes[0]
        assert set(open_source(root, reading=Reading(f"fake={name}")).labels) == {1}


def test_folders_that_differ_in_a_number_alone_are_said_to_be_one(tmp_path):
    """Classes 1 and 2 may be real and fake; part1 and part2, 00000 and 00001 are pieces."""
    for names in (("1", "2"), ("00", "01"), ("klasse1", "klasse2")):
        source = open_source(plant(tmp_path / names[0], *(f"{name}/1.png" for name in names)))
        assert set(source.labels) == {0}
        assert f"{names[0]}, {names[1]} are taken for pieces of one folder, so all 2 images" in source.notes[0]
    assert open_source(plant(tmp_path / "a", "part1/1.png", "part2/1.png")).notes == ()
    assert open_source(plant(tmp_path / "b", "1/1.png", "2/1.png"), reading=Reading(classes=True)).notes == ()


def test_what_is_left_out_is_named_by_its_own_folder(tmp_path):
    source = open_source(plant(tmp_path / "s", "ff/real/1.png", "ff/simswap/1.png", "cdf/real/1.png"))
    assert source.notes == ("1 image outside the real and fake folders, left out (simswap)",)


def test_names_that_contradict_each_other_on_one_path(tmp_path):
    source = open_source(plant(tmp_path / "s", "fake/real/1.png", "real/x/1.png", "real/y/1.png"))
    assert labels(source)["fake/real/1.png"] == 0
    assert "1 image in folders whose names contradict each other, like fake/real: the nearest" in source.notes[0]
    assert open_source(plant(tmp_path / "deepfakes", "deepfake_set/real/1.png", "deepfake_set/fake/1.png")).notes == ()


def test_empty_folders_of_a_class_are_said(tmp_path):
    root = plant(tmp_path / "s", "train/real/1.png", "train/fake/1.png")
    for name in ("test/real", "test/fake", "train/real/.hidden", "notes"):
        (root / name).mkdir(parents=True)
    assert open_source(root).notes == ("no images in test",)
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.write(root / "train/real/1.png", "real/1.png")
        archive.writestr("fake/", b"")
    assert open_source(tmp_path / "s.zip").notes == ("no images in fake",)


def test_links_tell_labels_where_the_files_do_not(tmp_path):
    """A pool of photos, and splits made of links to them."""
    root = plant(tmp_path / "s", "pool/1.png", "pool/2.png")
    for link, file in (("train/real/1.png", "1.png"), ("test/fake/2.png", "2.png")):
        (root / link).parent.mkdir(parents=True)
        os.symlink(f"../../pool/{file}", root / link)
    source = open_source(root)
    assert labels(source) == {"test/fake/2.png": 1, "train/real/1.png": 0} and source.splits == {"train", "test"}


def test_a_photo_linked_as_both_classes_is_said(tmp_path):
    plant(tmp_path / "pool", "1.png", "2.png")
    for link in ("real/1.png", "fake/1.png", "fake/2.png"):
        (tmp_path / "s" / link).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(tmp_path / "pool" / link[-5:], tmp_path / "s" / link)
    source = open_source(tmp_path / "s")
    assert "(like real/1.png, which is fake/1.png)" in source.notes[0]
    (tmp_path / "u").mkdir()
    for name in ("real", "fake"):
        os.symlink(tmp_path / "pool", tmp_path / "u" / name)
    assert "a link to what is listed under another name, left out (like real)" in open_source(tmp_path / "u").notes


def test_what_systems_leave_is_no_photo(tmp_path):
    root = plant(tmp_path / "s", "real/1.png", "real/@eaDir/2.png", "$RECYCLE.BIN/3.png", "#recycle/fake/4.png")
    assert list(labels(open_source(root))) == ["real/1.png"]


def test_a_table_of_labels_in_a_folder_is_pointed_to(tmp_path):
    table(tmp_path / "s", "path,label\np/0.png,0\np/1.png,1\n", "labels.csv")
    (tmp_path / "s" / "names.csv").write_text("path,who\np/0.png,Ann\n")
    source = open_source(tmp_path / "s")
    assert set(source.labels) == {0} and source.notes[-1].startswith("labels.csv in it seems to say which are real and")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "file_name,label\n0.png,1\n"),
        ("metadata.jsonl", '{"file_name": "0.png", "label": 1}\n{"file_name": "1.png", "label": 0}\n'),
    ],
)
def test_lists_beside_the_images_are_pointed_to(tmp_path, name, text):
    """As image folders of the field's libraries have them, one for each split."""
    root = plant(tmp_path / "s", "train/0.png", "train/1.png", "test/0.png")
    (root / "train" / name).write_text(text)
    assert f"train/{name} in it seems to say which are real" in open_source(root).notes[-1]
    assert open_source(plant(root, "train/real/0.png", "train/fake/0.png")).notes[0].startswith("3 images outside")


def test_metadata_that_folders_names_go_before(tmp_path):
    root = plant(tmp_path / "s", "real/a/0.png", "fake/b/0.png")
    (root / "metadata.json").write_text('{"a.mp4": {"label": "FAKE"}, "b.mp4": {"label": "REAL"}}')
    assert open_source(root).notes == ("metadata.json in it is not looked at, for folders' names tell labels",)


def test_metadata_of_images_and_of_unknown_splits(tmp_path):
    plant(tmp_path, "a/0.png", "b/0.png")
    (tmp_path / "m.json").write_text('{"a/0.png": {"label": "real"}, "b/0.png": {"label": "fake"}}')
    assert labels(open_source(tmp_path / "m.json")) == {"a/0.png": 0, "b/0.png": 1}
    (tmp_path / "metadata.json").write_text(
        '{"a.mp4": {"label": "REAL", "split": "sometimes"}, "b.mp4": {"label": "FAKE", "split": null}}'
    )
    with pytest.raises(UserError, match="a.mp4: split is 'sometimes'; it must be train, valid, test or nothing"):
        open_source(tmp_path)


# ---- tables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "fake", "real"),
    [
        ("ai_generated", "1", "0"),
        ("is_synthetic", "True", "False"),
        ("Authentic", "no", "yes"),
        ("is_fake", "AI", "human"),
        ("AI", "1", "0"),
    ],
)
def test_more_names_of_columns(tmp_path, column, fake, real):
    source = open_source(table(tmp_path, f"path,{column}\np/0.png,{fake}\np/1.png,{real}\np/2.png,nan\n"))
    assert labels(source) == {"p/0.png": 1, "p/1.png": 0}
    assert f"labels are those of its column «{column}» (1 real, 1 fake)" in source.notes[0]
    assert "1 image without a label, left out" in source.notes[1]


@pytest.mark.parametrize("column", ["class", "is_fake", "target", "type"])
def test_a_column_of_labels_that_nobody_understands_is_asked_for(tmp_path, column):
    """Before: all images counted as real, without a word."""
    rows = "p/0.png,x\np/1.png,y\np/2.png,x\n"
    spec = table(tmp_path, f"path,{column}\n{rows}")
    with pytest.raises(UserError, match=f"«{column}» holds 'x' and 'y', and nothing else says .* real=x,fake=y or the"):
        open_source(spec)
    assert labels(open_source(table(tmp_path, f"path,{column}\n{rows}"), reading=Reading(classes=True))) != {}
    if column != "type":
        assert list(open_source(spec, reading=Reading("real=y,fake=x")).labels) == [1, 0, 1]
    mixed = table(tmp_path, f"path,{column}\np/0.png,real\np/1.png,midjourney\np/2.png,fake\n")
    with pytest.raises(
        UserError, match=f"«{column}» holds 'fake' and 'midjourney'; say what that is: `labels` fake=mid"
    ):
        open_source(mixed)


def test_columns_of_other_names_are_said_not_to_count(tmp_path):
    source = open_source(table(tmp_path, "path,answer,who\np/0.png,0,a\np/1.png,1,b\np/2.png,1,c\n"))
    assert source.notes == (
        f"{tmp_path / 'm.csv'}: no column is known to tell real from fake (answer: 0, 1), so all 3 images count as"
        " real; if one does, call it label",
    )
    told = table(tmp_path, "path,answer\nreal/0.png,0\nfake/1.png,1\n")
    plant(tmp_path, "real/0.png", "fake/1.png")
    assert open_source(told).notes == ()


@pytest.mark.parametrize("nothing", ["nan", "None", "N/A", "null", "?", "", "unknown"])
def test_cells_that_say_nothing(tmp_path, nothing):
    spec = table(tmp_path, f"path,label,split\np/0.png,fake,train\np/1.png,{nothing},{nothing}\n")
    found = read_manifest(spec)
    assert found["label"].tolist() == [1, -1] and found["split"].tolist() == ["train", ""]


def test_numbers_that_contradict_each_other_are_said(tmp_path):
    source = open_source(table(tmp_path, "path,label,target\np/0.png,0,1\np/1.png,1,0\n"))
    assert "label is '0' (real here), and «target» '1', like 1 more rows; «label» counts" in source.notes[0]


def test_splits_that_are_not_understood_are_said(tmp_path):
    source = open_source(table(tmp_path, "path,label,set\np/0.png,0,1\np/1.png,1,2\n"))
    assert source.splits == set() and source.notes[0].endswith("its column «set» is not read as splits (1, 2)")


@pytest.mark.parametrize("other", ["./p/0.png", "p/../p/0.png", "{root}/p/0.png"])
def test_one_image_written_in_two_ways_is_one_image(tmp_path, other):
    other = other.format(root=tmp_path)
    with pytest.raises(UserError, match="is real in row 1 and fake in row 3"):
        open_source(table(tmp_path, f"path,label\np/0.png,0\np/1.png,1\n{other},1\n"))
    source = open_source(table(tmp_path, f"path,label\np/0.png,0\np/1.png,1\n{other},0\n"))
    assert len(source) == 2 and "1 image listed before in it" in source.notes[0]


def test_addresses_and_utf16_without_its_mark_are_told(tmp_path):
    with pytest.raises(UserError, match="addresses are not fetched: download"):
        open_source(table(tmp_path, "path\nhttps://example.com/a.png\n"))
    (tmp_path / "w.csv").write_bytes("path,label\np/0.png,1\n".encode("utf-16-le"))
    with pytest.raises(UserError, match="write it again as UTF-8"):
        open_source(tmp_path / "w.csv")


def test_a_table_with_tabs_is_one_for_judging_too(tmp_path):
    table(tmp_path, "path\tlabel\np/0.png\tperhaps\np/1.png\t1\n", "m.tsv")
    assert list(expand([str(tmp_path / "m.tsv")])) == [str(tmp_path / f"p/{i}.png") for i in range(2)]


# ---- a loose labels.json ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"p/0.png": "real", "p/1.png": "fake"}', "seems to say which are real and fake"),
        ('{"p/0": "real", "p/1": "fake"}', "seems to say which are real and fake"),
        ('{"P/0.PNG": 0}', "seems to say which are real and fake"),
        ('[{"path": "p/0.png", "label": 7}]', "seems to say which are real and fake"),
        ('{"labels": [["p/0.png", 0]]}', "is built as a dataset.json of classes, and is not looked at: call it so"),
        ('{"resolution": 256, "name": "mine"}', ""),
        ('["p/0.png"]', ""),
        ("", ""),
    ],
)
def test_a_loose_list_in_a_folder_is_not_passed_over(tmp_path, text, said):
    table(tmp_path, text, "labels.json")
    notes = open_source(tmp_path).notes
    assert [note.startswith("labels.json in it " + said) for note in notes] == ([True] if said else [])
    if said:
        plant(tmp_path, "real/1.png", "fake/1.png")
        assert not any("labels.json" in note for note in open_source(tmp_path).notes), "folders tell"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"p/0.png": "real", "p/1.png": "fake", "p/0.png": "fake"}', r"'p/0.png' is there twice, with two values"),
        ('{"p/0.png": "rael", "p/1.png": "fake"}', "row 1: label is 'rael'"),
        ('{"labels": [["p/0.png", 0]]}', "call it dataset.json, and give the folder that it lies in"),
        ('{"p/0.png": [1]}', "none of the lists known here"),
        ("", "not JSON"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(tmp_path, text, said):
    with pytest.raises(UserError, match=said):
        open_source(table(tmp_path, text, "labels.json"))


def test_names_of_a_list_that_are_not_there_are_said(tmp_path):
    source = open_source(table(tmp_path, '{"P/0.PNG": 0, "p/1.png": "fake", "gone.png": 0}', "labels.json"))
    assert source.labels.tolist() == [0, 1, 0] and "2 images not there, like" in source.notes[0]
