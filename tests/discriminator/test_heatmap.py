"""The map must lie where the detector looked, and say no more than it knows."""

from __future__ import annotations

import numpy as np
import pytest

from discriminator.heatmap import OPACITY, overlay, overlay_region

GREY = np.full((60, 100, 3), 128, np.uint8)


def test_an_undecided_map_leaves_the_grey_photo():
    photo = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    out = overlay(photo, np.full((4, 4), 0.5, np.float32))
    assert (out[..., 0] == out[..., 1]).all() and (out[..., 1] == out[..., 2]).all()


def test_red_where_generated_blue_where_photographed():
    patches = np.zeros((4, 4), np.float32)
    patches[:2] = 1
    out = overlay(np.full((64, 64, 3), 128, np.uint8), patches).astype(int)
    top, bottom = out[4, 30], out[-4, 30]
    assert top[0] > top[2] + 80 and bottom[2] > bottom[0] + 80
    np.testing.assert_allclose(top, 128 * (1 - OPACITY) + np.array([213, 94, 0]) * OPACITY, atol=1)


@pytest.mark.parametrize("turn", [False, True])
def test_centre_crop_covers_the_centred_square_and_darkens_the_rest(turn):
    photo = GREY.transpose(1, 0, 2).copy() if turn else GREY
    out = overlay(photo, np.ones((4, 4), np.float32))
    out = out.transpose(1, 0, 2) if turn else out
    coloured = out[..., 0] != out[..., 2]
    assert coloured[:, 20:80].all() and not coloured[:, :20].any() and not coloured[:, 80:].any()
    assert (out[:, :20] == 45).all()


def test_padded_and_squeezed_photos_are_covered_whole():
    patches = np.zeros((8, 8), np.float32)
    patches[:, :4] = 1
    for crop in ("pad", "none"):
        out = overlay(GREY, patches, crop=crop).astype(int)
        assert (out[:, 5, 0] > out[:, 5, 2]).all() and (out[:, -5, 2] > out[:, -5, 0]).all()
    # padded: the photo is the middle band of the square, so the map's upper edge is cut off
    bands = np.zeros((10, 10), np.float32)
    bands[:2] = 1
    assert (overlay(GREY, bands, crop="pad")[2, :, 2].astype(int) > 128).all()


def test_a_map_lies_over_the_patch_it_is_about():
    patches = np.full((4, 4), 0.5, np.float32)
    patches[1, 2] = 1
    out = overlay(np.full((64, 64, 3), 128, np.uint8), patches).astype(int)
    y, x = np.unravel_index((out[..., 0] - out[..., 2]).argmax(), (64, 64))
    assert 16 <= y < 32 and 32 <= x < 48


@pytest.mark.parametrize("turn", range(4))
def test_a_map_is_laid_back_where_the_face_lies(turn):
    """A map of four squares in a quarter of the photo, upright or turned: the numpy square, turned and put there."""
    values = np.array([[1, -1], [0, 1]], np.float32).repeat(20, 0).repeat(20, 1)
    corners = np.roll(np.array([[10, 5], [50, 5], [50, 45], [10, 45]], float), -turn, 0)
    out = overlay_region(GREY, values, corners, None).astype(int)
    want = np.rot90(values, -turn)
    told = np.sign(out[..., 0] - out[..., 2])
    assert (told[:4] == 0).all() and (told[:, 60:] == 0).all()
    for y in (15, 35):
        for x in (20, 40):
            assert told[y, x] == want[y - 5, x - 10], (y, x)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="crop"):
        overlay(GREY, np.ones((2, 2)), crop="middle")
    with pytest.raises(ValueError, match="uint8"):
        overlay(GREY.astype(float), np.ones((2, 2)))
