"""Photos between blurred copies of themselves: found to the pixel, judged as if they had come alone, and never made up.

The pictures are made by Pillow, as players and phones make them: the photo enlarged until it fills the screen, or
stretched to it, blurred, and the photo put in its middle.
"""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from faces.finding.align import Face
from faces.finding.blurred_sides import photo_between
from faces.finding.face_step import FaceStep
from faces.finding.pasted import Part
from faces.normalise import Normalisation, cut

LANDMARKS = np.array([[0.38, 0.47], [0.62, 0.47], [0.5, 0.6], [0.4, 0.72], [0.6, 0.72]])
SIDE = 180


def photo(seed: int = 0, side: int = SIDE) -> Image.Image:
    """Rough, and of another brightness from part to part, as photos are."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    fine = Image.fromarray(rng.integers(0, 256, (side // 3, side // 3, 3), dtype=np.uint8))
    return Image.blend(coarse, fine.resize((side, side), Image.Resampling.BICUBIC), 0.3)


def between(
    own: Image.Image, around: Image.Image, size: tuple[int, int], *, fills: bool, blur: float = 8, light: float = 1.0
) -> Image.Image:
    """`own` in the middle of a screen of `size`, before `around` blurred."""
    if fills:
        most = max(size)
        left, top = (most - size[0]) // 2, (most - size[1]) // 2
        screen = around.resize((most, most), Image.Resampling.BICUBIC).crop((left, top, left + size[0], top + size[1]))
    else:
        screen = around.resize(size, Image.Resampling.BICUBIC)
    screen = ImageEnhance.Brightness(screen.filter(ImageFilter.GaussianBlur(blur))).enhance(light)
    screen.paste(own, ((size[0] - own.width) // 2, (size[1] - own.height) // 2))
    return screen


def face_in(part: Part) -> Face:
    """The face of an aligned crop that lies there."""
    side, low = part.x1 - part.x0, np.array(part[:2])
    box = (*(low + [0.3 * side, 0.25 * side]), *(low + [0.7 * side, 0.82 * side]))
    return Face(box, (LANDMARKS * side + low).astype(np.float32), 0.9)


def where(size: tuple[int, int], side: int = SIDE) -> Part:
    x, y = (size[0] - side) // 2, (size[1] - side) // 2
    return Part(x, y, x + side, y + side)


def saved(image: Image.Image, quality: int) -> np.ndarray:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return np.asarray(Image.open(out))


class Finder:
    name, model = "told", None

    def __init__(self, *faces: Face):
        self.faces = list(faces)

    def find(self, image: np.ndarray) -> list[Face]:
        return self.faces


@pytest.mark.parametrize("size", [(320, SIDE), (SIDE, 320), (251, SIDE), (222, SIDE)])
@pytest.mark.parametrize("fills", [True, False])
@pytest.mark.parametrize("quality", [95, 80])
@pytest.mark.parametrize("light", [1.0, 0.6])
def test_the_photo_is_found_to_the_pixel(size, fills, quality, light):
    for seed in range(3):
        picture = saved(between(photo(seed), photo(seed), size, fills=fills, light=light), quality)
        assert photo_between(picture, face_in(where(size))) == where(size), seed


def test_in_large_and_enlarged_pictures():
    size = (320, SIDE)
    large = between(photo(1, 900), photo(1, 900), (1600, 900), fills=True, blur=40)
    assert photo_between(saved(large, 80), face_in(where((1600, 900), 900))) == where((1600, 900), 900)
    small = between(photo(2), photo(2), size, fills=True)
    twice = saved(small.resize((640, 360), Image.Resampling.BICUBIC), 80)
    found = photo_between(twice, face_in(where((640, 360), 360)))
    assert found is not None and np.abs(np.subtract(found, where((640, 360), 360))).max() <= 1
    tall, wide = (saved(one, 95) for one in (between(photo(3), photo(3), (SIDE, 320), fills=True), small))
    backwards = np.ascontiguousarray(wide[..., ::-1])[..., ::-1]  # as OpenCV's pictures are seen
    assert photo_between(backwards, face_in(where(size))) == where(size)
    assert photo_between(tall.transpose(1, 0, 2), face_in(where(size))) == where(size)


def test_what_is_no_copy_is_the_photos_own():
    size = (320, SIDE)
    there = face_in(where(size))
    rough = np.asarray(photo(0, 320))[:SIDE]
    assert photo_between(rough, there) is None
    for seed in range(4):
        other = between(photo(seed), photo(seed + 10), size, fills=True)
        assert photo_between(np.asarray(other), there) is None, "between blurred parts of another photo"
        wall = between(photo(seed), Image.new("RGB", (SIDE, SIDE), (90, 120, 80)), size, fills=True)
        assert photo_between(np.asarray(wall), there) is None, "a page: faces.finding.pasted"
        copy = np.asarray(between(photo(seed), photo(seed), size, fills=True))
        assert photo_between(copy[:, :250], there) is None, "not in the middle"


def test_odd_places_are_no_photo():
    for shape in ((1, 1, 3), (2, 300, 3), (300, 2, 3), (40, 40, 3)):
        plain = np.full(shape, 7, np.uint8)
        for box in ((0, 0, 1, 1), (-9, -9, 400, 400), (500, 500, 600, 600), (10, 10, 12, 12)):
            assert photo_between(plain, Face(box, None, 0.9)) is None


def test_it_is_judged_as_if_it_had_come_alone():
    size = (320, SIDE)
    picture = np.asarray(between(photo(5), photo(5), size, fills=True))
    (view,) = FaceStep(Finder(face_in(where(size))))(picture)
    assert view.how == "part" and view.part == where(size) and np.array_equal(view.pixels, np.asarray(photo(5)))
    assert view.notes() == ["it lies in a larger picture, the rest of which was left out"]
    pixels, facts = cut(picture, Normalisation(resolution=64), Finder(face_in(where(size))))
    alone, same = cut(np.asarray(photo(5)), Normalisation(resolution=64), Finder(face_in(Part(0, 0, SIDE, SIDE))))
    assert np.array_equal(pixels, alone) and facts == same
