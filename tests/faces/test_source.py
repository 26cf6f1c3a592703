"""Sources: folders, zips and what their folder names say; hostile trees and archives."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import stat
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import BadImage, UserError
from faces import foreign
from faces.layout import Reading, natural_key, split_of
from faces.source import FaceSource, open_source
from faces.stores import ZipStore


def png(value: int = 0, side: int = 20) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (value % 256, value // 256, 50)).save(buffer, "PNG")
    return buffer.getvalue()


def plant(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return root


def zipped(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names):
            archive.writestr(name, png(number))
    return path


def told(source: FaceSource) -> list[tuple]:
    return [tuple(item) for item in source.items]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_members_are_bad_images_whatever_packed_them(tmp_path, method):
    rng = np.random.default_rng(method)
    data = rng.integers(0, 99, 3000, np.uint8).tobytes()
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.png", data)
    whole, refused = path.read_bytes(), 0
    for at in rng.integers(30, len(whole), 150):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << int(rng.integers(8))]) + whole[at + 1 :])
        store = ZipStore(str(path))
        try:
            assert store.read("a.png") == data  # a bit that means nothing
        except (BadImage, UserError) as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
        store.close()
    assert refused > 100


def test_an_unknown_packing_is_not_called_encrypted(tmp_path):
    path = zipped(tmp_path / "a.zip", "a.png")
    data = bytearray(path.read_bytes())
    for sign, place in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        data[data.rfind(sign) + place] = 99
    path.write_bytes(data)
    with pytest.raises(BadImage, match="compressed by a method"):
        ZipStore(str(path)).read("a.png")


def test_folder_without_labels_is_all_real(tmp_path):
    plant(
        tmp_path,
        "b/img10.png",
        "b/img2.png",
        "a.PNG",
        "deep/er/still/x.jpeg",
        "b/notes.txt",
        "train.csv",
        ".hidden.png",
    )
    plant(tmp_path, "__MACOSX/b/img2.png", ".git/x.png")
    source = open_source(tmp_path)
    assert told(source) == [
        ("a.PNG", 0, None),
        ("b/img2.png", 0, None),
        ("b/img10.png", 0, None),
        ("deep/er/still/x.jpeg", 0, None),
    ]
    assert source.labels.dtype == np.int64 and source.splits == set() and len(source) == 4
    assert source.name == tmp_path.name
    assert source.notes == (
        "no folder is called real or fake, so all 4 images count as real (in b, deep); if they are not, say `labels`"
        " real=A,fake=B",
    )


def test_labels_and_splits_by_folder_names_at_any_depth(tmp_path):
    plant(
        tmp_path,
        "x/Train/Real/1.png",
        "x/train/FAKE/1.png",
        "Validation/fake/deep/2.png",
        "val/real/3.png",
        "testing/training_fake/4.png",
        "training/training_real/5.png",
        "real/test/6.png",
        "fake/real/7.png",
    )
    source = open_source(tmp_path)
    assert source.notes == ("1 image in no split, where others are (train, valid, test), left out (real)",)
    source = open_source(tmp_path, reading=Reading(unsplit=True))
    by_path = {item.path: (item.label, item.split) for item in source.items}
    assert by_path == {
        "x/Train/Real/1.png": (0, "train"),
        "x/train/FAKE/1.png": (1, "train"),
        "Validation/fake/deep/2.png": (1, "valid"),
        "val/real/3.png": (0, "valid"),
        "testing/training_fake/4.png": (1, "test"),
        "training/training_real/5.png": (0, "train"),
        "real/test/6.png": (0, "test"),
        "fake/real/7.png": (0, None),
    }


def test_unlabelled_images_beside_fakes_are_left_out_and_said(tmp_path):
    plant(tmp_path, "real/1.png", "fake/1.png", "sample.png", "docs/logo.png")
    source = open_source(tmp_path)
    assert [item.path for item in source.items] == ["fake/1.png", "real/1.png"]
    assert source.notes == ("2 images outside the real and fake folders, left out (docs and 1 in no folder)",)
    only_real = open_source(plant(tmp_path / "other", "real/1.png", "portraits/2.png"))
    assert [item.path for item in only_real.items] == ["real/1.png"]
    assert only_real.notes == ("1 image outside the real and fake folders, left out (portraits)",)


def test_a_folder_called_fake_is_not_taken_for_real_photos(tmp_path):
    assert open_source(plant(tmp_path / "Fake", "1.png")).labels.tolist() == [1]
    assert open_source(plant(tmp_path / "real", "1.png")).labels.tolist() == [0]
    assert open_source(plant(tmp_path / "train", "1.png")).splits == set()


def test_the_order_is_natural_and_the_same_everywhere():
    names = ["a2", "a10", "a1", "a01", "B1", "b1", "a", "é", "a1/b", "a/z", "9" * 5000, "10", "9"]
    ordered = sorted(names, key=natural_key)
    assert ordered == ["9", "10", "9" * 5000, "B1", "a", "a/z", "a01", "a1", "a1/b", "a2", "a10", "b1", "é"]
    names.reverse()
    assert sorted(names, key=natural_key) == ordered
    assert split_of(("TEST", "Val")) == "valid"


def test_select_split_label_and_max_items(tmp_path):
    names = [f"{split}/{label}/{i}.png" for split in ("train", "test") for label in ("real", "fake") for i in range(10)]
    plant(tmp_path, *names)
    source = open_source(tmp_path, split="train", label=1)
    assert len(source) == 10 and source.splits == {"train"} and set(source.labels) == {1}
    few = open_source(tmp_path, max_items=8)
    assert np.bincount(few.labels).tolist() == [4, 4] and few.splits == {"train", "test"}
    assert len(open_source(tmp_path, max_items=1000)) == 40
    picked = source.select([3, 0])
    assert [item.path for item in picked.items] == ["train/fake/3.png", "train/fake/0.png"]
    np.testing.assert_array_equal(picked.image(1), source.image(0))
    assert len(source.select(split="test")) == 0
    with pytest.raises(UserError, match="has no 'valid' split \\(it has: train, test\\)"):
        open_source(tmp_path, split="valid")
    with pytest.raises(UserError, match="split must be one of"):
        open_source(tmp_path, split="validation")
    plain = plant(tmp_path / "plain", "1.png")
    with pytest.raises(UserError, match="defines no splits"):
        open_source(plain, split="train")
    with pytest.raises(UserError, match="has no fake images"):
        open_source(plain, label=1)
    with pytest.raises(UserError, match="at least one"):
        open_source(plain, max_items=0)


def test_fingerprint_is_cheap_and_follows_content(tmp_path):
    names = ("real/1.png", "fake/2.png")
    first, copy = open_source(plant(tmp_path / "a", *names)), open_source(plant(tmp_path / "b", *names))
    assert first.fingerprint() == copy.fingerprint() and len(first.fingerprint()) == 64
    assert first.select([1, 0]).fingerprint() == first.fingerprint() != first.select([0]).fingerprint()
    assert open_source(zipped(tmp_path / "a.zip", *names)).fingerprint() == first.fingerprint()
    before = first.content_stamp()
    os.utime(tmp_path / "a/real/1.png", ns=(1, 1))
    again = open_source(tmp_path / "a")
    assert again.fingerprint() == first.fingerprint() and again.content_stamp() != before
    (tmp_path / "a/real/1.png").write_bytes(png(0) + b"x")
    assert open_source(tmp_path / "a").fingerprint() != first.fingerprint()


@pytest.mark.parametrize("content", [(), ("readme.txt",), ("fake/.hidden.png",)])
def test_no_images(tmp_path, content):
    plant(tmp_path, *content)
    with pytest.raises(
        UserError, match=r"^no images in .* \(looked for \.jpg .*\.gif .*\); give a folder, a zip, a manifest"
    ):
        open_source(tmp_path)
    zipped(tmp_path / "photos.zip", *content)
    with pytest.raises(UserError, match="it holds photos.zip: give that file"):
        open_source(tmp_path)
    with pytest.raises(UserError, match="^no images in "):
        open_source(tmp_path / "photos.zip")


def test_what_is_no_source(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"x")
    (tmp_path / "b.zip").write_bytes(b"PK\3\4 this is no archive")
    cases = {
        "": "empty",
        "nowhere": "no such folder or zip",
        "a.tar": "neither a folder nor a zip",
        "b.zip": "not a readable",
    }
    for name, reason in cases.items():
        with pytest.raises(UserError, match=reason) as info:
            open_source(str(tmp_path / name) if name else "")
        assert str(info.value).isprintable()
    with pytest.raises(UserError, match="no such folder"):
        open_source("a\0b\nc")


def test_symlink_loops_and_doubles(tmp_path):
    root = plant(tmp_path / "root", "real/1.png", "real/2.png", "fake/3.png")
    os.symlink(root, root / "real/loop")
    os.symlink("..", root / "a_loop")
    os.symlink("self", root / "self")
    os.symlink(root / "real", root / "again")
    os.symlink(root / "real/1.png", root / "fake/link.png")
    os.symlink("gone.png", root / "fake/broken.png")
    outside = plant(tmp_path / "elsewhere", "real/4.png")
    os.symlink(outside, root / "linked")
    os.symlink(outside / "real/4.png", root / "real/5.png")
    source = open_source(root)
    assert told(source) == [
        ("fake/3.png", 1, None),
        ("linked/real/4.png", 0, None),
        ("real/1.png", 0, None),
        ("real/2.png", 0, None),
    ]
    assert "1 broken link" in source.notes[0]
    assert source.notes[1:] == (
        "a link to what is listed under another name, left out (like fake/link.png, which is real/1.png)",
    )


def test_pipes_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    plant(tmp_path, "1.png")
    assert len(open_source(tmp_path)) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files_and_folders(tmp_path):
    plant(tmp_path, "a.png", "b.png", "sub/c.png")
    (tmp_path / "a.png").chmod(0)
    (tmp_path / "sub").chmod(0)
    source = open_source(tmp_path)
    (tmp_path / "sub").chmod(0o700)
    assert len(source) == 2 and "can't be listed" in source.notes[0]
    with pytest.raises(BadImage, match="no permission"):
        source.image(0)


def test_odd_file_names(tmp_path):
    names = ["new\nline.png", "tab\t.png", "ünï.png", "-rf.png", "a b.png", "percent%s.png"]
    plant(tmp_path, *names)
    with open(os.fsencode(tmp_path) + b"/bad\xff\xfe.png", "wb") as file:
        file.write(png())
    source = open_source(tmp_path)
    assert len(source) == len(names) + 1
    assert all(source.image(i).shape == (20, 20, 3) for i in range(len(source)))
    assert len(source.fingerprint()) == 64
    assert len(pickle.loads(pickle.dumps(source)).image(0)) == 20
    broken = next(i for i, item in enumerate(source.items) if "\n" in item.path)
    (tmp_path / "new\nline.png").write_bytes(b"")
    with pytest.raises(BadImage) as info:
        source.image(broken)
    assert "\n" not in str(info.value)


def test_files_that_vanish_are_bad_images(tmp_path):
    source = open_source(plant(tmp_path, "a.png"))
    (tmp_path / "a.png").unlink()
    with pytest.raises(BadImage, match="no such file"):
        source.image(0)


def test_zip_is_read_in_place(tmp_path):
    names = ["set/train/real/10.png", "set/train/real/9.png", "set/test/fake/1.png", "set/dataset.json", "set/.x/2.png"]
    source = open_source(zipped(tmp_path / "faces.zip", *names))
    assert told(source) == [
        ("set/test/fake/1.png", 1, "test"),
        ("set/train/real/9.png", 0, "train"),
        ("set/train/real/10.png", 0, "train"),
    ]
    assert source.name == "faces.zip" and source.image(1)[0, 0].tolist() == [1, 0, 50]
    assert sorted(os.listdir(tmp_path)) == ["faces.zip"]


def test_zip_with_hostile_names(tmp_path):
    path, outside = tmp_path / "in" / "evil.zip", tmp_path / "evil.png"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(
            ("../evil.png", "/abs/evil.png", "a/../../evil.png", "win\\fake\\1.png", "real/ok.png")
        ):
            archive.writestr(zipfile.ZipInfo(name), png(number))
        link = zipfile.ZipInfo("real/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("real/ok.png", png(77))
    source = open_source(path)
    assert not outside.exists() and [p.name for p in path.parent.iterdir()] == ["evil.zip"]
    assert {item.path: item.label for item in source.items} == {"win\\fake\\1.png": 1, "real/ok.png": 0}
    assert (
        source.notes[-1] == "3 images outside the real and fake folders, left out (.., a, abs)"
        and len(source.notes) == 2
    )
    assert source.notes[0].startswith("several members are called real/ok.png")
    assert source.image([item.path for item in source.items].index("real/ok.png"))[0, 0, 0] == 77
    only = tmp_path / "only.zip"
    only.write_bytes(zipped(tmp_path / "tmp.zip", "../evil.png", "../../../../etc/x.png").read_bytes())
    source = open_source(only)
    assert [source.image(i).shape for i in range(2)] == [(20, 20, 3)] * 2 and not outside.exists()


def test_zip_members_that_are_broken_or_bombs(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1good.png", png(1))
        archive.writestr("2bomb.png", bytes(10))
        archive.writestr("3crc.png", png(3))
        archive.writestr("4locked.png", png(4))
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        crc = archive.getinfo("3crc.png").CRC.to_bytes(4, "little")
    data = data.replace(crc, b"\1\2\3\4")
    central = data.index(b"PK\1\2")
    for name, at, value in ((b"2bomb.png", 24, (2**31).to_bytes(4, "little")), (b"4locked.png", 8, b"\1\0")):
        entry = data.index(name, central) - 46
        data[entry + at : entry + at + len(value)] = value
    local = data.index(b"4locked.png") - 30
    data[local + 6 : local + 8] = b"\1\0"
    path.write_bytes(data)
    source = open_source(path)
    assert source.image(0).shape == (20, 20, 3)
    for i, reason in ((1, "claims to unpack to 2048 MiB"), (2, "broken in the archive"), (3, "encrypted")):
        with pytest.raises(BadImage, match=reason):
            source.image(i)


def test_a_member_that_claims_more_bytes_than_the_archive_has_is_given_no_memory(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", png(0))
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\1\2")
    data[central + 20 : central + 24] = (2**31 - 1).to_bytes(4, "little")
    path.write_bytes(data)
    source = open_source(path)
    tracemalloc.start()
    with pytest.raises(BadImage, match="broken in the archive .claims 2147483647 bytes"):
        source.image(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def _first_pixels(source: FaceSource) -> list[int]:
    return [int(source.image(i)[0, 0, 0]) for i in range(len(source))]


def test_zip_in_threads_processes_and_after_close(tmp_path):
    source = open_source(zipped(tmp_path / "a.zip", *(f"{i}.png" for i in range(40))))
    expected = list(range(40))
    assert _first_pixels(source) == expected
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: int(source.image(i % 40)[0, 0, 0]), range(400))) == expected * 10
    with multiprocessing.get_context("fork").Pool(2) as pool:  # children inherit an open handle
        assert pool.map(_first_pixels, [source] * 4) == [expected] * 4
    source.close()
    assert _first_pixels(source) == expected
    assert _first_pixels(pickle.loads(pickle.dumps(source))) == expected


def test_real_photos(shared_dir):
    source = open_source(shared_dir / "data" / "foreign_real_utkface")
    assert len(source) == 500 and set(source.labels) == {0} and source.image(0).shape == (200, 200, 3)
    hard = open_source(shared_dir / "data" / "unseen_stylegan2_hardfake")
    assert np.bincount(hard.labels).tolist() == [500, 500]
    assert set(open_source(shared_dir / "data" / "unseen_stylegan2_sfhq").labels) == {1}


def test_photos_that_can_not_be_decoded_here_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "reads_heif", lambda: False)
    monkeypatch.setattr("faces.stores.extensions", lambda: (".jpg", ".png"))
    (tmp_path / "real").mkdir()
    (tmp_path / "real/phone.HEIC").write_bytes(b"x")
    with pytest.raises(UserError, match="no images in .*HEIC.*pip install .*heif.*save them as JPEG"):
        open_source(tmp_path)
    Image.new("RGB", (20, 20)).save(tmp_path / "real/a.png")
    for name in ("new.jxl", "x.NEF", "y.dng", "z.psd", "more.zip", "notes.txt"):
        (tmp_path / "real" / name).write_bytes(b"x")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in (tmp_path / "real").iterdir():
            archive.write(file, file.name)
    for spec in (tmp_path / "real", tmp_path / "a.zip"):
        source = open_source(spec)
        assert len(source) == 1 and len(source.notes) == 5
        notes = " | ".join(source.notes)
        for words in (
            "a HEIC photo (like phone.HEIC), left out: pip install",
            "a JPEG XL picture (like new.jxl), left out: save",
            "2 raw photos (like x.NEF), left out: develop them",
            "a picture of a kind that is not read (like z.psd)",
            "an archive (like more.zip), left out: unpack",
        ):
            assert words in notes


@pytest.mark.parametrize("as_zip", [False, True])
def test_pictures_whose_names_do_not_say_so_are_read_by_their_content(tmp_path, as_zip):
    folder = tmp_path / "set" / "real"
    folder.mkdir(parents=True)
    Image.new("RGB", (20, 20), (9, 99, 200)).save(tmp_path / "a.png")
    picture = (tmp_path / "a.png").read_bytes()
    for name in ("a.jpg_large", "0001", "b.png!d", "c.jpg.2", "photo.2023"):
        (folder / name).write_bytes(picture)
    # neither pictures nor looked at: text without an ending, a sidecar that begins as a picture, an empty file
    for name, content in (("README", b"text"), ("a.json", picture), ("empty", b""), ("raw", b"FUJIFILMCCD-RAW " * 9)):
        (folder / name).write_bytes(content)
    spec = tmp_path / "set"
    if as_zip:
        spec = tmp_path / "set.zip"
        with zipfile.ZipFile(spec, "w") as archive:
            for file in folder.iterdir():
                archive.write(file, f"real/{file.name}")
    source = open_source(spec)
    assert sorted(item.path for item in source.items) == [
        "real/0001", "real/a.jpg_large", "real/b.png!d", "real/c.jpg.2", "real/photo.2023",
    ]  # fmt: skip
    assert all((source.image(i) == [9, 99, 200]).all() for i in range(5))
    notes = " | ".join(source.notes)
    assert "5 pictures whose names do not say so (like real/0001), read by their content" in notes
    assert "a raw photo (like real/raw), left out" in notes and len(source.notes) == 2


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_one_name_are_told_and_the_last_counts(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, grey in (("x/a.png", 10), ("b.png", 20), ("x/a.png", 30), ("n.txt", 0), ("n.txt", 1)):
            buffer = io.BytesIO()
            Image.new("L", (20, 20), grey).save(buffer, "PNG")
            archive.writestr(name, buffer.getvalue())
    source = open_source(tmp_path / "a.zip")
    assert len(source) == 2 and {int(source.image(i)[0, 0, 0]) for i in range(2)} == {20, 30}
    assert source.notes[0].startswith("several members are called x/a.png: only the last")


@pytest.mark.parametrize("as_zip", [False, True])
def test_the_contact_sheet_beside_samples_is_no_sample(tmp_path, as_zip):
    plant(tmp_path / "s", "seed000000.png", "grid.png", "classes/grid.png", "classes/class000/seed000000.png")
    plant(tmp_path / "s", "photos/grid.png", "photos/a.png")  # somebody's photos, with a manifest of the data room
    for folder, text in (("", "file,seed,psi\n"), ("classes/class000", "file,seed\n"), ("photos", "path,label\n")):
        (tmp_path / "s" / folder / "manifest.csv").write_text(text)
    if as_zip:
        with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
            for file in sorted((tmp_path / "s").rglob("*.*")):
                archive.write(file, file.relative_to(tmp_path / "s"))
    source = open_source(tmp_path / ("s.zip" if as_zip else "s"))
    kept = ["classes/class000/seed000000.png", "photos/a.png", "photos/grid.png", "seed000000.png"]
    assert sorted(item.path for item in source.items) == kept
    assert any("2 contact sheets" in note and "grid.png" in note for note in source.notes)
