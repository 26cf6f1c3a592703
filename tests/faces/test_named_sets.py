"""The named sets in the layouts Kaggle ships, where they are looked for, and what happens without them."""

from __future__ import annotations

import io
import shutil
import sys
import time
import types
import zipfile

import numpy as np
import pytest
from PIL import Image

import faces.named_sets as named_sets
from common.errors import UserError
from faces.procedural.portrait import render_face
from faces.source import open_source


def picture(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


LAYOUTS = {
    "flickr140k": [
        f"real_vs_fake/real-vs-fake/{s}/{c}/1.jpg" for s in ("train", "valid", "test") for c in ("real", "fake")
    ],
    "rvf10k": [f"rvf10k/{s}/{c}/1.jpg" for s in ("train", "valid") for c in ("real", "fake")],
    "deepfake-and-real": [
        f"Dataset/{s}/{c}/{c}_1.jpg" for s in ("Train", "Validation", "Test") for c in ("Real", "Fake")
    ],
    "yonsei": [
        f"{top}real_and_fake_face/training_{c}/{i}.jpg"
        for top in ("", "real_and_fake_face_detection/")
        for c in ("real", "fake")
        for i in (1, 2)
    ],
}
SPLITS = {
    "flickr140k": "train valid test",
    "rvf10k": "train valid",
    "deepfake-and-real": "train valid test",
    "yonsei": "",
}
SLUGS = {name: s.handle.split("/")[1] for name, s in named_sets.NAMED_SETS.items()}


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(named_sets, "_reachable", lambda host, port: False)
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.delenv("FACES_DATA_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)


def unpack(folder, name):
    for number, path in enumerate(LAYOUTS[name]):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(picture(number))
    for csv in ("train.csv", "valid.csv", "test.csv"):
        (folder / csv).write_text(",original_path,id,label,label_str,path\n0,a.jpg,1,1,real,train/real/1.jpg\n")
    return folder


def check(source, name):
    count = {"flickr140k": 6, "rvf10k": 4, "deepfake-and-real": 6, "yonsei": 4}[name]
    assert source.name == name and len(source) == count, [item.path for item in source.items]
    assert np.bincount(source.labels).tolist() == [count // 2, count // 2]
    assert source.splits == set(SPLITS[name].split()) and source.notes == ()
    assert all(("fake" in item.path.rsplit("/", 2)[-2].lower()) == item.label for item in source.items)


@pytest.mark.parametrize("name", LAYOUTS)
def test_found_where_people_put_it(tmp_path, name, monkeypatch):
    set_of = named_sets.NAMED_SETS[name]
    for place in (name, SLUGS[name]):
        root = tmp_path / f"at {place}"
        unpack(root / place, name)
        check(open_source(name, data_root=str(root)), name)
        assert (root / place / set_of.example).is_dir()
    monkeypatch.setenv("FACES_DATA_ROOT", str(root))
    check(open_source(name), name)
    (tmp_path / "datasets").symlink_to(root)
    monkeypatch.delenv("FACES_DATA_ROOT")
    check(open_source(name), name)
    if SPLITS[name]:
        assert open_source(name, split="valid").splits == {"valid"}
    else:
        with pytest.raises(UserError, match="defines no splits"):
            open_source(name, split="train")


@pytest.mark.parametrize("name", ["flickr140k", "yonsei"])
def test_inner_folder_straight_under_the_root(tmp_path, name):
    check(open_source(name, data_root=str(unpack(tmp_path / "root", name))), name)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("place", ["{name}.zip", "{slug}.zip", "{name}/archive.zip"])
def test_the_download_need_not_be_unpacked(tmp_path, name, place):
    files = unpack(tmp_path / "files", name)
    path = tmp_path / "root" / place.format(name=name, slug=SLUGS[name])
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(p for p in files.rglob("*") if p.is_file()):
            archive.write(file, file.relative_to(files))
    check(open_source(name, data_root=str(tmp_path / "root")), name)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_sets_folder_given_directly_works_the_same(tmp_path, name):
    source = open_source(unpack(tmp_path / "somewhere", name))
    named = open_source(name, data_root=str(unpack(tmp_path / "root" / name, name).parent))
    assert source.items == named.items and source.fingerprint() == named.fingerprint()


def test_yonsei_that_holds_only_the_lower_case_copy(tmp_path):
    root = unpack(tmp_path / "yonsei", "yonsei")
    shutil.rmtree(root / "real_and_fake_face")
    check(open_source("yonsei", data_root=str(tmp_path)), "yonsei")


def test_what_to_do_without_a_network(tmp_path):
    for name, named in named_sets.NAMED_SETS.items():
        for data_root in (None, str(tmp_path / "data")):
            with pytest.raises(UserError) as info:
                open_source(name, data_root=data_root)
            line = str(info.value)
            assert line.isprintable() and named.handle in line and "no network" in line
            assert f"unpack it into {data_root or 'datasets'}/{name} " in line and named.example in line
    with pytest.raises(UserError, match="fetching is turned off"):
        open_source("yonsei", allow_fetch=False)


def test_an_empty_folder_does_not_count_and_half_a_set_is_refused(tmp_path):
    (tmp_path / "datasets/rvf10k").mkdir(parents=True)
    with pytest.raises(UserError, match="can't be fetched"):
        open_source("rvf10k")
    unpack(tmp_path / "datasets/rvf10k", "rvf10k")
    for split in ("train", "valid"):
        shutil.rmtree(tmp_path / "datasets/rvf10k/rvf10k" / split / "fake")
    with pytest.raises(UserError, match="not all of rvf10k"):
        open_source("rvf10k")


def test_fetching(tmp_path, monkeypatch):
    asked = []

    def download(handle):
        asked.append(handle)
        if handle != named_sets.NAMED_SETS["rvf10k"].handle:
            raise ConnectionError("403 Client Error.\nYou don't have permission " + "x" * 400)
        return str(unpack(tmp_path / "cache/versions/1", "rvf10k"))

    monkeypatch.setattr(named_sets, "_reachable", lambda host, port: True)
    monkeypatch.setitem(sys.modules, "kagglehub", types.SimpleNamespace(dataset_download=download))
    check(open_source("rvf10k"), "rvf10k")
    with pytest.raises(UserError, match="403 Client Error.*unpack it into") as info:
        open_source("yonsei")
    assert "\n" not in str(info.value) and len(str(info.value)) < 600
    assert asked == ["sachchitkunichetty/rvf10k", "ciplab/real-and-fake-face-detection"]
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(UserError, match="kagglehub is not installed"):
        open_source("yonsei")


def test_what_kagglehub_fetched_earlier_serves_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    base = tmp_path / "cache/datasets/sachchitkunichetty/rvf10k"
    unpack(base / "versions/2", "rvf10k")
    (base / "versions/10").mkdir()  # begun and never finished: no marker
    with pytest.raises(UserError):
        open_source("rvf10k")
    (base / "2.complete").touch()
    check(open_source("rvf10k"), "rvf10k")


def test_a_silent_network_is_given_up_soon(monkeypatch):
    monkeypatch.undo()
    for variable in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(named_sets, "PROBE_SECONDS", 0.2)
    monkeypatch.setattr(named_sets.socket, "create_connection", lambda *a, **k: time.sleep(1) or io.BytesIO())
    start = time.monotonic()
    assert not named_sets._reachable("www.kaggle.com", 443)
    assert time.monotonic() - start < 0.9


def test_demo_needs_no_files():
    source = open_source("demo")
    assert len(source) == 2800 and source.splits == {"train", "valid", "test"} and not source.labels.any()
    assert [len(open_source("demo", split=s)) for s in ("train", "valid", "test")] == [2000, 400, 400]
    assert source.items[0] == ("train/000000", 0, "train")
    valid = source.select(split="valid")
    np.testing.assert_array_equal(valid.image(3), render_face(2003, 64))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(valid.read(3)))), render_face(2003, 64))
    np.testing.assert_array_equal(valid.rendered_at(96).image(3), render_face(2003, 96))
    assert valid.rendered_at(32) is valid
    assert valid.fingerprint() != valid.rendered_at(96).fingerprint()


def test_the_development_subset(shared_dir):
    source = open_source("flickr140k", data_root=str(shared_dir / "data"))
    counts = {s: np.bincount(source.select(split=s).labels).tolist() for s in ("train", "valid", "test")}
    assert counts == {"train": [4000, 4000], "valid": [500, 500], "test": [500, 500]}
    inside = open_source(shared_dir / "data/flickr140k/real_vs_fake/real-vs-fake")
    assert len(inside) == 10000 and inside.splits == source.splits
    yonsei = open_source("yonsei", data_root=str(shared_dir / "data"))
    assert np.bincount(yonsei.labels).tolist() == [1081, 960] and yonsei.splits == set()
