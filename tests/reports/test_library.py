"""`judge(photo)` says what `detect.py --json` says, of paths, PIL images and arrays."""

from __future__ import annotations

import dataclasses
import json
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import detect
from common.errors import BadImage, UserError
from discriminator.crop_watch import _finder
from discriminator.detector import Detector
from faces.decode import from_pillow, load_image
from faces.preprocess import Preprocess
from faces.procedural.portrait import render_face
from reports import library
from reports.library import Answer, Judgement, judge
from tests.discriminator.conftest import make_calibration, make_net
from tests.program import Program
from tests.scenes import scene


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """Drawn faces: one in a photo, two, none, dark, tiny, a portrait, lying; kinds of files; a detector of faces."""
    folder = tmp_path_factory.mktemp("material")
    Detector(make_net(), Preprocess(32), make_calibration(), {"face": "ffhq"}).save(folder / "aligned.safetensors")
    Detector(make_net(), Preprocess(32), make_calibration(), {}).save(folder / "whole.safetensors")
    portrait = Image.fromarray(render_face(3, 256))
    Image.fromarray(scene((5, 250, 50, 300))).save(folder / "one.png")
    Image.fromarray(scene((2, 40, 60, 180), (3, 400, 80, 280))).save(folder / "two.jpg", quality=90)
    Image.fromarray(np.full((200, 300, 3), 99, np.uint8)).save(folder / "wall.png")
    Image.fromarray(render_face(3, 256) // 12).save(folder / "dark.png")
    Image.fromarray(render_face(4, 40)).save(folder / "small.png")
    portrait.save(folder / "portrait.jpg", quality=90)
    exif = Image.Exif()
    exif[0x0112] = 6
    portrait.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", exif=exif)
    portrait.transpose(Image.Transpose.ROTATE_90).save(folder / "lying.png")
    portrait.convert("CMYK").save(folder / "cmyk.jpg")
    clear = portrait.copy()
    clear.putalpha(Image.linear_gradient("L"))
    clear.save(folder / "clear.png")
    portrait.convert("P").save(folder / "palette.gif")
    return folder


@pytest.fixture(autouse=True)
def fresh():
    library._load.cache_clear()
    yield
    library._load.cache_clear()


def untimed(told):
    """Without what differs from one call to the next, and without a hint that names a flag or a parameter."""
    if isinstance(told, dict):
        but = ("seconds", "stage_seconds", "fallback")
        return {name: untimed(value) for name, value in told.items() if name not in but}
    return [untimed(value) for value in told] if isinstance(told, list) else told


def by_command(*words: str) -> dict:
    done = CliRunner().invoke(Program(detect.main), [*words, "--json"])
    assert done.exit_code in (0, 1), done.output
    return json.loads(done.stdout)


PHOTOS = "one.png two.jpg wall.png dark.png small.png portrait.jpg turned.jpg lying.png cmyk.jpg clear.png palette.gif"


@pytest.mark.bundled
@pytest.mark.parametrize("name", PHOTOS.split())
def test_a_path_is_told_as_the_command_tells_it(material, name):
    """By the shipped detector, with YuNet: the whole document, field by field."""
    path = str(material / name)
    told, said = by_command(path), judge(path)
    assert untimed(said.to_dict()) == untimed(told)
    for answer, row in zip(said.results, told["results"], strict=True):
        for key, value in row.items():
            assert key == "seconds" or getattr(answer, key) == value
    assert json.loads(json.dumps(said.to_dict())) == said.to_dict()


@pytest.mark.bundled
def test_every_field_of_the_documents_has_a_name(material):
    """A field that the command learns is one of the typed objects, too."""
    for name in ("one.png", "wall.png"):
        told = by_command(str(material / name))
        assert set(told) <= {each.name for each in dataclasses.fields(Judgement)}
        for row in told["results"]:
            assert set(row) <= {each.name for each in dataclasses.fields(Answer)}
            assert set(row.get("face") or {}) <= set(library.FaceFound.__annotations__)


@pytest.mark.parametrize(
    "flags, options",
    [
        (["--fpr", "0.05"], {"fpr": 0.05}),
        (["--threshold", "0.2"], {"threshold": 0.2}),
        (["--face", "whole"], {"face": "whole"}),
        (["--face", "required"], {"face": "required"}),
        (["--device", "cpu", "--runtime", "torch"], {"device": "cpu", "runtime": "torch"}),
    ],
)
def test_options_are_the_flags(material, flags, options):
    model, path = material / "aligned.safetensors", str(material / "two.jpg")
    told = by_command(path, "--model", str(model), "--offline", *flags)
    said = judge(path, model=model, offline=True, **options)
    assert untimed(said.to_dict()) == untimed(told) and len(said.results) == (1 if "whole" in flags else 2)


def test_images_and_arrays_are_judged_as_their_files(material):
    how = {"model": material / "aligned.safetensors", "offline": True}
    for name in PHOTOS.split():
        by_path = judge(material / name, **how)
        with Image.open(material / name) as image:
            by_image = judge(image, **how)
        by_array = judge(load_image(material / name), name=str(material / name), **how)
        assert untimed(by_image.to_dict()) == untimed(by_path.to_dict()) == untimed(by_array.to_dict()), name
    assert [answer.file for answer in judge(render_face(3, 64), **how)] == ["photo"]
    assert [answer.file for answer in judge(material / "one.png", name="mine", **how)] == ["mine"]


@pytest.mark.parametrize("name", PHOTOS.split())
def test_pillow_images_become_the_pixels_of_their_file(material, name):
    with Image.open(material / name) as image:
        assert (from_pillow(image, name) == load_image(material / name)).all()


def test_a_moving_picture_is_judged_as_a_video(material, tmp_path):
    frames = [Image.fromarray(scene((3, 20 * i, 10, 200), size=(220, 320))) for i in range(4)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:], duration=250)
    model, path = material / "aligned.safetensors", str(tmp_path / "moving.gif")
    (answer,) = judge(path, model=model, offline=True).results
    assert [untimed(answer.to_dict())] == untimed(by_command(path, "--model", str(model), "--offline"))["results"]
    assert answer.video["frames"] == 4


