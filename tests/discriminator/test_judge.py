"""Files and folders to verdicts: nothing lost, nothing out of order, one bad file never in the way."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from discriminator.calibration import calibrate
from discriminator.detector_base import DetectorBase, Raw
from discriminator.files import judge_files
from discriminator.inputs import list_images, named
from discriminator.join import FACE_ONLY, PIXELS_ONLY, Join
from discriminator.judge import Judge
from discriminator.results import Result, Totals
from discriminator.video import judge_video
from faces.finding.face import turned
from faces.finding.face_step import FaceStep
from faces.preprocess import Preprocess
from tests.faces.test_pasted import Finder, face_of, photo


@pytest.fixture
def folder(tmp_path, photos):
    (tmp_path / "sub").mkdir()
    for i, name in enumerate(["b.png", "a.jpg", "sub/c.png", "sub/d.webp"]):
        Image.fromarray(photos[i]).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"")
    return tmp_path


def test_folders_are_listed_by_path_and_files_as_given(folder):
    files, failures = list_images(
        [str(folder / "sub" / "d.webp"), str(folder), str(folder / "notes.txt"), "absent.png"]
    )
    names = [f.removeprefix(f"{folder}/") for f in files]
    assert names == ["sub/d.webp", "a.jpg", "b.png", "sub/c.png", "sub/d.webp", "notes.txt", "absent.png"]
    assert failures == []


def test_a_file_is_judged_once_however_often_and_however_it_is_named(folder, monkeypatch):
    """`a.jpg ./a.jpg` counted as two photos, and so did a folder beside a file in it, and two rows of a manifest."""
    monkeypatch.chdir(folder)
    (folder / "link.jpg").symlink_to("a.jpg")
    (folder / "elsewhere").symlink_to("sub")
    with zipfile.ZipFile("z.zip", "w") as archive:
        archive.write("a.jpg")
    (folder / "m.csv").write_text(f"path\nb.png\n./b.png\n{folder}/b.png\nsub/../b.png\nz.zip/a.jpg\n./z.zip/a.jpg\n")

    def told(*inputs):
        files, notes = named(inputs, lambda: lambda n: b"")
        return files, [note.split(" named")[0] for note in notes]

    assert told("b.png", "a.jpg") == (["b.png", "a.jpg"], [])
    assert told("b.png", "./b.png", "a.jpg") == (["b.png", "a.jpg"], ["./b.png is"])
    assert told("a.jpg", "link.jpg", str(folder / "a.jpg")) == (["a.jpg"], ["2 files (like link.jpg) are"])
    assert told("elsewhere/c.png", "sub") == (["elsewhere/c.png", "sub/d.webp"], ["sub/c.png is"])
    assert told("elsewhere/../a.jpg", "a.jpg") == (["elsewhere/../a.jpg"], ["a.jpg is"])
    assert told("m.csv") == (["./b.png", "./z.zip/a.jpg"], ["4 files (like ././b.png) are"])
    assert told("z.zip", "z.zip/a.jpg") == (["z.zip/a.jpg"], ["z.zip/a.jpg is"])
    files, notes = told("absent", "none*", "none*", "")
    assert files[0] == "absent" and len(files) == 4 and notes == []
    (folder / "sub" / "a.jpg").write_bytes((folder / "a.jpg").read_bytes())
    assert told("sub/a.jpg", "a.jpg")[1] == [], "a copy is a file of its own"


def test_each_line_on_stdin_has_its_answer(folder):
    lines = iter([f"{folder}/a.jpg\n{folder}/a.jpg\n".encode(), b""])
    files, notes = named("-", lambda: lambda n: next(lines))
    assert list(files) == [f"{folder}/a.jpg"] * 2 and notes == []


def test_an_empty_folder_is_a_failure(tmp_path):
    files, failures = list_images([str(tmp_path)])
    assert files == [] and failures[0].verdict is None and "no image files" in failures[0].error


def test_what_a_folder_holds_and_cannot_be_judged_is_said(folder):
    (folder / "phone.HEIC").write_bytes(b"x")
    (folder / "nowhere.jpg").symlink_to("gone")
    files, failures = list_images([str(folder)])
    assert [f.removeprefix(f"{folder}/") for f in files] == ["a.jpg", "b.png", "phone.HEIC", "sub/c.png", "sub/d.webp"]
    assert [(f.file, f.error) for f in failures] == [(str(folder), "1 broken link, left out")]


def test_broken_files_keep_their_place(detector, folder, photos):
    (folder / "broken.jpg").write_bytes((folder / "a.jpg").read_bytes()[:200])
    (folder / "text.jpg").write_text("not a photo")
    Image.fromarray(photos[5]).save(folder / "tiny.png")
    names = ["broken.jpg", "b.png", "text.jpg", "sub/c.png", "tiny.png", "absent.png", "a.jpg"]
    files = [str(folder / name) for name in names]
    expected = {
        name: detector.predict([np.asarray(Image.open(folder / name).convert("RGB"))])[0].logit
        for name in ("b.png", "sub/c.png")
    }
    for batch in (1, 2, 3, 32):
        judged = list(judge_files(Judge(detector, batch=batch), files))
        assert [j.file for j in judged] == files
        assert [j.verdict is None for j in judged] == [True, False, True, False, True, True, False]
        for j in judged:
            name = j.file.removeprefix(f"{folder}/")
            if name in expected:
                assert j.verdict.logit == pytest.approx(expected[name], abs=1e-5)
            assert bool(j.error) == (j.verdict is None) and "\n" not in j.error
            assert j.photo is None
    assert "no such file" in judged[5].error and "too small" in judged[4].error


def test_photos_are_kept_small_and_only_on_demand(detector, folder):
    (judged,) = judge_files(Judge(detector, keep_photos=True), [str(folder / "sub" / "d.webp")])
    assert judged.photo.shape == (448, 298, 3)


@pytest.mark.parametrize(
    "counts, code, strict",
    [
        ((2, 0, 0, 0), 0, 0),
        ((2, 1, 0, 0), 1, 1),
        ((2, 0, 1, 0), 0, 1),
        ((2, 0, 0, 1), 2, 2),
        ((0, 1, 0, 1), 1, 1),
        ((0, 0, 0, 1), 2, 2),
        ((0, 0, 1, 1), 2, 1),
    ],
)
def test_exit_codes(counts, code, strict):
    totals = Totals(*counts)  # real, fake, unsure, unreadable
    assert (totals.exit_code(), totals.exit_code(strict=True)) == (code, strict)


def test_totals_count_every_outcome(detector, photos):
    totals = Totals()
    for verdict in detector.predict(photos):
        totals.add(Result("x", verdict))
    totals.add(Result("y", None, "broken"))
    assert totals.judged == len(photos) and totals.unreadable == 1


def test_a_manifest_is_a_list_of_files(folder):
    (folder / "m.csv").write_text("label,path\n1,sub/c.png\n,a.jpg\n0,more.zip/x.png\n")
    files, failures = list_images([str(folder / "m.csv")])
    assert [f.removeprefix(f"{folder}/") for f in files] == ["sub/c.png", "a.jpg", "more.zip/x.png"] and not failures
    (folder / "windows.csv").write_text("path\nsub\\c.png\nsub\\none.png\n")  # as a training takes them, too
    files, _ = list_images([str(folder / "windows.csv")])
    assert [f.removeprefix(f"{folder}/") for f in files] == ["sub/c.png", "sub\\none.png"]
    (folder / "bad.csv").write_text("name\na.jpg\n")
    assert [(one.file, one.error.split(" (")[0]) for one in list_images([""])[1]] == [("''", "an empty name")]
    files, failures = list_images([str(folder / "bad.csv")])
    assert files == [] and "no column «path»" in failures[0].error


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["photos.zip", "photos.cbz", "photos"])
def test_an_archive_is_judged_as_its_folder_would_be(detector, folder, name, tmp_path_factory):
    """By any name; through a manifest, a pattern and an outer path, too."""
    for child, content in (
        ("broken.jpg", b"\xff\xd8\xff"),
        ("inner.zip", b"PK\x05\x06" + bytes(18)),
        ("x.nef", b"II*\0"),
    ):
        (folder / child).write_bytes(content)
    (folder / "named.jpg_large").write_bytes((folder / "a.jpg").read_bytes())
    plain, lost = list_images([str(folder)])
    packed = tmp_path_factory.mktemp("packed") / name
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
        archive.write(folder / "a.jpg", "a.jpg")
    files, failures = list_images([str(packed)])
    assert [f.removeprefix(f"{packed}/") for f in files] == [f.removeprefix(f"{folder}/") for f in plain]
    assert f"{folder}/named.jpg_large" in plain and f"{folder}/x.nef" in plain
    assert [f.error for f in lost] == [f.error for f in failures][:-1] and "inner.zip" in lost[0].error
    assert failures[-1].error.startswith("several members are called a.jpg")
    judge = Judge(detector)
    results = list(judge_files(judge, files))
    for inside, outside in zip(results, judge_files(judge, plain), strict=True):
        assert inside.error.replace(f"{packed}:", "") == outside.error.replace(f"{folder}/", "")
        assert (inside.verdict is None) == (outside.verdict is None)
        if inside.verdict is not None:
            assert inside.verdict.logit == pytest.approx(outside.verdict.logit, abs=1e-5)
    assert sum(one.verdict is not None for one in results) == 5
    (folder / "m.csv").write_text(f"path\n{packed}/a.jpg\n")
    (one,) = judge_files(judge, list_images([str(folder / "m.csv")])[0])
    assert one.verdict.logit == pytest.approx(results[files.index(f"{packed}/a.jpg")].verdict.logit, abs=1e-5)
    assert list_images([str(packed.parent / "pho*")])[0][: len(files)] == files


def test_archives_that_can_not_be_read_are_one_line(folder):
    (folder / "bad.zip").write_bytes(b"PK\x03\x04 and then nothing")
    with zipfile.ZipFile(folder / "none.zip", "w") as archive:
        archive.writestr("a.txt", "x")
    files, failures = list_images([str(folder / "bad.zip"), str(folder / "none.zip")])
    assert files == [] and "not a readable zip archive" in failures[0].error
    assert failures[1].error == "no image files in this archive"


class TwoViewsThatSay(DetectorBase):
    """The calibrated log-odds of face and pixels that it is given, whatever it is shown."""

    def __init__(self, face: float, pixels: float):
        logits = np.concatenate([np.random.default_rng(0).normal(m, 1, 300) for m in (-2, 2)])
        self.preprocess, self.calibration = Preprocess(32), calibrate(logits, np.repeat([0, 1], 300))
        self.meta, self.sha256, self.join = {}, "0", Join(apart=(1.0, 1.0))
        self.views = face, pixels

    def once(self, pixels: np.ndarray) -> Raw:
        return Raw(np.full(len(pixels), 6.0), None, np.tile(np.float32(self.views), (len(pixels), 1)))


@pytest.mark.parametrize(
    ("views", "label", "why"),
    [((4, 3), "FAKE", ""), ((4, -3), "UNSURE", FACE_ONLY), ((-4, 3), "UNSURE", PIXELS_ONLY), ((4, np.nan), "FAKE", "")],
)
def test_views_that_contradict_each_other_do_so_in_a_video_as_in_its_frames(views, label, why, photos):
    frames = [Image.fromarray(photos[i % 2]).resize((64, 64)) for i in range(8)]
    frames[0].save(data := io.BytesIO(), "GIF", save_all=True, append_images=frames[1:])
    judge = Judge(TwoViewsThatSay(*views))
    (still,) = judge(np.asarray(frames[0]))
    moving = judge_video(judge, "a.gif", data=data.getvalue())
    for verdict in (still.verdict, moving.verdict):
        assert (verdict.label, verdict.contradiction) == (label, why) and why in verdict.note
        assert verdict.views == (views[0], None if np.isnan(views[1]) else views[1])


def test_a_videos_note_says_how_its_faces_were_found_as_a_photos_does():
    """It said nothing of a page around the photo, of a face upside down, of one that is small."""
    pages = []
    for i in range(6):
        picture = np.full((420, 500, 3), 255, np.uint8)
        picture[110:310, 150:350] = photo(200, i)
        pages.append(Image.fromarray(np.rot90(picture, 2)))
    pages[0].save(data := io.BytesIO(), "PNG", save_all=True, append_images=pages[1:])
    finder = Finder(turned(face_of(200, 150, 110), (420, 500), 2))
    judge = Judge(TwoViewsThatSay(-3.0, -3.0), faces=FaceStep(finder, 32))
    (still,) = judge(np.asarray(pages[0]))
    moving = judge_video(judge, "a.png", data=data.getvalue())
    told = "the face is upside down in the photo", "it lies in a larger picture, the rest of which was left out"
    for way in told:
        assert way in still.verdict.note and f"in 6 frames {way}" in moving.verdict.note


def test_a_videos_note_says_of_faces_that_do_not_count():
    """A fake beside a larger real face was in the frames' table alone, while the video had no trace."""
    frames = [Image.fromarray(photo(400, i)) for i in range(6)]
    frames[0].save(data := io.BytesIO(), "PNG", save_all=True, append_images=frames[1:])
    finder = Finder(face_of(200, 10, 10), face_of(120, 220, 220))
    judge = Judge(TwoViewsThatSay(3.0, 3.0), faces=FaceStep(finder, 32))
    note = judge_video(judge, "a.png", data=data.getvalue()).verdict.note
    assert "not counted: 6 smaller faces in these frames, 6 of them FAKE by themselves" in note


