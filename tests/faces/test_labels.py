"""What is real and what is fake: known names, a person's word, or an error. Silence is no label."""

from __future__ import annotations

import json
import shlex
import zipfile
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from faces.classes import ClassLabels
from faces.field_lists import read_list
from faces.layout import FolderNames, LabelRule, Reading, label_word, split_word
from faces.naming import targets
from faces.packing import pack
from faces.preprocess import Preprocess
from faces.source import FaceSource, open_source
from faces.tabulate import table_for
from tests.photo_folders import plant


def both(root: Path, a: str, b: str, count: int = 2) -> Path:
    return plant(root, *(f"{name}/{i}.png" for name in (a, b) for i in range(count)))


def by_path(source: FaceSource) -> dict[str, int]:
    return {item.path: item.label for item in source.items}


# ---- names of folders ---------------------------------------------------------------------------------------------

PAIRS = [
    ("real", "fake"), ("Real", "FAKE"), ("reals", "fakes"), ("real", "deepfake"), ("real", "Deepfakes"),
    ("nature", "ai"), ("original", "Deepfakes"), ("original", "manipulated"), ("0", "1"), ("0_real", "1_fake"),
    ("1_real", "0_fake"), ("real_faces", "fake_faces"), ("Real Images", "AI-Generated Images"),
    ("real-images", "ai_images"), ("Celeb-real", "Celeb-synthesis"), ("YouTube-real", "Celeb-synthesis"),
    ("authentic", "tampered"), ("pristine", "synthetic"), ("training_real", "training_fake"), ("genuine", "forged"),
    ("original_sequences", "manipulated_sequences"), ("real", "Face2Face"), ("original", "NeuralTextures"),
    ("real", "generated"), ("natural", "GAN"), ("original", "altered"), ("live", "spoof"),
    ("bona fide", "morphed"), ("real_photos", "GAN generated faces"),
]  # fmt: skip


@pytest.mark.parametrize(("real", "fake"), PAIRS)
def test_pairs_of_the_field(tmp_path, real, fake):
    source = open_source(both(tmp_path / "set", real, fake))
    assert by_path(source) == {f"{name}/{i}.png": label for label, name in ((0, real), (1, fake)) for i in range(2)}


@pytest.mark.parametrize(("real", "fake"), PAIRS)
def test_pairs_below_splits_and_generators(tmp_path, real, fake):
    """As GenImage has them: generator/split/label."""
    names = [f"biggan/{split}/{name}/1.png" for split in ("train", "val") for name in (real, fake)]
    source = open_source(plant(tmp_path / "set", *names))
    assert by_path(source) == {name: int(name.split("/")[2] == fake) for name in names}
    assert {i.path: i.split for i in source.items} == {n: "valid" if "/val/" in n else "train" for n in names}


@pytest.mark.parametrize(
    "name",
    ["surreal", "unreal", "real_and_fake", "not_real", "fakebook", "natureza", "ai", "original", "faces", "", "1"],
)
def test_what_tells_nothing_by_itself(name):
    assert label_word(name) is None and split_word(name) is None


def test_words_of_many_meanings_need_their_opposite_beside_them(tmp_path):
    """`nature` beside `city` is a class, `0` and `1` among ten are classes, and below `real` all of them are."""
    with pytest.raises(UserError, match="city and nature"):
        open_source(both(tmp_path / "a", "nature", "city"))
    digits = open_source(plant(tmp_path / "b", *(f"{i}/x.png" for i in range(10))))
    assert set(digits.labels) == {0}
    inside = open_source(plant(tmp_path / "c", "real/0/a.png", "real/1/b.png", "fake/0/c.png", "fake/1/d.png"))
    assert by_path(inside) == {"real/0/a.png": 0, "real/1/b.png": 0, "fake/0/c.png": 1, "fake/1/d.png": 1}
    assert "0 is real" not in " ".join(inside.notes)
    told = open_source(both(tmp_path / "d", "0", "1"))
    assert "`labels` fake=0,real=1" in told.notes[0]


def test_strangers_beside_a_label_are_left_out_and_named(tmp_path):
    for label in ("real", "fake"):
        root = plant(tmp_path / label, f"{label}/1.png", "kitchen/2.png", "garden/x/3.png", "4.png")
        source = open_source(root)
        assert list(by_path(source)) == [f"{label}/1.png"]
        assert source.notes == (
            "3 images outside the real and fake folders, left out (garden, kitchen and 1 in no folder)",
        )


