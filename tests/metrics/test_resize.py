import numpy as np
import pytest
import torch
import torch.nn.functional as F

from metrics.resize import network_input


def image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ours(pixels, resize):
    return network_input(torch.from_numpy(pixels).permute(2, 0, 1)[None], resize)[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", [(64, 64), (299, 299), (256, 256), (400, 350), (120, 700)])
def test_clean_equals_clean_fid(size):
    resizer = pytest.importorskip("cleanfid.resize").build_resizer("clean")
    pixels = image(*size)
    np.testing.assert_allclose(ours(pixels, "clean") * 128 + 128, resizer(pixels), atol=2e-3)  # of 255


@pytest.mark.parametrize("size", [(64, 64), (400, 350)])
def test_tf1_is_pytorch_fids_bilinear(size):
    pixels = image(*size)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    wanted = 2 * F.interpolate(x, (299, 299), mode="bilinear", align_corners=False) - 1
    np.testing.assert_allclose(ours(pixels, "tf1"), wanted[0].permute(1, 2, 0), atol=1e-6)


@pytest.mark.parametrize("size", [(64, 80), (400, 350)])
def test_original_by_its_definition(size):
    """Pixel i lies at i * in / out; what is beyond the last pixel repeats it."""
    pixels = image(*size).astype(np.float64)
    height, width = size

    def at(axis_length, values):
        place = np.arange(299) * axis_length / 299
        return np.stack(
            [np.interp(place, np.arange(axis_length), line) for line in values.reshape(-1, axis_length)]
        ).reshape(*values.shape[:-1], 299)

    wanted = at(height, at(width, pixels.transpose(2, 0, 1)).transpose(0, 2, 1)).transpose(2, 1, 0)
    np.testing.assert_allclose(ours(image(*size), "original"), (wanted - 128) / 128, atol=1e-5)


def test_none_changes_no_pixel_and_grey_is_repeated():
    pixels = image(80, 90)
    np.testing.assert_allclose(ours(pixels, "none"), pixels / 127.5 - 1, atol=1e-6)
    for resize in ("tf1", "clean", "original", "none"):
        found = ours(np.ascontiguousarray(pixels[..., :1]), resize)
        np.testing.assert_array_equal(found, np.repeat(found[..., :1], 3, axis=2))
