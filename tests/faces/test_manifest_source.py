"""A manifest as SOURCE: images anywhere, in archives too, with the labels and splits it says."""

import os
import pickle
import tarfile
import unicodedata
import zipfile

import numpy as np
import pytest
from PIL import Image

from common.errors import BadImage, UserError
from discriminator.inputs import expand
from faces.layout import Reading
from faces.manifest import read_manifest, relative_to, text_column, write_manifest
from faces.scan import scan
from faces.source import open_source
from faces.tabulate import table_for, tabulate


def png(seed: int, path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path, "PNG")


@pytest.fixture
def folder(tmp_path):
    """Four photos in folders that name label and split, and two in an archive."""
    for i, name in enumerate(("train/real/a.png", "train/fake/b.png", "test/real/c.png", "test/fake/d.png")):
        png(i, tmp_path / "photos" / name)
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        for i, name in enumerate(("fake/e.png", "../up.png")):
            png(10 + i, tmp_path / "x.png")
            archive.write(tmp_path / "x.png", name)
    (tmp_path / "x.png").unlink()
    return tmp_path


def write(folder, text: str, name: str = "m.csv") -> str:
    (folder / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    return str(folder / name)


def test_labels_splits_and_order_are_the_manifests(folder):
    spec = write(
        folder,
        "path,label,split,note\nphotos/test/real/c.png,fake,train,n1\nmore.zip/fake/e.png,0,val,n2\n"
        "more.zip/../up.png,1,,n3\n" + str(folder / "photos/train/real/a.png") + ",0,test,n4\n",
    )
    source = open_source(spec)
    assert source.labels.tolist() == [1, 0, 1, 0]
    assert [item.split for item in source.items] == ["train", "valid", None, "test"]
    assert source.manifest["note"].tolist() == ["n1", "n2", "n3", "n4"]
    assert (source.image(0) == np.asarray(Image.open(folder / "photos/test/real/c.png"))).all()
    assert source.locate(1) == f"{folder / 'more.zip'}:fake/e.png"
    assert source.read(2) == zipfile.ZipFile(folder / "more.zip").read("../up.png")
    part = open_source(spec, split="valid")
    assert len(part) == 1 and part.manifest["note"].tolist() == ["n2"] and part.read(0) == source.read(1)
    assert pickle.loads(pickle.dumps(source)).read(1) == source.read(1)
    assert open_source(spec, label=1).manifest["note"].tolist() == ["n1", "n3"]


def test_a_list_of_paths_is_judged_by_its_folders(folder):
    source = open_source(write(folder, "path\nphotos/train/real/a.png\nphotos/test/fake/d.png\nmore.zip/fake/e.png\n"))
    assert source.labels.tolist() == [0, 1, 1] and [item.split for item in source.items] == ["train", "test", None]
    plain = open_source(write(folder, "path\nmore.zip/../up.png\n", "p.csv"))
    assert plain.labels.tolist() == [0]


def test_what_is_missing_or_said_twice_is_noted(folder):
    text = "path,label\nphotos/train/real/a.png,0\ngone.png,1\nphotos/train/real/a.png,0\nphotos/train/fake/b.png,\n"
    source = open_source(write(folder, text))
    assert [item.path for item in source.items] == ["photos/train/real/a.png", "gone.png"]
    notes = " ".join(source.notes)
    assert "1 image not there" in notes and "1 image listed before" in notes and "1 image without a label" in notes
    with pytest.raises(BadImage, match="no such file"):
        source.image(1)
    assert [fact.error for fact in scan(source)] == [None, "no such file"]


def test_an_image_is_one_in_every_spelling(folder):
    """`./a.png` beside `a.png` was an image of its own, in a training, in `inspect`, in a split of another label."""
    a = "photos/train/real/a.png"
    (folder / "link").symlink_to("photos")
    others = [
        f"./{a}",
        "photos//train/../train/real/a.png",
        str(folder / a),
        "link/train/real/a.png",
        "more.zip/fake/e.png",
    ]
    rows = "".join(f"{path},0\n" for path in (a, *others, "./more.zip/fake/e.png", "more.zip/./fake/e.png"))
    spec = write(folder, f"path,label\n{rows}")
    source = open_source(spec)
    assert [item.path for item in source.items] == [a, others[-1], "more.zip/./fake/e.png"]
    assert any("5 images listed before" in note for note in source.notes)
    table, _, _ = table_for(spec)
    assert table["path"].tolist() == [a, others[-1]]
    write_manifest(folder / "h.csv", table.select([0, 0, 1]).having(path=text_column([a, f"./{a}", others[-1]])))
    again, _, notes = table_for(str(folder / "h.csv"))
    assert again["path"].tolist() == [a, others[-1]] and "1 row for images that had one" in notes[0]
    with pytest.raises(UserError, match=r"m\.csv: \./photos/.*a\.png is real in row 1 and fake in row 2"):
        open_source(write(folder, f"path,label\n{a},real\n./{a},fake\n"))


def test_an_image_listed_as_both_classes_is_refused(folder):
    """Before: the first row counted, and the other was told as one listed twice."""
    a = "photos/train/real/a.png"
    rows = f"path,label\n{a},real\nphotos/train/fake/b.png,fake\n{a},{{}}\n"
    with pytest.raises(
        UserError, match=r"list\.csv: .*/a\.png is real in row 1 and fake in row 3; delete the wrong row"
    ):
        open_source(write(folder, rows.format("fake"), "list.csv"))
    for same in ("real", "0", ""):
        assert open_source(write(folder, rows.format(same), "list.csv")).labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "path\nno/a.png\nno/b.png\n",
            "none of the 2 images can be found; the first, .*/no/a.png; paths .*: move it back",
        ),
        (
            "path\nC:\\me\\a.png\n",
            r"the only image can't be found: .*own folder: cut off what these have before that folder",
        ),
        ("path\n/home/other/a.png\n", "own folder: cut off what these have before that folder"),
        ("path\n", "a manifest without images"),
        ("path,split\nphotos/train/real/a.png,sometimes\n", "row 1: split is 'sometimes'"),
    ],
)
def test_hopeless_manifests_are_told(folder, text, told):
    with pytest.raises(UserError, match=told):
        open_source(write(folder, text))
    with pytest.raises(UserError, match="has no 'valid' split"):
        open_source(write(folder, "path,split\nphotos/train/real/a.png,train\n"), split="valid")


