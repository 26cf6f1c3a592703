"""Contact sheets: every image in its place."""

import numpy as np
import pytest

from synth.grid import contact_sheet, labelled_grid


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_image_in_its_place(channels):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, channels, 6, 4), dtype=np.uint8)
    sheet = contact_sheet(images, columns=3, gap=1, background=7)
    assert sheet.shape[:2] == (2 * 7 - 1, 3 * 5 - 1)
    sheet = sheet.reshape(13, 14, channels)
    for i in range(5):
        y, x = (i // 3) * 7, (i % 3) * 5
        np.testing.assert_array_equal(sheet[y : y + 6, x : x + 4], images[i].transpose(1, 2, 0))
    assert (sheet[6, :, 0] == 7).all() and (sheet[7:, 10:, 0] == 7).all()


def test_about_square_by_default():
    images = np.zeros((10, 3, 8, 8), np.uint8)
    assert contact_sheet(images, gap=0).shape == (3 * 8, 4 * 8, 3)
    assert contact_sheet(images[:1]).shape == (8, 8, 3)
    assert contact_sheet(images[:2], columns=9, gap=2).shape == (8, 18, 3)


@pytest.mark.parametrize("images", [np.zeros((0, 3, 4, 4), np.uint8), np.zeros((1, 4, 4, 3), np.uint8)[:, :, :, :2]])
def test_refuses_what_is_no_stack_of_images(images):
    if images.shape[0]:
        images = images.transpose(0, 3, 1, 2)  # two channels
    with pytest.raises(ValueError, match="uint8"):
        contact_sheet(images)
    with pytest.raises(ValueError, match="uint8"):
        contact_sheet(np.zeros((1, 3, 4, 4), np.float32))
    with pytest.raises(ValueError, match="columns"):
        contact_sheet(np.zeros((1, 3, 4, 4), np.uint8), columns=0)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_labelled_grid_has_images_in_place_and_ink_beside_them(channels):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, channels, 64, 64), dtype=np.uint8)
    if channels == 4:
        images[:, :, 3] = 255
    cells = [[None, *images[0, 1:]], list(images[1])]
    sheet = labelled_grid(cells, ["1", "4294967295"], ["", "7", "8"], corner="seed")
    height, width = sheet.shape[:2]
    for i in range(2):
        for j in range(3):
            y, x = height - 66 * (2 - i), width - 66 * (3 - j)
            cell = sheet[y : y + 64, x : x + 64]
            if cells[i][j] is None:
                assert (cell == 255).all()
            else:
                colours = cells[i][j][:3] if channels == 4 else np.broadcast_to(cells[i][j], (3, 64, 64))
                np.testing.assert_array_equal(cell, colours.transpose(1, 2, 0))
    left, top = width - 3 * 66, height - 2 * 66
    assert sheet[:, :left].min() < 100 and sheet[:top, left + 66 :].min() < 100  # names were written


def test_labelled_grid_refuses_what_does_not_fit():
    image = np.zeros((3, 8, 8), np.uint8)
    for rows, columns in ((["a"], ["b", "c"]), ([], []), (["a", "b"], ["c"])):
        with pytest.raises(ValueError, match="names"):
            labelled_grid([[image]], rows, columns)
    long = labelled_grid([[image]], ["a"], ["a very long name indeed " * 9])
    assert long.shape[1] < 120  # cut to the width of the column
