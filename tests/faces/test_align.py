"""Alignment against the published equations and drawn geometry; detection on development photos."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from common.errors import UserError
from common.files import sha256_of
from faces.decode import load_image
from faces.finding import yunet
from faces.finding.align import Face, FaceFinder, _surrounded, align_face, cut_quad
from faces.finding.frame import box_quad, ffhq_quad
from faces.procedural.portrait import render_face

UPRIGHT = np.array([[38, 46], [62, 46], [50, 58], [41, 70], [59, 70]], np.float32)


def turned(points: np.ndarray, degrees: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    a = np.radians(degrees)
    return scale * points @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) + shift


def test_the_frame_by_hand():
    # x' = (24, 0), y' = (50, 46) - (50, 70) = (0, -24): c = (50, 48.4), s = max(96, 86.4)
    want = [[2, 0.4], [2, 96.4], [98, 96.4], [98, 0.4]]
    np.testing.assert_allclose(ffhq_quad(UPRIGHT), want, atol=1e-4)
    long = UPRIGHT.copy()
    long[3:, 1] = 86  # y' = (0, -40): c = (50, 50), s = 144
    np.testing.assert_allclose(ffhq_quad(long)[[0, 2]], [[-22, -22], [122, 122]], atol=1e-4)


@pytest.mark.parametrize("degrees", [-160, -30, 12, 90])
def test_the_frame_turns_with_the_face(degrees):
    moved = turned(UPRIGHT, degrees, 2.5, (300, 40))
    np.testing.assert_allclose(ffhq_quad(moved), turned(ffhq_quad(UPRIGHT), degrees, 2.5, (300, 40)), atol=1e-3)


def test_a_point_is_no_face():
    with pytest.raises(ValueError, match="no face"):
        ffhq_quad(np.ones((5, 2)))


def smooth(height: int, width: int) -> np.ndarray:
    """A picture whose value at (x, y) is known everywhere: channels are x, y and their sum, in grey levels."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.rint(np.stack([x, y, (x + y) / 2], -1)).astype(np.uint8)


@pytest.mark.parametrize("degrees", [0, 20, 180])
def test_pixels_come_from_where_the_frame_says(degrees):
    image, size = smooth(240, 250), 60
    quad = ffhq_quad(turned(UPRIGHT, degrees, 1.0, (0, 0)) - turned(UPRIGHT, degrees, 1.0, (0, 0)).mean(0) + [125, 120])
    out = cut_quad(image, quad, size, resample="box").astype(float)
    u, v = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    place = quad[0] + u[..., None] / size * (quad[3] - quad[0]) + v[..., None] / size * (quad[1] - quad[0])
    inner = slice(3, -3)
    assert np.abs(out[inner, inner, :2] - place[inner, inner]).max() < 1.2  # two roundings


def test_the_whole_photo_as_its_own_frame_is_the_photo():
    image = render_face(5, 128)
    quad = np.array([[0, 0], [0, 128], [128, 128], [128, 0]], float)
    same = cut_quad(image, quad, 128)
    assert np.abs(same.astype(int) - image).mean() < 1.5
    half = cut_quad(image, quad, 64, resample="box")
    assert np.abs(half.astype(int) - cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)).mean() < 1.5


def test_outside_is_mirrored_soft_or_sharp():
    image = smooth(200, 200)
    quad = np.array([[-10, 50], [-10, 150], [90, 150], [90, 50]], float)  # ten pixels over the left edge
    out = cut_quad(image, quad, 100, resample="box").astype(float)
    inside = out[50, 12:, 0]
    assert np.abs(inside - (np.arange(12, 100) - 9.5)).max() < 1.5  # the photo itself is untouched
    assert np.abs(out[50, :9, 0] - np.abs(np.arange(9) - 9.5)).max() < 3
    wild = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    far = cut_quad(wild, np.array([[-80, 0], [-80, 100], [20, 100], [20, 0]], float), 100, resample="box")
    assert far[:, 5:40].std() < 0.5 * far[:, 85:].std()
    sharp = cut_quad(wild, np.array([[-80, 0], [-80, 100], [20, 100], [20, 0]], float), 100, blurred=False)
    whole = cut_quad(wild, np.array([[0, 0], [0, 100], [100, 100], [100, 0]], float), 100)
    assert np.abs(sharp[:, 4:76].astype(int) - whole[:, 75:3:-1]).max() <= 1  # the photo as in a mirror
    with pytest.raises(ValueError, match="far outside"):
        cut_quad(wild, quad - 100_000, 64)


