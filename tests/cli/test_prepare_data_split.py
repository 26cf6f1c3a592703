"""`prepare_data.py split` as a user runs it."""

import csv
import io
import os
import zipfile

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import prepare_data
from tests.program import Program


def run(*words):
    return CliRunner().invoke(Program(prepare_data.main), ["split", *map(str, words)])


def face(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)


@pytest.fixture
def leaky(tmp_path, monkeypatch):
    """40 photos in train and test, of which three in test are in train, too: copied, saved again, mirrored."""
    monkeypatch.chdir(tmp_path)
    for i in range(40):
        path = tmp_path / "faces" / ("test" if i % 4 == 0 else "train") / ("fake" if i % 2 else "real") / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        face(i).save(path, quality=90)
    train, test = tmp_path / "faces/train/real", tmp_path / "faces/test/real"
    (test / "copy.jpg").write_bytes((train / "2.jpg").read_bytes())
    face(6).resize((50, 50)).save(test / "again.jpg", quality=60)
    face(10).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(test / "mirrored.jpg", quality=80)
    return tmp_path


def rows(path="manifest.csv") -> dict:
    with open(path, newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def test_leaks_are_told_and_repaired(leaky):
    result = run("faces", "--ratios", "60/20/20", "--folds", 3, "--seed", 5)
    assert result.exit_code == 0, result.output
    assert "3 groups with images in several of the old splits" in result.output and "on one side now" in result.output
    found = rows()
    assert len(found) == 43 and {row["split"] for row in found.values()} == {"train", "valid", "test"}
    for a, b in (("train/real/2", "copy"), ("train/real/6", "again"), ("train/real/10", "mirrored")):
        pair = found[f"faces/{a}.jpg"], found[f"faces/test/real/{b}.jpg"]
        assert pair[0]["split"] == pair[1]["split"] and pair[0]["fold"] == pair[1]["fold"]
    assert {row["fold"] for row in found.values() if row["split"] == "test"} == {""}
    assert all(len(row["sha256"]) == 64 and len(row["phash"]) == 16 and row["quality"] for row in found.values())


def test_kept_splits_stay_torn_and_that_is_told(leaky):
    result = run("faces", "--keep-splits")
    assert result.exit_code == 0 and "left so, leave --keep-splits out" in result.output
    assert all(row["split"] == path.split("/")[1] for path, row in rows().items())
    again = run("manifest.csv", "--out", "second.csv", "--group-by", "none", "--ratios", "50/0/50")
    assert again.exit_code == 0 and {row["split"] for row in rows("second.csv").values()} == {"train", "test"}


def test_the_same_seed_gives_the_same_file(leaky):
    for name, seed in (("a.csv", 1), ("b.csv", 1), ("c.csv", 2)):
        assert run("faces", "--out", name, "--seed", seed, "--workers", 1).exit_code == 0
    a, b, c = (open(name, "rb").read() for name in ("a.csv", "b.csv", "c.csv"))
    assert a == b != c


def test_bad_files_are_named_and_left_out(leaky):
    for i in range(12):
        (leaky / f"faces/train/real/bad{i}\n.jpg").write_bytes(b"no image")
    result = run("faces")
    assert result.exit_code == 0 and len(rows()) == 43
    assert "skipped train/real/bad0\\n.jpg: not an image" in result.stderr and "2 more" in result.stderr


def test_nothing_is_overwritten_before_or_after_the_work(leaky):
    (leaky / "manifest.csv").write_text("mine")
    result = run("faces")
    assert result.exit_code == 2 and "exists and is not overwritten" in result.stderr
    assert (leaky / "manifest.csv").read_text() == "mine"
    assert run("faces", "--force").exit_code == 0 and len(rows()) == 43


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere"], "nowhere: no such folder or zip or manifest"),
        (["faces", "--ratios", "80/20"], "--ratios 80/20: not three shares"),
        (["faces", "--out", "m.txt"], "must end in .csv or .parquet"),
        (["faces", "--out", "no/m.csv"], "there is no folder no"),
        (["faces", "--group-by", "identity"], "nothing tells who is who"),
        (["faces", "--group-by", "identity", "--identity", "("], "not a regular expression"),
        (["demo"], "demo is drawn"),
    ],
)
def test_mistakes_are_told_in_one_line(leaky, words, told):
    result = run(*words)
    assert result.exit_code == 2 and told in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert not list(leaky.glob("*.csv"))