def test_two_unknown_siblings_are_refused_until_a_person_says(tmp_path):
    root = both(tmp_path / "set", "kitchen", "garden")
    with pytest.raises(UserError, match="garden and kitchen; say `labels` real=garden,fake=kitchen or the other way"):
        open_source(root)
    said = open_source(root, reading=Reading("real=Kitchen,fake=garden"))
    assert by_path(said) == {"kitchen/0.png": 0, "kitchen/1.png": 0, "garden/0.png": 1, "garden/1.png": 1}
    assert set(open_source(root, reading=Reading("real=kitchen,real=garden")).labels) == {0}
    half = open_source(root, reading=Reading("real=kitchen"))
    assert len(half) == 2 and "left out (garden)" in half.notes[0]
    assert len(open_source(root, reading=Reading(classes=True))) == 4
    with pytest.raises(UserError, match="no folder of .* is called kitchn or garten; there are garden, kitchen"):
        open_source(root, reading=Reading("real=kitchn,fake=garten"))
    typo = open_source(root, reading=Reading("real=kitchen,fake=garten"))
    assert "no folder is called garten" in typo.notes[0]
    with pytest.raises(UserError, match="garden and kitchen"):
        table_for(str(root))
    assert sorted(table_for(str(root), labels="real=kitchen,fake=garden")[0]["label"].tolist()) == [0, 0, 1, 1]


@pytest.mark.parametrize("names", [("Oma & Opa (2019)", "von der KI"), ("Anna, Ben", "c=d, e"), ("it's", "$HOME")])
def test_what_is_said_to_type_is_understood_as_typed(tmp_path, names):
    root = both(tmp_path / "set", *names)
    with pytest.raises(UserError) as asked:
        open_source(root)
    said = shlex.split(str(asked.value).partition("say `labels` ")[2])[0]
    assert set(by_path(open_source(root, reading=Reading(said))).values()) == {0, 1}


def test_several_names_after_one_label_are_one_name_and_that_is_said(tmp_path):
    root = both(tmp_path / "set", "kitchen", "garden")
    with pytest.raises(UserError, match=r"is called kitchen,garden; there are .*; of several folders say real=A,real="):
        open_source(root, reading=Reading("real=kitchen,garden"))
    source = open_source(root, reading=Reading("fake=garden,real=kitchen,hall"))
    assert "no folder is called kitchen,hall, as `labels` says; of several folders say" in source.notes[0]


def test_below_splits_the_siblings_are_what_matters(tmp_path):
    root = plant(tmp_path, *(f"{s}/{n}/1.png" for s in ("train", "test") for n in ("kitchen", "garden")))
    with pytest.raises(UserError, match="garden and kitchen"):
        open_source(root)
    source = open_source(root, reading=Reading("real=kitchen,fake=garden"))
    assert source.splits == {"train", "test"} and sorted(source.labels) == [0, 0, 1, 1]


def test_pieces_of_one_folder_are_no_labels(tmp_path):
    for i, names in enumerate((("00000", "01000"), ("part1", "part2"), ("batch_01", "batch_02"))):
        source = open_source(both(tmp_path / str(i), *names))
        assert set(source.labels) == {0} and source.notes == ()


def test_many_unknown_folders_are_real_and_said(tmp_path):
    source = open_source(plant(tmp_path / "people", "ann/1.png", "bob/1.png", "eve/1.png"))
    assert set(source.labels) == {0} and "all 3 images count as real (in ann, bob, eve)" in source.notes[0]


def test_a_person_goes_before_the_names(tmp_path):
    root = both(tmp_path / "set", "real", "fake")
    source = open_source(root, reading=Reading("real=fake,fake=real"))
    assert by_path(source)["fake/0.png"] == 0 and by_path(source)["real/0.png"] == 1
    nested = plant(tmp_path / "n", "methods/a/1.png", "methods/b/2.png", "b/3.png")
    source = open_source(nested, reading=Reading("fake=methods/b,real=b,real=a"))
    assert by_path(source) == {"methods/a/1.png": 0, "methods/b/2.png": 1, "b/3.png": 0}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("A,B", "'A' is not real=NAME or fake=NAME"),
        ("real=", "is not real=NAME"),
        ("true=A", "is not real=NAME"),
        ("real=A,fake=a", "a is called real and fake"),
        (",", "says nothing"),
        ("classes", "what dataset.json gets is said with `classes`"),
    ],
)
def test_rules_that_say_nothing(text, told):
    with pytest.raises(UserError, match=told) as refused:
        LabelRule.parse(text)
    assert str(refused.value).startswith("`labels` ")


def test_a_new_folder_says_what_was_known_of_the_old(tmp_path):
    """Names made for a copy (`normalise`) are read again without anybody's word."""
    for i, (root, reading) in enumerate((
        (both(tmp_path / "a", "nature", "ai"), Reading()),
        (both(tmp_path / "b", "kitchen", "garden"), Reading("real=kitchen,fake=garden")),
        (both(tmp_path / "c", "kitchen", "garden"), Reading("real=kitchen,real=garden")),
        (both(tmp_path / "d", "real", "fake"), Reading("real=fake,fake=real")),
        (plant(tmp_path / "e", *(f"{s}_{n}/1.png" for s in ("train", "test") for n in ("real", "fake"))), Reading()),
    )):  # fmt: skip
        source = open_source(root, reading=reading)
        new = targets(source, ".png")
        again = open_source(plant(tmp_path / f"new{i}", *new))
        assert by_path(again) == {name: item.label for name, item in zip(new, source.items, strict=True)}
        assert {i.path: i.split for i in again.items} == {n: i.split for n, i in zip(new, source.items, strict=True)}