@pytest.mark.parametrize("shape", [(64, 64), (40, 300), (2000, 1500)])
def test_any_size_gives_the_size_asked_for(shape):
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    before = image.copy()
    landmarks = UPRIGHT / 100 * min(shape)
    assert cut_quad(image, ffhq_quad(landmarks), 96).shape == (96, 96, 3)
    assert np.array_equal(image, before)
    face = Face((0.0, 0.0, 30.0, 30.0), None, 1.0)
    out, how = align_face(image, face, 32)
    assert out.shape == (32, 32, 3) and how == "box" and face.size == 30
    quad = box_quad(face.box)
    assert quad[2, 0] - quad[0, 0] == pytest.approx(quad[2, 1] - quad[0, 1])


def test_no_face_is_an_answer():
    finder = FaceFinder(None, "it was asked for")
    assert finder.name == "haar" and finder.fallback
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    assert finder.find(noise) == []
    for shape in ((1, 1), (1, 900), (900, 2)):
        assert finder.find(np.zeros((*shape, 3), np.uint8)) == []
    with pytest.raises(ValueError, match="uint8"):
        finder.find(noise / 255)


@pytest.mark.parametrize("shape", [(90, 70), (300, 260)])
@pytest.mark.parametrize("at, side", [((0.5, 0.5), 1.5), ((0.1, 0.5), 0.8), ((0.9, 0.95), 1.1), ((0.5, 0.0), 0.3)])
def test_surroundings_fade_into_the_blurred_mirror_image(shape, at, side):
    """By the definition, over the whole picture at once: the share of the blurred one grows with the distance from
    the photo, to all of it at a tenth of the frame's side."""
    height, width = shape
    photo = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    side, middle = side * width, np.array(at) * (width, height)
    quad = middle + side / 2 * np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)])
    wide, moved_quad = _surrounded(photo, quad, side, True)
    left, top = (int(n) for n in (moved_quad - quad)[0].round())
    np.testing.assert_array_equal(wide[top : top + height, left : left + width], photo)
    down, across = wide.shape[0] - top - height, wide.shape[1] - left - width
    mirrored = cv2.copyMakeBorder(photo, top, down, left, across, cv2.BORDER_REFLECT)
    soft = cv2.GaussianBlur(mirrored, (0, 0), 0.02 * side, borderType=cv2.BORDER_REPLICATE).astype(np.float32)
    y, x = np.indices(wide.shape[:2], np.float32)
    beyond = np.max([left - x, x - (left + width - 1), top - y, y - (top + height - 1), 0 * x], axis=0)
    share = (beyond / np.float32(0.1 * side)).clip(0, 1)[..., None]
    np.testing.assert_array_equal(wide, np.rint(mirrored + (soft - mirrored) * share).astype(np.uint8))