def test_the_photos_verdict_is_its_worst_face():
    def of(*labels):
        rows = [{"file": "x", "status": "judged" if label else "no face", "verdict": label} for label in labels]
        return Judgement.of({"results": rows, **dict.fromkeys(("detector", "faces", "operating_point", "summary"), {}),
                             "runtime": "onnx"}).verdict  # fmt: skip

    assert [of("REAL"), of("REAL", "UNSURE"), of("UNSURE", "FAKE", "REAL")] == ["REAL", "UNSURE", "FAKE"]
    assert of(None) is None


@pytest.mark.bundled
def test_unsure_says_why(material):
    (answer,) = judge(material / "dark.png").results
    assert answer.verdict == "UNSURE" and "dark" in answer.note


def test_explain_draws_what_the_command_draws(material, tmp_path, monkeypatch):
    model, path = material / "aligned.safetensors", material / "two.jpg"
    # the seconds that a map took stand under it
    monkeypatch.setattr("discriminator.explaining.attribution.time.perf_counter", lambda: 0.0)
    by_command(str(path), "--model", str(model), "--offline", "--explain", str(tmp_path / "command.png"))
    said = judge(path, model=model, offline=True, explain=tmp_path / "library.png")
    assert said.drawn == (tmp_path / "library.png",)
    mine, theirs = (np.asarray(Image.open(tmp_path / f"{who}.png")) for who in ("library", "command"))
    assert (mine == theirs).all()
    pixels = judge(load_image(path), model=model, offline=True, explain=tmp_path / "maps", name="a photo").drawn
    assert [file.name for file in pixels] == ["0001-a photo.png"] and pixels[0].is_file()
    judge(load_image(path), model=model, offline=True, explain=tmp_path / "library.png")  # a picture may be drawn anew
    with pytest.raises(UserError, match="photo itself"):
        judge(path, model=model, offline=True, explain=path)


