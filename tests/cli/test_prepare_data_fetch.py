"""`prepare_data.py fetch`: the way by hand for real, Kaggle's by a stand-in for its package: no network."""

import sys
import types
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import prepare_data
from faces import named_sets
from tests.program import Program


def run(*words, **env):
    return CliRunner().invoke(Program(prepare_data.main), ["fetch", *map(str, words)], env=env)


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """rvf10k as if it had been published with 3 and 2 images of each class; nothing fetched earlier; no network."""
    counts = {"train": (3, 3), "valid": (2, 2)}
    monkeypatch.setitem(named_sets.NAMED_SETS, "rvf10k", replace(named_sets.NAMED_SETS["rvf10k"], counts=counts))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(named_sets, "_reachable", lambda host, port: False)
    monkeypatch.chdir(tmp_path)


def make(folder, *, train=3, valid=2):
    for split, count in (("train", train), ("valid", valid)):
        for kind in ("real", "fake"):
            (folder / "rvf10k" / split / kind).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "rvf10k" / split / kind / f"{i}.png")
    return folder


def packed(folder, extra: dict[str, bytes] | None = None):
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for path in sorted(folder.rglob("*.png")):
            zipped.write(path, path.relative_to(folder).as_posix())
        for name, data in (extra or {}).items():
            zipped.writestr(name, data)
    return archive


def files(folder) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("form", ["archive", "folder"])
def test_by_hand(tmp_path, form):
    given = make(tmp_path / "got")
    source = packed(given, {"readme.txt": b"hello"}) if form == "archive" else given
    result = run("rvf10k", "--from", source)
    assert result.exit_code == 0, result.output
    assert "train          3        3" in result.output and "valid          2        2" in result.output
    assert "complete: every split and class" in result.output
    placed = tmp_path / "datasets/rvf10k"
    assert files(placed) == files(given)
    assert all((placed / name).read_bytes() == (given / name).read_bytes() for name in files(given))
    assert sorted(p.name for p in (tmp_path / "datasets").iterdir()) == ["rvf10k"]
    assert source.exists()
    for again in (run("rvf10k", "--from", source), run("rvf10k")):
        assert again.exit_code == 0 and "complete" in again.output
    from faces.source import open_source

    assert len(open_source("rvf10k", split="train")) == 6


def test_counts_that_differ_are_told_exactly_and_nothing_is_placed(tmp_path):
    given = make(tmp_path / "got", train=2)
    result = run("rvf10k", "--from", packed(given))
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert "train real 2 instead of 3; train fake 2 instead of 3; download it again" in result.stderr
    assert not (tmp_path / "datasets").exists()
    partial = run("rvf10k", "--from", given, "--partial")
    assert partial.exit_code == 0 and "differs: train fake 2 instead of 3" in partial.output
    later = run("rvf10k")
    assert later.exit_code == 2 and "valid" not in later.stderr.split("published: ")[1].split(";")[0]


def test_splits_that_were_not_published_are_told(tmp_path):
    given = make(tmp_path / "got")
    (given / "rvf10k/test/real").mkdir(parents=True)
    (given / "rvf10k/train/real/0.png").rename(given / "rvf10k/test/real/0.png")
    assert "train real 2 instead of 3; test real 1 instead of 0" in run("rvf10k", "--from", given).stderr


def test_names_that_lead_outside_are_refused_and_write_nothing(tmp_path):
    given = make(tmp_path / "deep" / "er" / "got")
    image = (given / "rvf10k/train/real/0.png").read_bytes()
    (given / "rvf10k/train/real/0.png").unlink()
    (given / "rvf10k/train/fake/0.png").unlink()
    archive = packed(given, {"../../../train/real/evil.png": image, "/tmp/train/fake/evil.png": image})
    before = files(tmp_path)
    result = run("rvf10k", "--from", archive, "--data-root", tmp_path / "root")
    assert result.exit_code == 2 and "2 of 10 images can't be read" in result.stderr
    assert "its name leads outside of the folder, refused" in result.stderr
    assert [name for name in files(tmp_path) if not name.startswith("root/.rvf10k.unfinished/")] == before
    assert not any("evil" in name for name in files(tmp_path))