def test_a_wrong_model_is_told(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="`face_model` .*no such file"):
        FaceFinder.open(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(UserError, match="text.onnx.*can't use it as YuNet"):
        FaceFinder.open(tmp_path / "text.onnx")
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FACES_FACE_MODEL", raising=False)
    (tmp_path / "cache").mkdir()
    yunet.cache_path().write_text("half a download")  # another hash: not used
    fallen = FaceFinder.open(allow_download=False)
    assert fallen.name == "haar" and "`face_model`" in fallen.fallback and yunet.URL in fallen.fallback


def test_a_download_must_have_the_hash(tmp_path, monkeypatch):
    (tmp_path / "page.html").write_text("<html>moved</html>")
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FACES_FACE_MODEL", raising=False)
    monkeypatch.setattr(yunet, "URL", (tmp_path / "page.html").as_uri())
    with pytest.raises(UserError, match="SHA-256"):
        yunet.find_model()
    assert not yunet.cache_path().exists()
    monkeypatch.setattr(yunet, "SHA256", sha256_of(tmp_path / "page.html"))
    assert yunet.find_model().read_text() == "<html>moved</html>"
    monkeypatch.setattr(yunet, "URL", "file:///nowhere")
    assert yunet.find_model() == yunet.cache_path()  # found again, nothing fetched


# ---- on real photos ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(shared_dir):
    folder = shared_dir / "data/flickr140k/real_vs_fake/real-vs-fake/test"
    files = [p for label in ("real", "fake") for p in sorted((folder / label).iterdir())[::50]]
    if not files:
        pytest.skip("no flickr140k")
    return [load_image(p) for p in files]


@pytest.fixture(scope="module")
def finder(shared_dir):
    return FaceFinder.open(shared_dir / "weights" / yunet.FILE_NAME)


def test_aligned_photos_are_found_aligned(photos, finder):
    """FFHQ's photos were cut by 68 landmarks of another detector: ours must give nearly the same frame, the photo."""
    assert finder.name == "yunet-2023mar"
    found = [finder.find(image) for image in photos]
    assert all(found)
    quads = np.array([ffhq_quad(faces[0].landmarks) for faces in found]) / 256
    middle, side = quads.mean(1), np.hypot(*(quads[:, 3] - quads[:, 0]).T)
    assert np.abs(middle.mean(0) - 0.5).max() < 0.015 and middle.std(0).max() < 0.025
    assert abs(side.mean() - 1) < 0.04 and side.std() < 0.12
    eyes = np.array([faces[0].landmarks[:2] for faces in found]) / 256
    assert eyes.std(0).max() < 0.025


def test_one_several_none_and_small_ones(photos, finder):
    assert len(finder.find(photos[0])) == 1
    pair = np.hstack([photos[0], cv2.resize(photos[1], (128, 128))[np.r_[:128, [127] * 128]]])
    faces = finder.find(pair)
    assert len(faces) == 2 and faces[0].size > faces[1].size and faces[0].box[0] < 256 < faces[1].box[0]
    assert finder.find(np.full((300, 200, 3), 90, np.uint8)) == []
    for image in photos[:4]:  # at 64 px the same landmarks, to a pixel of those
        small = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)
        there = finder.find(small)[0].landmarks * 4
        assert np.abs(there - finder.find(image)[0].landmarks).max() < 12
    big = np.full((1500, 2200, 3), 120, np.uint8)  # a face of a hundred pixels in a big photo: the second look
    big[300:428, 1700:1828] = cv2.resize(photos[0], (128, 128), interpolation=cv2.INTER_AREA)
    (face,) = finder.find(big)
    assert 1700 < face.landmarks[:, 0].min() and face.landmarks[:, 0].max() < 1828


def test_a_tilted_face_comes_out_upright(photos, finder):
    for image in photos[:5]:
        matrix = cv2.getRotationMatrix2D((128, 128), 25, 0.8)
        tilted = cv2.warpAffine(image, matrix, (256, 256), borderMode=cv2.BORDER_REFLECT)
        aligned, how = align_face(tilted, finder.find(tilted)[0], 256)
        assert how == "ffhq"
        left, right = finder.find(aligned)[0].landmarks[:2]
        assert abs(np.degrees(np.arctan2(*(right - left)[::-1]))) < 7
        assert np.abs((left + right) / 2 - [128, 118]).max() < 25 and 45 < np.hypot(*(right - left)) < 80


def test_threads_and_processes_see_the_same(photos, finder):
    want = [finder.find(image)[0].landmarks for image in photos[:6]]
    with ThreadPoolExecutor(3) as pool:
        got = list(pool.map(lambda image: finder.find(image)[0].landmarks, photos[:6]))
    np.testing.assert_array_equal(got, want)
    again = pickle.loads(pickle.dumps(finder)).find(photos[0])
    np.testing.assert_array_equal(again[0].landmarks, want[0])


def test_the_cascade_finds_most(photos):
    finder = FaceFinder(None, "it was asked for")
    found = [finder.find(image) for image in photos[::4]]
    assert sum(map(bool, found)) >= len(found) - 1
    quads = np.array([box_quad(faces[0].box) for faces in found if faces]) / 256
    assert np.abs(quads.mean(1).mean(0) - 0.5).max() < 0.05
    assert abs((quads[:, 2, 0] - quads[:, 0, 0]).mean() - 1) < 0.12