def test_labels_in_the_names_of_files(tmp_path):
    names = ["real_004.png", "Fake_003_000.png", "x/fake12.png", "x/reals-1.png", "deepfake_9.png", "cover.png"]
    source = open_source(plant(tmp_path / "a", *names))
    assert by_path(source) == {names[0]: 0, names[1]: 1, names[2]: 1, names[3]: 0, names[4]: 1}
    assert (
        "by the beginnings of file names, real or fake: 2 real, 3 fake; 1 of other names left out (cover.png)"
        in source.notes[-1]
    )
    again = open_source(plant(tmp_path / "b", *targets(source, ".png")))
    assert sorted(again.labels) == [0, 0, 1, 1, 1]
    for harmless in ("realm.png", "reality_1.png", "fakebook_2.png", "real_1.png"):
        assert set(open_source(plant(tmp_path / harmless, harmless, "other.png")).labels) == {0}
    folders = open_source(plant(tmp_path / "c", "real/fake_1.png", "fake/real_1.png"))
    assert by_path(folders) == {"real/fake_1.png": 0, "fake/real_1.png": 1}


def test_a_zip_called_fake_is_one_of_fakes(tmp_path):
    for name, label in (("deepfakes", 1), ("photos", 0)):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.write(plant(tmp_path / name, "1.png") / "1.png", "1.png")
        assert set(open_source(tmp_path / f"{name}.zip").labels) == {label}


# ---- splits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("training_set", "test_set"), ("train", "test")),
        (("train", "dev"), ("train", "valid")),
        (("Train", "Validation", "Test"), ("train", "valid", "test")),
        (("train-images", "val images", "eval"), ("train", "valid", "test")),
        (("trainset", "valset", "testset"), ("train", "valid", "test")),
    ],
)
def test_splits_have_many_names(tmp_path, names, splits):
    root = plant(tmp_path, *(f"{s}/{label}/{i}.png" for s in names for label in ("real", "fake") for i in range(2)))
    source = open_source(root)
    want = {f"{n}/{label}/{i}.png": s for n, s in zip(names, splits) for label in ("real", "fake") for i in range(2)}
    assert {item.path: item.split for item in source.items} == want and source.notes == ()


def test_labels_and_splits_in_one_name(tmp_path):
    names = [f"{s}_{label}" for s in ("train", "test") for label in ("real", "fake")]
    source = open_source(plant(tmp_path / "a", *(f"{n}/1.png" for n in names)))
    assert {(i.path.split("/")[0], i.label, i.split) for i in source.items} == {
        (f"{s}_{label}", int(label == "fake"), s) for s in ("train", "test") for label in ("real", "fake")
    }
    yonsei = open_source(both(tmp_path / "b", "training_real", "training_fake"))
    assert yonsei.splits == set()


def test_folders_of_no_split_are_left_out_and_named(tmp_path):
    names = [f"{s}/{label}/1.png" for s in ("train", "test", "extra") for label in ("real", "fake")]
    root = plant(tmp_path, *names)
    source = open_source(root)
    assert len(source) == 4 and source.splits == {"train", "test"}
    assert source.notes == ("2 images in no split, where others are (train, test), left out (extra)",)
    assert len(table_for(str(root))[0]) == 6  # who deals all out anew wants them


def test_nothing_to_train_on_is_said(tmp_path):
    from training.data import open_splits

    root = plant(tmp_path, "test/real/1.png", "test/fake/1.png", "real/1.png", "fake/1.png")
    with pytest.raises(
        UserError, match=r"has no images to train on: all are in test .*left out \(real, fake\)|fake, real"
    ):
        open_splits(str(root), None, subset=None, seed=0)


def test_as_many_validation_images_as_a_training_asks_for(tmp_path):
    from discriminator.training.data import open_all
    from discriminator.training.options import TrainerOptions

    counts = {"train/real": 3, "train/fake": 3, "valid/real": 2010, "valid/fake": 4}
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for folder, count in counts.items():
            for i in range(count):
                archive.writestr(f"{folder}/{i:04d}.png", b"never read")
    for asked, found in ((1000, 2000), (2005, 2005), (5000, 2010)):  # of fewer a later draw is made
        options = TrainerOptions(data=str(tmp_path / "set.zip"), resolution=16, valid_images=asked)
        labels = open_all(options, 0).splits.valid.labels
        assert np.bincount(labels).tolist() == [found, 4], asked


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


# ---- classes ------------------------------------------------------------------------------------------------------


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
    source = open_source(table(tmp_path, "path,label\n" + rows))
    assert ClassLabels(source).of(source).tolist() == [0, 1, 0, 1]


# ---- the cases that were reported ---------------------------------------------------------------------------------


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


def test_names_are_read_once_for_a_source():
    names = FolderNames.read([("train_real",), ("test_real",), ("x", "nature"), ("x", "ai")])
    assert names.split(("train_real",)) == "train" and names.label(("Nature",)) == 0 and names.label(("ai", "x")) == 1
    assert names.strangers([("real", "ann"), ("fake", "bob"), ("fake", "bob", "x")]) == ["ann", "bob"]
