"""Crops of a photo's own pixels: plain slices of it, where they should lie, and none where they do not fit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from faces.finding.align import Face
from faces.finding.face_step import View
from faces.pixel_crops import BORDER, PixelCrops

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(1024, 1024), (256, 256), (300, 180), (108, 110), (2000, 131)])
def test_crops_are_slices_inside_the_border_and_evenly_spread(shape):
    photo = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
    crops = PixelCrops(96, 3)
    found, places = crops.cut(photo), crops.places(photo.shape)
    assert len(places) == 9 and found is not None and found.shape == (9, 96, 96, 3)
    for crop, (top, left) in zip(found, places, strict=True):
        np.testing.assert_array_equal(crop, photo[top : top + 96, left : left + 96])
    for axis, side in enumerate(shape):
        at = sorted({place[axis] for place in places})
        assert min(at) >= BORDER * side and max(at) + 96 <= (1 - BORDER) * side + 1e-9
        assert min(at) < BORDER * side + 1 and max(at) + 96 > (1 - BORDER) * side - 1  # up to the border
        steps = np.diff([place[axis] for place in (places[::3] if axis == 0 else places[:3])])
        assert np.ptp(steps) <= 1


def test_a_region_is_clipped_to_the_photo_and_none_where_it_is_small():
    photo = RNG.integers(0, 256, (400, 500, 3), dtype=np.uint8)
    crops = PixelCrops(64, 2)
    places = crops.places(photo.shape, (-100.0, 200.5, 200.0, 500.5))
    assert places == [(216, 0), (216, 121), (336, 0), (336, 121)]
    assert crops.cut(photo, (10, 10, 80, 80)) is None  # 63 px without its border
    assert crops.cut(photo, (450, 10, 700, 260)) is None  # 50 px of it are in the photo
    assert crops.cut(photo, (10, 10, 82, 82)) is not None
    assert crops.cut(photo, (900, 900, 1200, 1200)) is None
    assert PixelCrops(64, 1).places((200, 101, 3)) == [(68, 18)]


def test_luma_is_pillows():
    photo = RNG.integers(0, 256, (120, 140, 3), dtype=np.uint8)
    (top, left), *_ = PixelCrops(64, 2, 1).places(photo.shape)
    found = PixelCrops(64, 2, 1).cut(photo)
    assert found is not None and found.shape == (4, 64, 64, 1)
    want = np.asarray(Image.fromarray(photo).convert("L"))[top : top + 64, left : left + 64]
    np.testing.assert_array_equal(found[0, :, :, 0], want)


def test_a_faces_region_is_its_frame_and_a_crop_has_none():
    """Eyes 100 px apart on a level, the mouth 100 px below: Karras et al.'s frame has 400 px and its middle 10 px below
    the eyes; turned by 20 degrees the upright square has the same middle and size."""
    eyes_mouth = np.array([[-50, 0], [50, 0], [0, 50], [-40, 100], [40, 100]], float)
    for angle in (0.0, 20.0):
        a = np.radians(angle)
        turned = eyes_mouth @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) + (500, 300)
        face = Face((450, 250, 550, 400), turned.astype(np.float32), 0.9)
        x0, y0, x1, y1 = View(np.zeros((1, 1, 3), np.uint8), "ffhq", face).region
        assert (x1 - x0, y1 - y0) == pytest.approx((400, 400), abs=0.01)
        middle = (500 - 10 * np.sin(a), 300 + 10 * np.cos(a))
        assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx(middle, abs=0.01)
    assert View(np.zeros((1, 1, 3), np.uint8), "crop", face).region is None
    assert View(np.zeros((1, 1, 3), np.uint8), "whole").region is None


def test_what_crops_can_be():
    assert PixelCrops.from_dict(PixelCrops(32, 2, 1).to_dict()) == PixelCrops(32, 2, 1)
    for bad in ({"side": 7}, {"grid": 0}, {"grid": 17}, {"channels": 2}, {"side": True}, {"size": 96}):
        with pytest.raises(UserError):
            PixelCrops.from_dict(bad)