def test_odd_names_and_an_archive(leaky):
    buffer = io.BytesIO()
    face(1).save(buffer, "PNG")
    odd = os.fsdecode(b'"\xff,\n.png')
    (leaky / "faces/train/real" / odd).write_bytes(buffer.getvalue())
    assert run("faces").exit_code == 0
    from faces.source import open_source

    paths = [item.path for item in open_source("manifest.csv").items]
    assert f"faces/train/real/{odd}" in paths and len(paths) == 44


def test_training_takes_the_manifest(leaky):
    """The other commands' way to data."""
    from training.data import open_source as opened_by_training

    assert run("faces", "--ratios", "70/15/15").exit_code == 0
    assert opened_by_training("manifest.csv", split="train").splits == {"train"}


def test_labels_are_said_for_every_command(tmp_path, monkeypatch):
    """Two unknown folders are an error that names them, until a person says what they are."""
    monkeypatch.chdir(tmp_path)
    for i in range(12):
        path = tmp_path / "set" / ("kitchen" if i % 2 else "garden") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        face(i).save(path)
    rule = ("--labels", "real=garden,fake=kitchen")
    for words in (("audit", "set", "--quick"), ("split", "set"), ("normalise", "set", "even", "--resolution", "32"),
                  ("pack", "set", "p.zip", "--resolution", "32")):  # fmt: skip
        refused = CliRunner().invoke(Program(prepare_data.main), [*words])
        assert refused.exit_code == 2 and "garden and kitchen; say --labels real=garden,fake=kitchen" in refused.stderr
        done = CliRunner().invoke(Program(prepare_data.main), [*words, *rule])
        assert done.exit_code in (0, 1) and not done.stderr.startswith("error"), done.output
    found = {row["label"] for path, row in rows("manifest.csv").items() if "kitchen" in path}
    assert found == {"1"}
    with zipfile.ZipFile("p.zip") as archive:
        assert sum("real/" in name for name in archive.namelist()) == 6
    page = CliRunner().invoke(Program(prepare_data.main), ["inspect", "set"])
    assert page.exit_code == 0, page.output  # works on a folder without labels, too
    classes = CliRunner().invoke(
        Program(prepare_data.main), ["pack", "set", "c.zip", "--resolution", "32", "--classes", "source"]
    )
    assert classes.exit_code == 0 and "12 real, 0 fake, 2 classes" in classes.output


def test_frames_of_videos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for label in ("real", "fake"):
        for k in range(3):
            path = tmp_path / "videos" / label / f"{k}.avi"
            path.parent.mkdir(parents=True, exist_ok=True)
            out = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (64, 64))
            if not out.isOpened():
                pytest.skip("this OpenCV writes no MJPG")
            for i in range(12):
                out.write(np.asarray(face(100 * k + i)))
            out.release()
    words = [
        "frames",
        "videos",
        "faces",
        "--align",
        "none",
        "--resolution",
        "32",
        "--every",
        "5",
        "--ratios",
        "34/33/33",
    ]
    done = CliRunner().invoke(Program(prepare_data.main), words)
    assert done.exit_code == 0 and "faces: 18 crops of 6 videos" in done.output, done.output
    found = rows("faces/manifest.csv")
    assert len({(row["video"], row["split"]) for row in found.values()}) == 6
    assert {(row["split"], row["label"]) for row in found.values()} == {
        (s, k) for s in ("train", "valid", "test") for k in "01"
    }
