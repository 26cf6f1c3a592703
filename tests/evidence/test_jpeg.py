"""What a JPEG's tables and coefficients tell, against Pillow's encoder and scipy's transform."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn

from evidence.containers import ZIGZAG, parts_of
from evidence.double import FROM_FINE, coefficients, luminance, primary
from evidence.ela import error_levels, save_error_levels
from evidence.line import ABSENT, PRESENT, UNKNOWN
from evidence.quantisation import estimate_quality
from evidence.story import DOUBLE, TABLES, file_story
from tests.evidence import made


def line(data: bytes, kind: str):
    return next(line for line in file_story(data) if line.kind == kind)


@pytest.mark.parametrize("sampling", [0, 1, 2])
def test_the_quality_is_the_one_that_pillow_saved_with(sampling):
    image = made.picture(side=32)
    for quality in range(30, 96):
        facts = line(made.saved(image, quality=quality, subsampling=sampling), TABLES).facts
        assert (facts["quality"], facts["standard"]) == (quality, True)
        assert facts["sampling"] == ("4:4:4", "4:2:2", "4:2:0")[sampling]


def test_tables_are_pillows():
    data = made.saved(made.picture(), quality=83)
    with Image.open(io.BytesIO(data)) as image:
        for number, table in image.quantization.items():
            assert parts_of(data).tables[number].ravel().tolist() == list(table)
    assert sorted(ZIGZAG.tolist()) == list(range(64)) and ZIGZAG[:6].tolist() == [0, 1, 8, 16, 9, 2]


def test_tables_of_another_program_are_said_to_be():
    flat = [[12] * 64, [20] * 64]
    said = line(made.saved(made.picture(), qtables=flat, subsampling=0), TABLES)
    assert not said.facts["standard"] and "another program" in said.says
    nearly = [
        list(table) for table in Image.open(io.BytesIO(made.saved(made.picture(), quality=88))).quantization.values()
    ]
    nearly[0][10] += 1
    said = line(made.saved(made.picture(), qtables=nearly), TABLES)
    assert said.facts["quality"] == 88 and not said.facts["standard"]
    assert said.facts["off"] == pytest.approx(math.sqrt(1 / 128 / 1.5), abs=0.02)
    with pytest.raises(ValueError):
        estimate_quality([])


def test_grey_progressive_and_no_jpeg():
    grey = line(made.saved(made.picture().convert("L"), quality=70, progressive=True), TABLES)
    assert grey.facts["quality"] == 70 and grey.facts["sampling"] == "grey" and grey.facts["progressive"]
    assert line(made.saved(made.picture(), "PNG"), TABLES).found == ABSENT
    assert line(made.saved(made.picture(side=256), "PNG"), DOUBLE).found == UNKNOWN
    assert line(made.saved(made.picture(side=64)), DOUBLE).found == UNKNOWN


def test_coefficients_are_scipys():
    grey = np.random.default_rng(0).integers(0, 256, (16, 24), dtype=np.uint8)
    told = coefficients(grey).reshape(2, 3, 8, 8)
    for y in range(2):
        for x in range(3):
            block = grey[8 * y : 8 * y + 8, 8 * x : 8 * x + 8].astype(float) - 128
            np.testing.assert_allclose(told[y, x], dctn(block, norm="ortho"), atol=1e-3)


def test_decoded_luminance_is_on_the_files_own_levels():
    data = made.saved(made.picture(side=160), quality=60)
    levels = coefficients(luminance(data)) / parts_of(data).tables[0].ravel()
    # where no pixel was cut off at black or white, within the rounding of pixels
    assert np.median(np.abs(levels - np.rint(levels))) < 0.03


def again(image: Image.Image, *qualities: int) -> bytes:
    for quality in qualities:
        data = made.saved(image, quality=quality)
        image = Image.open(io.BytesIO(data))
    return data


@pytest.mark.parametrize(("first", "second"), [(50, 75), (60, 90), (75, 95)])
def test_a_second_compression_is_seen_and_a_single_one_is_not(first, second):
    image = made.picture(1, side=256)
    data = again(image, first, second)
    said = line(data, DOUBLE)
    assert said.found == PRESENT and abs(said.facts["first_quality"] - first) <= 3
    assert "altered" in said.cannot_prove
    single = line(again(image, second), DOUBLE)
    assert single.found == ABSENT and single.facts["score"] < single.facts["limit"]
    assert line(again(image, second, second), DOUBLE).found == ABSENT, "the same tables leave no second trace"
    moved = Image.open(io.BytesIO(again(image, first))).crop((4, 4, 252, 252))
    assert line(again(moved, second), DOUBLE).found == ABSENT, "off the grid it can't be seen"


def test_rates_on_photos(shared_dir: Path):
    """As `benchmarks/evidence.py double` measures them, on few photos."""
    files = sorted((shared_dir / "data/native_train_real/real").iterdir())[140:146]
    for file in files:
        image = Image.open(file).convert("RGB").resize((400, 400), Image.Resampling.LANCZOS)
        for data, least, most in ((again(image, 60, 85), FROM_FINE, 99), (again(image, 85), -1, FROM_FINE)):
            assert least <= primary(luminance(data), parts_of(data).tables[0]).score < most


def test_error_levels_show_what_was_pasted_in(tmp_path):
    photo = np.asarray(Image.open(io.BytesIO(again(made.picture(2, side=128), 60, 90))))
    pasted = photo.copy()
    pasted[40:80, 40:80] = np.asarray(made.picture(3, side=128))[40:80, 40:80]
    levels, gain = error_levels(pasted)
    assert levels.shape == pasted.shape and levels.dtype == np.uint8 and gain > 1
    assert levels[44:76, 44:76].mean() > 2 * levels[:32].mean()
    assert error_levels(np.full((16, 16, 3), 128, np.uint8))[0].max() == 0
    save_error_levels(tmp_path / "ela.png", pasted)
    with Image.open(tmp_path / "ela.png") as image:
        assert image.size == (256, 128) and image.format == "PNG"
