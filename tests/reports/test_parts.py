"""Judging in parts: whatever is killed and whenever, each file is in the table once, in order."""

from __future__ import annotations

import csv
import random
import tarfile
import zipfile

import pytest

from common.errors import BadImage, UserError
from discriminator.inputs import expand, paths_from
from discriminator.options import DetectOptions
from discriminator.results import Result
from discriminator.verdict import Verdict
from discriminator.words import of_photo
from faces.stores import ManifestStore
from faces.tars import TarStore
from reports.part_options import Part, PartOptions
from reports.part_ray import judge_by_ray
from reports.parts import Source, judge_part, merge, part_path, read_head
from reports.verdicts import CsvOut

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

FILES = [f"photos/{i:03d}.jpg" for i in range(47)]


class Killed(BaseException):
    """As `kill -9` between two lines of code, less what a finally would do."""


def judge(files, on_read, fail_after=None):
    """Every fifth file has two faces, every seventh none that could be read."""
    for i, file in enumerate(files):
        if fail_after is not None and i >= fail_after:
            raise Killed
        number = int(file[7:10])
        if number % 7 == 0:
            yield Result(file, None, "not an image")
        else:
            for face in range(1, 3 if number % 5 == 0 else 2):
                box = {"index": face, "of": 2, "score": 0.9, "seen_as": "ffhq", "box": [1.0, 2.0, 3.0, 4.5]}
                yield Result(file, None, no_face=True, face=box, stages={"read": 0.25})
        on_read()


def run(part, folder, source=None, fail_after=None):
    told = []
    source = source or Source(FILES, {"detector": "abc"})
    call = lambda files, on_read: judge(files, on_read, fail_after)  # noqa: E731
    return judge_part(source, part, folder, call, tell=told.append, progress=lambda *_: None), told