class SaysByItsLight(TwoViewsThatSay):
    """FAKE of what is bright."""

    def __init__(self):
        super().__init__(0, 0)

    def once(self, pixels: np.ndarray) -> Raw:
        bright = pixels.mean((1, 2, 3)) > 0  # from -1 to 1
        views = np.where(bright, 4.0, -4.0).astype(np.float32)
        return Raw(1.5 * views.astype(float), None, np.stack([views, views], 1))


@pytest.mark.parametrize(
    ("bright", "milliseconds", "label"),
    [
        (range(8, 12), 1000, "UNSURE"),
        (range(8, 10), 1000, "REAL"),  # two frames
        ((3, 5, 7, 9), 1000, "REAL"),  # none after the other
        (range(8, 11), 100, "REAL"),  # a fifth of a second
        (range(20), 1000, "FAKE"),
    ],
)
def test_a_short_scene_that_looks_generated_is_no_video_without_a_trace(bright, milliseconds, label):
    """A fake of 4 seconds in a video of 20 was called «no trace of a GAN found»."""
    frames = [Image.new("RGB", (64, 64), (200 if i in bright else 60, i, 90)) for i in range(20)]
    for i, frame in enumerate(frames):
        frame.paste((200 if i in bright else 60,) * 3, (0, 0, 64, 60))
    frames[0].save(data := io.BytesIO(), "PNG", save_all=True, append_images=frames[1:], duration=milliseconds)
    verdict = judge_video(Judge(SaysByItsLight()), "a.png", data=data.getvalue()).verdict
    assert verdict.label == label and f"{len(list(bright))} of them FAKE by themselves" in verdict.note
    if label == "UNSURE":
        doubt = "from 8.0 to 11.0 s a face looks generated in each of 4 frames, the whole video does not"
        assert verdict.doubt == doubt and doubt in verdict.note
    else:
        assert not verdict.doubt
