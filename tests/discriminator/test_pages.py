"""How many pictures a file holds, counted as Pillow counts them; and that whoever judges one of them says so."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from discriminator.calibration import calibrate
from discriminator.detector_base import DetectorBase, Raw
from discriminator.files import judge_files
from discriminator.judge import Judge
from faces.finding.face_step import FaceStep
from faces.moving.animation import Animation
from faces.moving.frame import Limits
from faces.pages import pages_note
from faces.preprocess import Preprocess


def picture(seed: int = 0, side: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def tiff(count: int, **how) -> bytes:
    out = io.BytesIO()
    picture().save(out, "TIFF", save_all=True, append_images=[picture(i) for i in range(1, count)], **how)
    return out.getvalue()


def directories(*kinds: int, order: str = "<", loop: bool = False) -> bytes:
    """A TIFF of directories alone, each with its NewSubfileType."""
    out = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    for i, kind in enumerate(kinds):
        following = len(out) + 18 if i + 1 < len(kinds) else 8 if loop else 0
        out += struct.pack(order + "HHHIII", 1, 254, 4, 1, kind, following)
    return out


@pytest.mark.parametrize("count", [1, 2, 5])
def test_as_many_as_pillow_counts(count):
    data = tiff(count)
    assert Image.open(io.BytesIO(data)).n_frames == count
    assert pages_note(data) == ("" if count == 1 else f"page 1 of {count}: the others were not looked at")


@pytest.mark.parametrize("order", "<>")
def test_reduced_copies_and_masks_are_no_pages(order):
    assert pages_note(directories(0, 1, 4, order=order)) == ""
    assert pages_note(directories(0, 1, 2, order=order)).startswith("page 1 of 2:")


def test_loops_and_broken_files_end():
    assert pages_note(directories(0, 0, 0, loop=True)).startswith("page 1 of 3:")
    assert pages_note(directories(*[0] * 10_002)).startswith("page 1 of 10,000 and more:")
    for data in (b"", b"II*\0", b"II*\0\xff\xff\xff\xff", directories(0, 0)[:30], b"\x89PNG\r\n\x1a\n"):
        assert pages_note(data) == ""


class Even(DetectorBase):
    preprocess, meta, sha256 = Preprocess(32), {}, "0"
    calibration = calibrate(np.repeat([-2.0, 2.0], 100), np.repeat([0, 1], 100))

    def raw(self, pixels: np.ndarray) -> Raw:
        return Raw(np.full(len(pixels), -5.0), None)


class Nobody:
    name, model, fallback = "nobody", None, ""

    def find(self, image):
        return []


def test_the_note_says_it_and_so_does_a_photo_without_a_face(tmp_path):
    note = "page 1 of 3: the others were not looked at"
    (tmp_path / "a.tif").write_bytes(tiff(3))
    (tmp_path / "b.tif").write_bytes(tiff(1))
    judge, none = Judge(Even()), Judge(Even(), faces=FaceStep(Nobody(), 32))
    for one in (next(judge_files(judge, [str(tmp_path / "a.tif")])), *judge.encoded(tiff(3), "a.tif")):
        assert note in one.to_dict()["note"]
    (plain,) = judge_files(judge, [str(tmp_path / "b.tif")])
    assert "page" not in plain.to_dict()["note"]
    (empty,) = none.encoded(tiff(3), "a.tif")
    assert empty.status == "no face" and empty.to_dict()["note"] == note


@pytest.mark.parametrize("form", ["JPEG", "TIFF", "WEBP", "AVIF"])
def test_a_colour_profile_that_is_too_large_is_said(form):
    """It was left out without a word. 8 MiB is the most (docs/detecting.md)."""
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for size, note in ((8 << 20, ""), ((8 << 20) + 1, "colour profile of 8.0 MiB is too large and was left out")):
        out = io.BytesIO()
        picture().save(out, form, icc_profile=plain.ljust(size, b"\0"))
        assert len(Image.open(out).info["icc_profile"]) == size
        (one,) = Judge(Even()).encoded(out.getvalue(), "a")
        assert note in one.to_dict()["note"] and ("profile" in one.to_dict()["note"]) == bool(note)


def test_an_animations_profile_is_said_as_well():
    out = io.BytesIO()
    picture().save(out, "WEBP", save_all=True, append_images=[picture(1)], icc_profile=bytes(9 << 20))
    assert "colour profile of 9.0 MiB" in Animation(out.getvalue(), "a.webp", Limits()).notes[0]