def test_hostile_rows(folder):
    """Pipes, folders, broken archives, loops and odd names are bad images by name, and hold nobody up."""
    os.mkfifo(folder / "pipe.png")
    os.symlink("loop.png", folder / "loop.png")
    (folder / "broken.zip").write_bytes(b"PK not really")
    (folder / "dir.zip").mkdir()
    png(5, folder / "dir.zip" / "fine.png")
    odd = os.fsdecode(b'l\xff"\n,.png')
    png(6, folder / odd)
    names = ["pipe.png", "loop.png", "photos", "broken.zip/a.png", "more.zip/none.png", "dir.zip/fine.png"]
    quoted = odd.replace('"', '""')
    source = open_source(write(folder, "path\n" + "\n".join(names) + f'\n"{quoted}"\n'))
    facts = {fact.path: fact.error for fact in scan(source)}
    assert facts["dir.zip/fine.png"] is None and facts[odd] is None
    assert all(facts[name] for name in names[:5]) and len(facts) == 7
    assert "not a readable zip archive" in facts["broken.zip/a.png"]


@pytest.mark.parametrize("kind", ["folder", "zip", "manifest"])
def test_a_manifest_of_a_source_is_the_source(folder, kind):
    spec = {"folder": folder / "photos", "zip": folder / "more.zip"}.get(kind)
    if spec is None:
        spec = write(folder, "path,label,who\nphotos/train/real/a.png,0,ann\nmore.zip/fake/e.png,1,bob\n")
    source = open_source(spec)
    table = tabulate(source, scan(source))
    (folder / "deep" / "er").mkdir(parents=True)
    write_manifest(folder / "deep/er/m.csv", relative_to(folder / "deep/er", table))
    again = open_source(folder / "deep/er/m.csv")
    assert again.labels.tolist() == source.labels.tolist()
    assert [item.split for item in again.items] == [item.split for item in source.items]
    assert [again.read(i) for i in range(len(again))] == [source.read(i) for i in range(len(source))]
    if kind == "manifest":
        assert again.manifest["who"].tolist() == ["ann", "bob"]
    moved = folder.rename(folder.with_name(folder.name + "-moved"))
    assert len(open_source(moved / "deep/er/m.csv").read(0)) > 0, "a folder can be moved with its manifest"


