"""What is drawn over a photo: how much of it, at any size, and nothing else."""

import numpy as np
import pytest

from common.errors import UserError
from faces.degrade import SCENE, Degradation, Step
from faces.overlays import KINDS, overlaid


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def changed(image: np.ndarray, kind, seed: int) -> np.ndarray:
    return (kind(image.copy(), np.random.default_rng(seed)) != image).any(-1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mark_covers_some_of_the_photo_and_leaves_most_of_it(kind):
    shares = [changed(grey(256, 256), kind, seed).mean() for seed in range(60)]
    assert np.mean([share > 0.001 for share in shares]) > 0.9  # some reach over the edge, or are as grey as the photo
    assert max(shares) < 0.6 and np.std(shares) > 0.001


@pytest.mark.parametrize("kind", KINDS)
def test_a_mark_is_as_large_in_a_large_photo(kind):
    small, large = (np.mean([changed(grey(n, n), kind, seed).mean() for seed in range(60)]) for n in (256, 768))
    assert 0.6 < large / small < 1.5  # the soft edge of a line is narrower then


def test_marks_are_many_kinds_follow_the_seed_and_spare_the_original():
    photo = grey(120, 90)
    many = [overlaid(photo, 2, np.random.default_rng(seed)) for seed in range(12)]
    assert (photo == 90).all() and len({image.tobytes() for image in many}) == 12
    assert np.array_equal(many[5], overlaid(photo, 2, np.random.default_rng(5)))
    assert np.array_equal(overlaid(photo, 0, np.random.default_rng(0)), photo)
    assert all((image == 90).all(-1).mean() > 0.2 for image in many)


def test_a_scene_is_framed_anew_and_written_upon_half_of_the_time():
    photo = np.full((64, 64, 3), 90, np.uint8)
    marked = [(SCENE.apply(photo, np.random.default_rng(seed)) != 90).any() for seed in range(200)]
    assert 0.38 < np.mean(marked) < 0.6
    with pytest.raises(UserError, match="marks"):
        Degradation("over", (Step("overlay", ranges={"marks": (1, 99)}),))
