"""Manifests survive the way to the disk and back, in both formats, whatever names they hold; bad ones are told."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from faces.manifest import NUMBERS, Manifest, read_manifest, relative_to, text_column, write_manifest

# everything that a file name may hold: any character but NUL, and bytes that are not UTF-8 (as Python shows them)
CHARACTERS = st.one_of(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    st.sampled_from([os.fsdecode(bytes([b])) for b in range(128, 256)]),
    st.sampled_from('",;\t\r\n\\ \u2028\x85\ufeff'),
)
NAMES = st.text(CHARACTERS, min_size=1, max_size=12).map(lambda text: os.fsdecode(os.fsencode(text)))
TEXTS = st.text(CHARACTERS, max_size=8).map(lambda text: os.fsdecode(os.fsencode(text)))


@st.composite
def manifests(draw) -> Manifest:
    count = draw(st.integers(0, 6))

    def column(values):
        return draw(st.lists(values, min_size=count, max_size=count))

    columns = {"path": text_column(column(NAMES))}
    for name in draw(st.sets(st.sampled_from(["source", "generator", "sha256", "format", "identity", 'a, "b"']))):
        columns[name] = text_column(column(TEXTS))
    if draw(st.booleans()):
        columns["split"] = text_column(column(st.sampled_from(["", "train", "valid", "test"])))
    for name in draw(st.sets(st.sampled_from(sorted(NUMBERS)))):
        kind, unknown, largest = NUMBERS[name]
        columns[name] = np.array(column(st.integers(min(unknown, 0), largest)), dtype=kind)
    return Manifest(columns)


def same(a: Manifest, b: Manifest) -> bool:
    return a.columns.keys() == b.columns.keys() and all(
        values.dtype == b.columns[name].dtype and values.tolist() == b.columns[name].tolist()
        for name, values in a.columns.items()
    )


@given(manifest=manifests())
@example(manifest=Manifest({"path": text_column([" ", ". "])}))  # what is left of these is the list's own folder
@settings(max_examples=50, deadline=None)
def test_csv_round_trip(tmp_path_factory, manifest):
    path = tmp_path_factory.mktemp("m") / "m.csv"
    write_manifest(path, manifest)
    assert same(read_manifest(path), manifest)
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.reader(file))  # what any other program sees
    assert rows[0] == list(manifest.columns) and [row[0] for row in rows[1:]] == manifest["path"].tolist()


@given(manifest=manifests())
@settings(max_examples=20, deadline=None)
def test_parquet_round_trip(tmp_path_factory, manifest):
    pytest.importorskip("pyarrow")
    path = tmp_path_factory.mktemp("m") / "m.parquet"
    write_manifest(path, manifest)
    assert same(read_manifest(path), manifest)


def test_bytes_of_the_file_names_are_in_the_file(tmp_path):
    write_manifest(tmp_path / "m.csv", Manifest({"path": text_column([os.fsdecode(b"\xff\n.png")])}))
    assert (tmp_path / "m.csv").read_bytes() == b'path\n"\xff\n.png"\n'


@pytest.mark.parametrize(
    ("text", "path", "label"),
    [
        ("path,label\na.png,1\n", ["a.png"], [1]),
        ("\ufeffpath;label\r\na.png;real\r\nb,c.png;FAKE\r\n", ["a.png", "b,c.png"], [0, 1]),
        ("label\tpath\n0\ta.png\n\n", ["a.png"], [0]),
        ("path,label\na.png,\nb.png,1.0\n", ["a.png", "b.png"], [-1, 1]),
        ("path\na.png", ["a.png"], [-1]),
        ("\ufeff\r\n;;\r\npath;label\r\na.png;1\r\n", ["a.png"], [1]),
    ],
)
def test_what_other_programs_write(tmp_path, text, path, label):
    file = tmp_path / "m.csv"
    file.write_text(text, encoding="utf-8")
    manifest = read_manifest(file)
    assert manifest["path"].tolist() == path and manifest["label"].tolist() == label


def test_blanks_around_paths_are_left_out_where_they_are_no_part_of_the_names(tmp_path):
    (tmp_path / "m.csv").write_text("label, path\nfake, a.png\nreal, b.png \n")
    assert read_manifest(tmp_path / "m.csv")["path"].tolist() == [" a.png", " b.png "]
    (tmp_path / "a.png").touch()
    found = read_manifest(tmp_path / "m.csv")
    assert found["path"].tolist() == ["a.png", "b.png"] and "the blanks around its paths" in found.notes[0]
    (tmp_path / " a.png").touch()
    found = read_manifest(tmp_path / "m.csv")
    assert found["path"].tolist() == [" a.png", " b.png "] and not found.notes, "such names exist"


def test_cells_of_spreadsheets(tmp_path):
    (tmp_path / "m.csv").write_text("path,split,quality,phash,fold,size\na,Validation,90.0,00ff,nan,\n")
    m = read_manifest(tmp_path / "m.csv")
    assert [m[c][0] for c in ("split", "quality", "phash", "fold", "size")] == ["valid", 90, 255, -1, -1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no column «path»"),
        ("name,label\na,1\n", "it has: name, label"),
        ("path,label,label\na,1,1\n", "'label' twice"),
        ("path,label\na,1\nb,maybe\n", "row 2: label is 'maybe'; it must be 0, 1, real, fake"),
        ("path,split\na,train\nb,holdout\n", "row 2: split is 'holdout'"),
        ("path,phash\na,xyz\n", "16 hexadecimal digits"),
        ("path,quality\na,101\n", "row 1: quality is '101'"),
        ("path,size\na,1.5\n", "whole number"),
        ("path,fold\na,99999999999\n", "whole number"),
        ("path,label\na,b,1\n", "row 1, line 2: 3 cells where the header has 2"),
        ("path,label\n,1\n", "row 1: no path"),
        ('path\n"a\n', "not a readable CSV"),
        ("path\n" + "x" * 200_000 + "\n", "not a readable CSV"),
    ],
)
def test_bad_manifests_are_told_in_one_line(tmp_path, text, told):
    file = tmp_path / "m.csv"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        read_manifest(file)
    assert told in str(error.value) and str(file) in str(error.value) and "\n" not in str(error.value)


def test_errors_name_the_row_beyond_the_first_part(tmp_path):
    (tmp_path / "m.csv").write_text("path,label\n" + "a,1\n" * 45_000 + "a,2\n")
    with pytest.raises(UserError, match="row 45001: label is '2'"):
        read_manifest(tmp_path / "m.csv")


def test_nothing_is_overwritten_and_names_are_checked(tmp_path):
    manifest = Manifest({"path": text_column(["a"])})
    file = tmp_path / "m.csv"
    write_manifest(file, manifest)
    with pytest.raises(UserError, match="exists and is not overwritten"):
        write_manifest(file, manifest)
    write_manifest(file, manifest.select([]), replace=True)
    assert len(read_manifest(file)) == 0
    for name, told in {"m.txt": "must end in .csv", "no/m.csv": "there is no folder", "d.csv": "is a folder"}.items():
        (tmp_path / "d.csv").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=told):
            write_manifest(tmp_path / name, manifest, replace=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.csv", "m.csv"]


def test_parquet_without_pyarrow_is_told(tmp_path):
    code = (
        "import sys; sys.modules['pyarrow'] = None\nfrom faces.manifest import *\n"
        f"write_manifest({str(tmp_path / 'm.parquet')!r}, Manifest({{'path': text_column(['a'])}}))"
    )
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert "Parquet needs pyarrow, not installed here: it comes with the extra parquet" in run.stderr
    assert not list(tmp_path.iterdir())


def test_columns_and_selection():
    m = Manifest({"path": text_column(["a", "b", "c"]), "label": np.array([0, 1, -1], dtype=np.int8)})
    assert m["fold"].tolist() == [-1] * 3 and m["split"].tolist() == [""] * 3 and "fold" not in m
    assert m.select(m["label"] == 1)["path"].tolist() == ["b"] and m.select([2, 0])["path"].tolist() == ["c", "a"]
    with pytest.raises(KeyError):
        m["colour"]
    with pytest.raises(ValueError, match="equally long"):
        Manifest({"path": text_column(["a"]), "label": np.zeros(2)})
    with pytest.raises(ValueError, match="column path"):
        Manifest({"label": np.zeros(2)})


def test_paths_follow_the_manifest_to_another_folder(tmp_path):
    below = str(tmp_path / "out" / "x.png")
    m = Manifest(
        {"path": text_column(["a/b.png", "../c.png", "z.zip/../d.png", "/abs.png", below])}, str(tmp_path / "in")
    )
    moved = relative_to(tmp_path / "out", m)
    assert moved["path"].tolist() == ["../in/a/b.png", "../c.png", "../in/z.zip/../d.png", "/abs.png", "x.png"]
    for i in (0, 1, 3, 4):
        assert os.path.realpath(moved.located(i)) == os.path.realpath(m.located(i))
