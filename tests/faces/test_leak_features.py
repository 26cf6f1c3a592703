"""Blockiness, spectrum and header marks, against images whose answer is known."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from faces.audit.leak_features import BANDS, HIGHEST, blockiness, header_marks, look, radial_spectrum
from faces.filters import jpeg


@pytest.mark.parametrize("shape", [(256, 256), (128, 96), (255, 255), (600, 700), (40, 40)])
def test_white_noise_has_a_flat_spectrum_of_its_variance(shape):
    noise = np.random.default_rng(0).normal(100, 10, shape).astype(np.float32)
    spectrum = radial_spectrum(noise)
    assert spectrum.shape == (BANDS,)
    assert np.median(spectrum) == pytest.approx(np.log(100), abs=0.25)
    assert np.abs(spectrum[8:45] - np.log(100)).max() < 0.9


def test_a_wave_is_in_its_ring():
    x = np.arange(256)
    for frequency in (0.1, 0.25, 0.4):
        wave = 100 + 20 * np.cos(2 * np.pi * frequency * x)[None].repeat(256, 0).astype(np.float32)
        assert abs((radial_spectrum(wave).argmax() + 0.5) / BANDS * HIGHEST - frequency) < 0.02


def test_blocks_are_found_at_their_shift():
    rng = np.random.default_rng(1)
    blocks = np.kron(rng.uniform(0, 255, (20, 20)), np.ones((8, 8))).astype(np.float32)
    for shift in (0, 3, 5):
        moved = blocks[shift : shift + 128, shift : shift + 128]
        found = blockiness(moved)
        at = (7 - shift) % 8
        assert found[:8].argmax() == at and found[8:16].argmax() == at
        assert found[:8].sum() == pytest.approx(0, abs=1e-4)
    assert blockiness(blocks[:128, :128])[16] > 10


def test_stronger_compression_is_blockier_and_flat_or_tiny_images_have_none():
    rng = np.random.default_rng(2)
    photo = np.kron(rng.uniform(60, 200, (32, 32, 3)), np.ones((6, 6, 1))).astype(np.uint8)
    strong = [look(jpeg(photo, quality)).blockiness[16] for quality in (20, 60, 98)]
    assert strong[0] > strong[1] > strong[2]
    assert not blockiness(np.full((64, 64), 9, np.float32)).any()
    assert not look(np.zeros((3, 5, 3), np.uint8)).blockiness.any()
    assert np.isfinite(look(np.zeros((1, 1, 3), np.uint8)).spectrum).all()


def saved(form, **options):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8)).save(buffer, form, **options)
    return buffer.getvalue()


def test_header_marks():
    exif = Image.Exif()
    exif[0x0110] = "camera"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert "exif" not in header_marks(saved("JPEG")) and "jfif" in header_marks(saved("JPEG"))
    rich = header_marks(saved("JPEG", exif=exif, icc_profile=profile, progressive=True, comment="hello"))
    assert {"exif", "icc", "progressive", "comment"} <= set(rich)
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", "GAN")
    assert header_marks(saved("PNG")) == () and header_marks(saved("PNG", pnginfo=text)) == ("png:tEXt",)
    assert "webp:EXIF" in header_marks(saved("WEBP", exif=exif))
    assert header_marks(b"") == () and header_marks(b"GIF89a") == ()


def test_broken_headers_end_the_walk():
    for data in (saved("JPEG", comment="x"), saved("PNG"), saved("WEBP")):
        for cut in range(0, min(len(data), 400), 7):
            header_marks(data[:cut])
    assert isinstance(header_marks(b"\xff\xd8" + b"\xff" * 50), tuple)
    assert isinstance(header_marks(b"\xff\xd8\xff\xe1\x00\x00" * 9), tuple)