def test_members_of_a_tar_are_found_from_another_folder(folder):
    """`tar -cf faces.tar .` calls them ./a.png, and so they are called letter by letter."""
    with tarfile.open(folder / "faces.tar", "w") as archive:
        archive.add(folder / "photos", "./photos")
    before = open_source(write(folder, "path,label\nfaces.tar/./photos/train/real/a.png,real\n"))
    (folder / "deep").mkdir()
    write_manifest(folder / "deep/m.csv", relative_to(folder / "deep", tabulate(before, scan(before))))
    again = open_source(folder / "deep/m.csv")
    assert again.items[0].path == "../faces.tar/./photos/train/real/a.png" and again.read(0) == before.read(0)


def test_hashes_in_a_manifest_are_believed_unless_told_otherwise(folder):
    first, bad, _ = table_for(str(folder / "photos"))
    write_manifest(folder / "m.csv", relative_to(folder, first))
    png(99, folder / "photos/train/real/a.png")
    believed, _, _ = table_for(str(folder / "m.csv"))
    assert believed["sha256"].tolist() == first["sha256"].tolist() and not bad
    fresh, _, _ = table_for(str(folder / "m.csv"), rescan=True)
    assert (fresh["sha256"] != first["sha256"]).sum() == 1


def test_what_can_not_be_named_is_refused(folder):
    with pytest.raises(UserError, match="is drawn, it has no files"):
        source = open_source("demo", max_items=1)
        tabulate(source, scan(source))
    (folder / "more.zip").rename(folder / "more.dat")
    with pytest.raises(UserError, match="rename it to end in .zip"):
        table_for(str(folder / "more.dat"))
    (folder / "bad").mkdir()
    (folder / "bad" / "a.png").write_bytes(b"no")
    with pytest.raises(UserError, match="the only image of .* can't be read: "):
        table_for(str(folder / "bad"))


def test_the_columns_of_issue_4(folder):
    table, _, _ = table_for(str(folder / "photos"))
    write_manifest(folder / "m.csv", table)
    header = (folder / "m.csv").read_text().splitlines()[0].split(",")
    assert header[:10] == "path label source generator split fold sha256 phash size quality".split()
    assert read_manifest(folder / "m.csv")["size"].tolist() == [os.path.getsize(table.located(i)) for i in range(4)]


def test_labels_that_mean_the_opposite_are_refused(folder):
    """The lists beside the 140k set say 1 for real."""
    for i in range(12):
        png(i, folder / f"photos/train/real/more{i}.png")
    lines = [f"photos/train/real/more{i}.png,1\n" for i in range(12)]
    with pytest.raises(UserError, match="every label is the opposite of the folder's name .*`labels` real=1,fake=0"):
        open_source(write(folder, "path,label\n" + "".join(lines)))
    some = open_source(write(folder, "path,label\n" + "".join(lines) + "photos/train/real/a.png,0\n"))
    assert "12 images with another label than the folder's name says" in some.notes[0]


def test_the_manifest_of_samples_lists_fakes(folder):
    from synth.writer import COLUMNS

    png(0, folder / "seed000001.png")
    cells = {"file": "seed000001.png", "seed": "1", "psi": "1.0", "network_sha256": "ab" * 32, "format": "png"}
    line = ",".join(cells.get(name, "") for name in COLUMNS)
    source = open_source(write(folder, ",".join(COLUMNS) + "\n" + line + "\n"))
    assert source.labels.tolist() == [1] and source.manifest["generator"].tolist() == ["abababababab"]
    assert source.image(0).shape == (16, 16, 3)