def test_the_detector_is_loaded_once_until_its_file_changes(material, tmp_path, monkeypatch):
    loaded = []
    opened = library.open_engine
    monkeypatch.setattr(library, "open_engine", lambda file, **how: loaded.append(file) or opened(file, **how))
    model = tmp_path / "d.safetensors"
    model.write_bytes((material / "aligned.safetensors").read_bytes())
    threads = [threading.Thread(target=lambda: judge(material / "one.png", model=model, offline=True)) for _ in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    judge(render_face(1, 64), model=str(model), offline=True)
    assert loaded == [model]
    model.write_bytes((material / "whole.safetensors").read_bytes())
    assert judge(material / "wall.png", model=model, offline=True).results[0].status == "judged" and len(loaded) == 2


def test_a_stale_export_is_told(material, tmp_path):
    model = tmp_path / "d.safetensors"
    model.write_bytes((material / "whole.safetensors").read_bytes())
    (tmp_path / "d.onnx").write_bytes(b"no network")
    with pytest.warns(UserWarning, match="PyTorch is used"):
        judge(material / "wall.png", model=model, offline=True)


def call(photo="one.png", **options):
    return judge(photo, **{"model": "whole.safetensors", "offline": True, **options})


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda: call("absent.jpg"), "absent.jpg: no such file"),
        (lambda: call("aligned.safetensors"), "aligned.safetensors: not an image"),
        (lambda: call("."), "is a folder, and judge() takes one photo"),
        (lambda: call(b"\xff\xd8"), "a bytes is no photo; give a path, a PIL image or a numpy array"),
        (lambda: call(None), "a NoneType is no photo"),
        (lambda: call(np.zeros((3, 64, 64), np.uint8)), "`photo.transpose(1, 2, 0)`"),
        (lambda: call(np.zeros((64, 64, 3))), "`(255 * photo).round().astype('uint8')`"),
        (lambda: call(np.zeros((64, 64), np.uint8)), "`PIL.Image.fromarray(photo)`"),
        (lambda: call(np.zeros((64, 64, 4), np.uint8)), "`PIL.Image.fromarray(photo)`"),
        (lambda: call(np.zeros((2, 64, 64, 3), np.uint8)), "one photo at a time"),
        (lambda: call(np.zeros((8, 64, 3), np.uint8)), "too small (at least 16 a side)"),
        (lambda: call(np.zeros((0, 64, 3), np.uint8)), "too small"),
        (lambda: call(Image.new("RGB", (4, 40))), "too small (at least 16 a side)"),
        (lambda: call(Image.new("RGB", (0, 0))), "without pixels"),
        (lambda: call(Image.new("F", (40, 40))), "floating-point pixels"),
        (lambda: call(modle="x"), "`modle`: judge() has no such option; it takes model, fpr"),
        (lambda: call(model="absent.safetensors"), "no such detector file"),
        (lambda: call(fpr=0.3), "0.005, 0.01, 0.05"),
        (lambda: call(fpr=0.01, threshold=0.5), "`threshold` and `fpr` both"),
        (lambda: call(face="nose"), "`face` nose is unknown; choose one of auto"),
        (lambda: call(explain="no/such/out.png"), "`explain`: there is no folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said(material, monkeypatch, wrong, words):
    monkeypatch.chdir(material)
    with pytest.raises(UserError) as raised:
        wrong()
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_a_photo_that_cannot_be_read_is_no_other_error(material, tmp_path):
    (tmp_path / "half.jpg").write_bytes((material / "two.jpg").read_bytes()[:5000])
    with pytest.raises(BadImage, match="half.jpg: "):
        call(tmp_path / "half.jpg", model=material / "whole.safetensors")
    with Image.open(tmp_path / "half.jpg") as image, pytest.raises(BadImage, match="truncated"):
        call(image, model=material / "whole.safetensors")


# ---- Detector.predict, which judges what it is given as it is --------------------------------------------------------


def warned(model: Path, *photos: np.ndarray) -> list[str]:
    detector = Detector.load(model)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        verdicts = [*detector.predict(photos), *detector.predict(photos)]
    assert len(verdicts) == 2 * len(photos)
    return [str(warning.message) for warning in told]


@pytest.mark.bundled
def test_predict_says_once_that_a_photo_is_no_aligned_crop(material):
    _finder.cache_clear()  # others may have asked without YuNet's file
    portrait = load_image(material / "portrait.jpg")
    corner = np.full((900, 900, 3), 120, np.uint8)
    corner[:256, :256] = portrait
    for photo, why in (
        (load_image(material / "two.jpg"), "a photo of 900x400 pixels is not square"),
        (corner, "the face does not lie in the photo as in a crop"),
        (np.full((300, 300, 3), 99, np.uint8), "no face is found in the photo"),
    ):
        (told,) = warned(material / "aligned.safetensors", portrait, photo, photo)
        assert why in told and "reports.library.judge" in told
        assert warned(material / "whole.safetensors", photo) == []
    assert warned(material / "aligned.safetensors", *[portrait] * 20) == []