def test_it_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    from faces import fetching

    given = make(tmp_path / "got")
    archive = packed(given)
    done = []

    def interrupting(count, total):
        done.append(count)
        if count == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetching.place(named_sets.NAMED_SETS["rvf10k"], str(archive), None, progress=interrupting)
    unfinished = tmp_path / "datasets/.rvf10k.unfinished"
    assert len(files(unfinished)) == 4 and not (tmp_path / "datasets/rvf10k").exists()
    whole = unfinished / files(unfinished)[0]
    torn = unfinished / files(unfinished)[1]
    torn.write_bytes(torn.read_bytes()[:20])  # killed in the middle of a file
    stamp = whole.stat().st_mtime_ns
    assert run("rvf10k", "--from", archive).exit_code == 0
    placed = tmp_path / "datasets/rvf10k"
    assert files(placed) == files(given) and not unfinished.exists()
    assert (placed / whole.relative_to(unfinished)).stat().st_mtime_ns == stamp, "what was whole is not written again"
    assert all((placed / name).read_bytes() == (given / name).read_bytes() for name in files(given))


def test_what_another_archive_left_behind_is_not_mixed_in(tmp_path):
    given = make(tmp_path / "got")
    left = tmp_path / "datasets/.rvf10k.unfinished/rvf10k/train/real/stranger.png"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"x")
    result = run("rvf10k", "--from", given)
    assert result.exit_code == 2 and "files of another archive (like rvf10k/train/real/stranger.png)" in result.stderr
    left.unlink()
    assert run("rvf10k", "--from", given).exit_code == 0


def test_a_broken_archive_is_told(tmp_path):
    archive = packed(make(tmp_path / "got"))
    data = archive.read_bytes()
    (tmp_path / "half.zip").write_bytes(data[: len(data) // 2])
    assert "not a readable zip archive" in run("rvf10k", "--from", tmp_path / "half.zip").stderr
    at = data.index(b"IDAT") + 30
    (tmp_path / "flipped.zip").write_bytes(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :])
    result = run("rvf10k", "--from", tmp_path / "flipped.zip")
    assert result.exit_code == 2 and "1 of 10 images can't be read" in result.stderr
    assert "broken in the archive" in result.stderr and not (tmp_path / "datasets/rvf10k").exists()
    assert run("rvf10k", "--from", archive).exit_code == 0, "and the good archive completes it"


def test_what_is_there_is_not_replaced(tmp_path):
    assert run("rvf10k", "--from", make(tmp_path / "got")).exit_code == 0
    other = make(tmp_path / "other", train=1)
    result = run("rvf10k", "--from", other, "--partial")
    assert result.exit_code == 2 and "exists, with other images; move it away" in result.stderr
    assert files(tmp_path / "datasets/rvf10k") == files(tmp_path / "got")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["celebrities"], "the sets are flickr140k, rvf10k"),
        (["demo"], "demo is drawn"),
        (["rvf10k", "--from", "nowhere.zip"], "--from nowhere.zip: no such file or folder"),
        (["rvf10k"], "and say python prepare_data.py fetch rvf10k --from archive.zip, or unpack it into"),
    ],
)
def test_mistakes_are_told_in_one_line(words, told):
    result = run(*words)
    assert result.exit_code == 2 and told in result.stderr and result.stderr.count("\n") == 1


def test_a_set_without_its_label_folders_is_refused(tmp_path):
    make(tmp_path / "got")
    result = run("rvf10k", "--from", tmp_path / "got/rvf10k/train/real")
    assert result.exit_code == 2 and "needs its label folders (rvf10k/train/real" in result.stderr


@pytest.mark.parametrize("train", [3, 2])
def test_from_kaggle(tmp_path, monkeypatch, train):
    """kagglehub puts a set into its cache and marks it complete; that is counted and stays there."""
    version = tmp_path / "cache/datasets/sachchitkunichetty/rvf10k/versions/2"

    def dataset_download(handle):
        assert handle == "sachchitkunichetty/rvf10k"
        make(version, train=train)
        (version.parent.parent / "2.complete").touch()
        return str(version)

    monkeypatch.setitem(sys.modules, "kagglehub", types.SimpleNamespace(dataset_download=dataset_download))
    monkeypatch.setattr(named_sets, "_reachable", lambda host, port: True)
    result = run("rvf10k")
    if train == 3:
        assert result.exit_code == 0 and "complete" in result.output and str(version) in result.output
    else:
        assert result.exit_code == 2 and "train real 2 instead of 3" in result.stderr
    assert run("rvf10k", "--partial").exit_code == 0, "found in the cache, not downloaded again"


def test_published_counts():
    """The full sets: 140 000, 10 000, 190 335 and 2041 images."""
    total = {name: sum(map(sum, s.counts.values())) for name, s in named_sets.NAMED_SETS.items()}
    assert total == {"flickr140k": 140_000, "rvf10k": 10, "deepfake-and-real": 190_335, "yonsei": 2041}


def test_yonsei_is_whole(shared_dir):
    result = run("yonsei", "--data-root", shared_dir / "data")
    assert result.exit_code == 0 and "all         1081      960" in result.output
