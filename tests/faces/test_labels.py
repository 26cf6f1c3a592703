"""What is real and what is fake: known names, a person's word, or an error. Silence is no label."""

from __future__ import annotations

import shlex
import zipfile
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from faces.layout import FolderNames, LabelRule, Reading, label_word, split_word
from faces.naming import targets
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


def test_what_a_person_says_all_are_is_no_guess(tmp_path):
    """train_detector.py --extra-fakes samples/: nothing is said of images that count as real."""
    root = plant(tmp_path / "samples", "psi0.5/1.png", "psi0.7/2.png", "final/3.png")
    source = open_source(root, reading=Reading(ask=False, otherwise=1))
    assert set(source.labels) == {1} and source.notes == ()
    (tmp_path / "list.csv").write_text("path,model\nsamples/psi0.5/1.png,a\nsamples/final/3.png,b\n")
    source = open_source(tmp_path / "list.csv", reading=Reading(ask=False, otherwise=1))
    assert set(source.labels) == {1} and source.notes == ()


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


def test_names_are_read_once_for_a_source():
    names = FolderNames.read([("train_real",), ("test_real",), ("x", "nature"), ("x", "ai")])
    assert names.split(("train_real",)) == "train" and names.label(("Nature",)) == 0 and names.label(("ai", "x")) == 1
    assert names.strangers([("real", "ann"), ("fake", "bob"), ("fake", "bob", "x")]) == ["ann", "bob"]