@pytest.mark.parametrize(("files", "parts"), [(47, 4), (3, 8), (0, 2), (8, 8), (1000003, 7)])
def test_parts_are_all_of_it_and_share_nothing(files, parts):
    shares = [Part(i, parts).files(files) for i in range(parts)]
    assert [k for share in shares[:8] for k in share] == list(range(files))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_killed_again_and_again_nothing_is_lost_and_nothing_twice(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    rng = random.Random(3)
    kills = 0
    for number in rng.sample(range(4), 4):
        part = Part(number, 4)
        journal = part_path(tmp_path, part).with_suffix(".jsonl")
        for after in (rng.choice([1, 3]), 0, rng.choice([1, 2]), None):
            try:
                run(part, tmp_path, fail_after=after)
            except Killed:
                kills += 1
                assert not part_path(tmp_path, part).exists()
                data = journal.read_bytes()
                journal.write_bytes(data[: len(data) - rng.choice([0, 0, 1, 20])])  # half a line, as a crash leaves it
        assert not journal.exists()
    assert kills == 12
    merged = merge(tmp_path, None)
    assert merged.files == 47 and merged.counts == {"unreadable": 7, "no face": 40 + 8}
    table = pq.read_table(merged.path).to_pylist()
    want = [(i, face) for i in range(47) for face in ([None] if i % 7 == 0 else [1, 2] if i % 5 == 0 else [1])]
    assert [(row["index"], row["face"]) for row in table] == want
    assert [row["file"] for row in table] == [FILES[i] for i, _ in want]
    assert table[1]["y1"] == 4.5 and table[1]["seconds"] == 0.25 and table[0]["error"] == "not an image"
    csv = merge(tmp_path, tmp_path / "all.csv")
    assert len(csv.path.read_text().splitlines()) == 1 + len(want)


def test_a_part_that_is_there_is_not_judged_again(tmp_path):
    pytest.importorskip("pyarrow")
    path, _ = run(Part(1, 2), tmp_path)
    before = path.read_bytes()
    again, told = run(Part(1, 2), tmp_path, fail_after=0)
    assert again == path and path.read_bytes() == before and "nothing is left to do" in told[0]
    assert read_head(path)["part"] == [1, 2]


def test_parts_of_other_files_or_detectors_never_meet(tmp_path):
    pytest.importorskip("pyarrow")
    run(Part(0, 2), tmp_path)
    for other in (Source(FILES[:-1], {"detector": "abc"}), Source(FILES, {"detector": "xyz"})):
        with pytest.raises(UserError, match="other files, another detector"):
            run(Part(0, 2), tmp_path, other)
        with pytest.raises(UserError, match="part-00000-of-00002.parquet: is of other files.*choose another `out`"):
            run(Part(1, 2), tmp_path, other)  # before it is judged, not when all of them are
        run(Part(1, 2), tmp_path / "other", other)
        part_path(tmp_path / "other", Part(1, 2)).rename(part_path(tmp_path, Part(1, 2)))  # made at the same time
        with pytest.raises(UserError, match="other files, another detector.*remove it, and judge that part again"):
            merge(tmp_path, None)
        part_path(tmp_path, Part(1, 2)).unlink()
    part_path(tmp_path, Part(0, 2)).unlink()
    with pytest.raises(Killed):
        run(Part(1, 2), tmp_path, fail_after=2)
    with pytest.raises(UserError, match=r"jsonl: is of other files.*\(what differs: detector\); choose another `out`"):
        run(Part(1, 2), tmp_path, Source(FILES, {"detector": "xyz"}))


def test_files_that_could_not_be_read_are_told(tmp_path):
    """A source that is not there (a volume that was not mounted) is such a file; the exit code does not tell it."""
    pytest.importorskip("pyarrow")
    _, told = run(Part(0, 2), tmp_path)
    assert told == ["4 files of 23 could not be read; the first, photos/000.jpg: not an image"]
    with pytest.raises(Killed):
        run(Part(1, 2), tmp_path, fail_after=10)
    _, told = run(Part(1, 2), tmp_path)
    assert told[1:] == ["3 files of 24 could not be read; the first, photos/028.jpg: not an image"], "of both tries"


def test_a_folder_has_one_number_of_parts(tmp_path):
    pytest.importorskip("pyarrow")
    run(Part(0, 2), tmp_path)
    with pytest.raises(UserError, match="part-00000-of-00002.parquet: is a part of 2, and 3 were asked for"):
        run(Part(0, 3), tmp_path)


def test_ray_looks_at_what_parts_are_of_before_it_counts_them_as_done(tmp_path):
    """Needs no Ray: nothing is left for it to do."""
    pytest.importorskip("pyarrow")
    source, told = Source(FILES, {"detector": "abc"}), []

    def by_ray(of, source=source):
        judge_by_ray(DetectOptions(inputs=("x",)), source, of, tmp_path, tell=told.append, progress=lambda *_: None)

    for i in range(2):
        run(Part(i, 2), tmp_path)
    by_ray(2)
    assert told == ["2 of 2 parts were judged already: nothing is left to do"]
    with pytest.raises(UserError, match=r"part-00000-of-00002.parquet: is of other files.*what differs: detector\)"):
        by_ray(2, Source(FILES, {"detector": "xyz"}))
    run(Part(1, 2), tmp_path / "other", Source(FILES, {"detector": "xyz"}))
    part_path(tmp_path / "other", Part(1, 2)).replace(part_path(tmp_path, Part(1, 2)))
    with pytest.raises(UserError, match="part-00001-of-00002.parquet: is of other files"):
        by_ray(2)
    with pytest.raises(UserError, match="is a part of 2, and 3 were asked for"):
        by_ray(3)


def test_a_merged_csv_has_no_formulas_and_the_parquet_file_has_the_names_as_they_are(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    names = ["=1+2.jpg", "-x.jpg", "plain.jpg"]
    source = Source(names, {"detector": "abc"})

    def call(files, on_read):
        for file in files:
            yield Result(file, None, "not an image")
            on_read()

    judge_part(source, Part(0, 1), tmp_path, call, tell=print, progress=lambda *_: None)
    assert pq.read_table(merge(tmp_path, None).path).column("file").to_pylist() == names
    with open(merge(tmp_path, tmp_path / "all.csv").path, newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == ["./=1+2.jpg", "./-x.jpg", "plain.jpg"]


def test_each_face_has_its_photos_one_answer_as_in_a_csv(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")

    def call(files, on_read):
        for file, labels in zip(files, (("FAKE", "REAL"), ("REAL",)), strict=True):
            for i, label in enumerate(labels, start=1):
                face = {"index": i, "of": len(labels), "score": 0.9, "seen_as": "ffhq", "box": [1.0, 2.0, 3.0, 4.5]}
                yield Result(file, Verdict(label, 0.5, 0.6, 0.4, 0.01, 200, 0.0), face=face)
            on_read()

    judge_part(Source(["a.jpg", "b.jpg"], {}), Part(0, 1), tmp_path, call, tell=print, progress=lambda *_: None)
    told = pq.read_table(merge(tmp_path, None).path).column("photo").to_pylist()
    assert told == 2 * [of_photo(["FAKE", "REAL"]).headline] + [None]


def test_a_table_that_was_named_is_a_new_file(tmp_path):
    pytest.importorskip("pyarrow")
    run(Part(0, 1), tmp_path / "parts")
    (tmp_path / "photos.csv").write_text("path")
    for name, why in (
        ("photos.csv", "exists"),
        ("parts/part-00000-of-00001.parquet", "exists"),
        ("no/a.csv", "no folder"),
    ):
        with pytest.raises(UserError, match=f"`out` .*{why}"):
            merge(tmp_path / "parts", tmp_path / name)
    assert (tmp_path / "photos.csv").read_text() == "path"
    assert merge(tmp_path / "parts", None) == merge(tmp_path / "parts", None), "the folder's own table may be made anew"


def test_what_is_missing_is_named(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    with pytest.raises(UserError, match="holds no part"):
        merge(tmp_path, None)
    run(Part(1, 3), tmp_path)
    with pytest.raises(UserError, match=r"2 of 3 parts are missing \(0/3, 2/3\)"):
        merge(tmp_path, None)
    run(Part(0, 3), tmp_path)
    path, _ = run(Part(2, 3), tmp_path)
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    with pytest.raises(UserError, match="hold each of its files once"):
        merge(tmp_path, None)
    path.write_bytes(b"PAR1")
    with pytest.raises(UserError, match="not a part of `shard`"):
        merge(tmp_path, None)
    assert not (tmp_path / "verdicts.parquet").exists()


@pytest.mark.skipif(resource is None, reason="needs a limit on the size of files")
def test_a_disk_that_fills_names_the_file(tmp_path):
    """Each write to an open file is an error without a name; so is the one more when it is closed."""
    pytest.importorskip("pyarrow")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    table = CsvOut(str(tmp_path / "v.csv"), ("file", "note"), "csv", print)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        with pytest.raises(OSError) as journal:
            run(Part(0, 1), tmp_path)
        with pytest.raises(OSError) as row:
            for _ in range(100):
                table.add({"file": "a.jpg", "note": "x" * 100})
        with pytest.raises(OSError) as end:
            table.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert journal.value.filename == str(tmp_path / "part-00000-of-00001.jsonl")
    assert row.value.filename == end.value.filename == str(tmp_path / "v.csv")
    assert read_head(run(Part(0, 1), tmp_path)[0])["files"] == 47, "what was there is gone on from"


def test_two_processes_do_not_judge_one_part(tmp_path):
    pytest.importorskip("pyarrow")
    held = []

    def second(files, on_read):
        with pytest.raises(UserError, match="another process is judging this part"):
            run(Part(0, 1), tmp_path)
        held.append(True)
        yield from judge(files, on_read)

    source = Source(FILES, {"detector": "abc"})
    judge_part(source, Part(0, 1), tmp_path, second, tell=lambda _: None, progress=lambda *_: None)
    assert held and merge(tmp_path, None).files == 47


@pytest.mark.parametrize("shard", ["1", "1/1", "8/8", "-1/2", "a/b", "0/0", "1/2/3", "0.5/2"])
def test_what_is_no_part_is_refused(shard):
    with pytest.raises(UserError, match="`shard`"):
        PartOptions(shard=shard, out="parts")


def test_shard_and_out_belong_together():
    for given in ({"shard": "0/2"}, {"out": "parts"}):
        with pytest.raises(UserError, match="belong together"):
            PartOptions(**given)


def test_members_of_a_tar_are_found_and_read(tmp_path):
    for name, data in (("b.jpg", b"B" * 700), ("a.png", b"A"), (".hidden.jpg", b"H"), ("note.json", b"{}")):
        (tmp_path / name).write_bytes(data)
    path = tmp_path / "shard-000.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("b.jpg", "a.png", ".hidden.jpg", "note.json"):
            archive.add(tmp_path / name, f"inner/{name}")
        link = tarfile.TarInfo("inner/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    names = list(expand([str(path)]))
    assert names == [f"{path}/inner/a.png", f"{path}/inner/b.jpg"]
    store = ManifestStore("")
    assert [store.read(name) for name in names] == [b"A", b"B" * 700] and store.is_inside(names[0])
    assert store.entry(names[1]).size == 700 and store.entry(f"{path}/inner/none.jpg") is None
    with pytest.raises(BadImage, match="not in the archive"):
        store.read(f"{path}/inner/link.jpg")
    cut = tmp_path / "cut.tar"
    cut.write_bytes(path.read_bytes()[: TarStore(str(path)).members()["inner/b.jpg"][0] + 300])
    with pytest.raises(BadImage, match="cut off"):
        TarStore(str(cut)).read("inner/b.jpg")
    name, trouble = expand([str(cut)])
    assert name == f"{cut}/inner/b.jpg" and "cut off after 1 members" in trouble.error, "what is lost is told"
    (tmp_path / "zipped.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    (bad,) = expand([str(tmp_path / "zipped.tar")])
    assert isinstance(bad, Result) and "not a readable uncompressed tar archive" in bad.error


def test_a_member_whose_name_looks_like_a_pattern_is_found_by_its_name(tmp_path):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("img[1].jpg", b"A")
    (name,) = expand([str(path)])
    assert list(expand([name])) == [name] == [f"{path}/img[1].jpg"]
    (none,) = expand([f"{path}/img[2].jpg"])
    assert isinstance(none, Result) and "no image is called like this pattern" in none.error


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])  # with the mark that Windows writes before UTF-8
def test_paths_from_a_stream(mark):
    blocks = iter([mark + "a.jpg\r\n\nb/ä".encode(), b".png\nlast", b""])
    assert list(paths_from(lambda _: next(blocks))) == ["a.jpg", "b/ä.png", "last"]


@pytest.mark.parametrize("coding", ["utf-16-le", "utf-16-be"])
def test_a_list_in_utf_16_is_refused_by_its_name(coding):
    with pytest.raises(UserError, match="in UTF-16; give it in UTF-8"):
        list(paths_from(lambda _: "\ufeffa.jpg\n".encode(coding)))