def test_manifests_of_other_programs(folder):
    """Written on Windows, with other capitals, by a spreadsheet in UTF-16."""
    rows = "photos\\train\\real\\a.png,REAL\nphotos\\train\\fake\\b.png,Fake\nmore.zip\\fake\\e.png,1\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (folder / "m.csv").write_text("Path,LABEL\n" + rows, encoding=encoding, newline="\r\n")
        source = open_source(folder / "m.csv")
        assert source.labels.tolist() == [0, 1, 1] and source.image(0).shape == (16, 16, 3)
        assert source.image(2).shape == (16, 16, 3) and source.manifest["path"][0] == "photos/train/real/a.png"
        assert any("3 images with backslashes" in note for note in source.notes)
    (folder / "m.csv").write_text("Path,path\na.png,photos/train/real/a.png\n")  # both there: the exact one counts
    assert open_source(folder / "m.csv").items[0].path == "photos/train/real/a.png"
    (folder / "m.csv").write_bytes("path\nab".encode("utf-16")[:-1])
    with pytest.raises(UserError, match="not a readable CSV"):
        open_source(folder / "m.csv")


def test_a_list_as_a_german_spreadsheet_saves_it(folder):
    """Semicolons, Windows-1252, backslashes; words for the labels that only a person can explain."""
    for number, name in enumerate(("Müller – 2019.png", "Äpfel.png")):
        png(number, folder / "Familie Groß" / name)
    rows = "Familie Groß\\Müller – 2019.png;echt\r\nFamilie Groß\\Äpfel.png;gefälscht\r\n"
    (folder / "m.csv").write_bytes(("path;label\r\n" + rows).encode("cp1252"))
    with pytest.raises(UserError, match="say `labels` 'real=echt,fake=gefälscht', or the other way round"):
        open_source(folder / "m.csv")
    source = open_source(folder / "m.csv", reading=Reading("real=echt,fake=gefälscht"))
    assert source.labels.tolist() == [0, 1] and source.image(1).shape == (16, 16, 3)
    assert source.manifest["path"].tolist() == ["Familie Groß/Müller – 2019.png", "Familie Groß/Äpfel.png"]
    assert [note.partition(": ")[2] for note in source.notes][:2] == [
        "2 images with backslashes in their paths, which were taken as slashes",
        "2 images with paths that are not UTF-8, taken as Windows-1252",
    ]
    listed = [os.path.relpath(path, folder) for path in expand([str(folder / "m.csv")])]
    assert listed == source.manifest["path"].tolist(), "detect.py finds what training finds"


@pytest.mark.skipif(os.name == "nt", reason="names are bytes elsewhere")
def test_a_name_that_is_no_utf8_on_the_disk_either(folder):
    name = os.fsdecode("Müller.png".encode("cp1252"))
    png(0, folder / "photos" / name)
    source = open_source(write(folder, f"path\nphotos/{name}\n"))
    assert source.items[0].path == f"photos/{name}" and not source.notes


def test_accents_apart_from_their_letters(folder):
    """A folder that came from a Mac, a list that did not, and the other way round."""
    for number, form in enumerate(("NFC", "NFD")):
        other = "NFD" if form == "NFC" else "NFC"
        name = f"Zoë{number}.png"
        png(number, folder / "photos" / unicodedata.normalize(form, name))
        source = open_source(write(folder, f"path\nphotos/{unicodedata.normalize(other, name)}\n"))
        assert source.image(0).shape == (16, 16, 3) and not source.notes


@pytest.mark.skipif(os.name == "nt", reason="a backslash is no part of a name there")
def test_a_backslash_that_is_part_of_a_name(folder):
    png(7, folder / "photos" / "odd\\name.png")
    source = open_source(write(folder, "path\nphotos/odd\\name.png\n"))
    assert source.items[0].path == "photos/odd\\name.png" and not source.notes
