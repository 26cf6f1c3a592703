"""Packing and the index stream."""

from __future__ import annotations

import io
import itertools
import os

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from faces.dataset import DecodedFaces, IndexStream, stream, to_float
from faces.patches import Patches
from faces.preprocess import Preprocess
from faces.source import open_source

RNG = np.random.default_rng(11)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Ten good images (three of them not plain RGB) among five that can't be used."""
    root = tmp_path / "photos"
    for label in ("real", "fake"):
        (root / label).mkdir(parents=True)
    pixels = RNG.integers(0, 256, (10, 40, 48, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        (root / ("fake" if i % 2 else "real") / f"{i}.png").write_bytes(encoded(Image.fromarray(image)))
    (root / "real/0.png").write_bytes(encoded(Image.fromarray(pixels[0, ..., 0])))
    (root / "real/2.png").write_bytes(encoded(Image.fromarray(pixels[2]).convert("RGBA")))
    (root / "real/4.png").write_bytes(encoded(Image.fromarray(pixels[4, ..., 0])))
    jpeg = encoded(Image.fromarray(pixels[0]), "JPEG")
    (root / "real/truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (root / "real/text.jpg").write_bytes(b"hello, I am no photo\n")
    (root / "fake/dot.png").write_bytes(encoded(Image.new("RGB", (1, 1))))
    (root / "fake/thin.png").write_bytes(encoded(Image.new("RGB", (400, 15))))
    (root / "fake/none.png").write_bytes(b"")
    return root


def test_bad_images_are_skipped_named_and_counted(folder):
    source = open_source(folder)
    faces = DecodedFaces.build(source, Preprocess(32))
    assert faces.images.shape == (10, 3, 32, 32) and faces.images.dtype == np.uint8 and len(faces) == 10
    reasons = {os.path.basename(name): reason for name, reason in faces.skipped}
    assert reasons == {
        "truncated.jpg": "truncated image (the file ends early)",
        "text.jpg": "not an image",
        "dot.png": "1x1 pixels: too small (at least 16 a side)",
        "thin.png": "400x15 pixels: too small (at least 16 a side)",
        "none.png": "empty file (0 bytes)",
    }
    assert faces.converted == {"grey": 2, "RGBA": 1}
    for row, i in enumerate(faces.kept):
        np.testing.assert_array_equal(faces.images[row], Preprocess(32).uint8(source.image(i)).transpose(2, 0, 1))
        assert faces.labels[row] == source.labels[i]
    assert len(DecodedFaces.build(source, Preprocess(32), min_side=1)) == 12


def test_the_result_does_not_depend_on_threads_or_cache(folder, tmp_path):
    source, one = open_source(folder), Preprocess(24, channels=1)
    several = [DecodedFaces.build(source, one, workers=w) for w in (1, 5)]
    several += [DecodedFaces.build(source, one, cache_dir=tmp_path / "cache") for _ in range(2)]
    for one in several:
        np.testing.assert_array_equal(one.images, several[0].images)
        np.testing.assert_array_equal(one.labels, several[0].labels)
        assert one.skipped == several[0].skipped and one.converted == several[0].converted
        assert torch.equal(one.batch([3, 1]), several[0].batch([3, 1]))
    assert several[0].images.shape == (10, 1, 24, 24) and isinstance(several[3].images, np.memmap)


def test_cache_is_found_again_and_never_stale(folder, tmp_path, monkeypatch):
    cache, calls = tmp_path / "deep/cache", []
    decoded = type(open_source(folder)).decoded
    monkeypatch.setattr(
        "faces.source.FaceSource.decoded", lambda self, i, **k: calls.append(i) or decoded(self, i, **k)
    )

    def build(side=32, **options):
        calls.clear()
        one = DecodedFaces.build(open_source(folder), Preprocess(side), cache_dir=cache, **options)
        return one, len(calls)

    assert build()[1] == 15 and build()[1] == 0 and build(mirror=True)[1] == 0
    assert build(side=16)[1] == 15 and build(min_side=1)[1] == 15
    os.utime(folder / "real/6.png", ns=(5, 5))
    assert build()[1] == 15
    for file in cache.glob("*.u8"):
        file.write_bytes(file.read_bytes()[:-1])
    one, count = build()
    assert count == 15 and len(one) == 10
    for file in cache.glob("*.json"):
        file.write_text("{")
    assert build()[1] == 15
    assert not list(cache.glob(".*"))


def test_cache_folder_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="the decoded images can't be written"):
        DecodedFaces.build(open_source(folder), Preprocess(32), cache_dir=tmp_path / "file" / "cache")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_is_an_error_line(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("common.files.open", lambda *a, **k: open("/dev/full", "wb"), raising=False)
    with pytest.raises(UserError, match="can't be written.*GiB of room"):
        DecodedFaces.build(open_source(folder), Preprocess(32), cache_dir=tmp_path / "cache")


def test_nothing_usable_and_too_large(folder, tmp_path):
    for good in itertools.chain(folder.glob("*/[0-9].png")):
        good.unlink()
    for cache in (None, tmp_path / "cache"):
        with pytest.raises(UserError, match="none of the 5 images of photos can be used; the first, .*dot.png"):
            DecodedFaces.build(open_source(folder), Preprocess(32), cache_dir=cache)
    assert not list((tmp_path / "cache").iterdir())
    with pytest.raises(UserError, match="holds no images"):
        DecodedFaces.build(open_source(folder).select([]), Preprocess(32))


def test_what_memory_cannot_hold_lies_in_a_nameless_file(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))
    source = open_source(folder)
    want = DecodedFaces.build(source, Preprocess(32))
    monkeypatch.setattr("faces.dataset._half_of_free_memory", lambda: 1000)
    faces = DecodedFaces.build(source, Preprocess(32))
    assert isinstance(faces.images, np.memmap) and faces.skipped == want.skipped
    assert torch.equal(faces.batch([9, 0, 4]), want.batch([9, 0, 4]))
    assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.setattr("faces.dataset.shutil.disk_usage", lambda path: type("Usage", (), {"free": 99})())
    with pytest.raises(UserError, match="takes 0.0 GiB, more than the 0.0 GiB .*no room in .*set FACES_CACHE"):
        DecodedFaces.build(source, Preprocess(32))


def test_a_stream_gives_the_same_images_without_keeping_them(folder):
    skipped = []
    streamed = np.stack(list(stream(open_source(folder), Preprocess(32), workers=2, skipped=skipped)))
    faces = DecodedFaces.build(open_source(folder), Preprocess(32))
    assert np.array_equal(streamed, faces.images) and skipped == faces.skipped


def test_mirroring_is_a_second_half(folder):
    faces = DecodedFaces.build(open_source(folder), Preprocess(32), mirror=True)
    assert len(faces) == 20 and len(faces.images) == 10
    batch = faces.batch([4, 14, 0, 19])
    assert batch.dtype == torch.uint8 and batch.shape == (4, 3, 32, 32)
    assert torch.equal(batch[1], batch[0].flip(-1)) and not torch.equal(batch[0], batch[1])
    assert torch.equal(batch[3], torch.from_numpy(faces.images[9]).flip(-1))
    for wrong in ([20], [-1]):
        with pytest.raises(IndexError):
            faces.batch(wrong)
    batch.zero_()
    assert faces.images.any()
    assert faces.batch([]).shape == (0, 3, 32, 32)


def test_progress_and_interruption(folder, monkeypatch):
    monkeypatch.setattr("faces.dataset.PACE", 4)
    seen = []
    DecodedFaces.build(open_source(folder), Preprocess(32), progress=lambda *at: seen.append(at))
    assert seen == [(4, 15), (8, 15), (12, 15), (15, 15)]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        DecodedFaces.build(open_source(folder), Preprocess(32), progress=stop)


def test_rendered_faces_are_drawn_at_the_size_asked(monkeypatch):
    source = open_source("demo", max_items=3)
    large = DecodedFaces.build(source, Preprocess(96))
    np.testing.assert_array_equal(large.images[1], source.rendered_at(96).image(1).transpose(2, 0, 1))
    small = DecodedFaces.build(source, Preprocess(32))
    np.testing.assert_array_equal(small.images[1], Preprocess(32).uint8(source.image(1)).transpose(2, 0, 1))


def test_to_float_equals_the_preprocessing():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    ours = to_float(torch.from_numpy(np.stack([values] * 3)))
    assert ours.dtype == torch.float32 and ours.min() == -1 and ours.max() == 1
    np.testing.assert_array_equal(ours.numpy(), Preprocess(16)(values))


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_every_epoch_holds_every_index_once(n):
    stream = IndexStream(n, seed=5)
    order = stream.at(0, 4 * n)
    assert order.dtype == np.int64
    epochs = order.reshape(4, n)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(n))
    if n == 1000:
        assert len({tuple(epoch) for epoch in epochs}) == 4
        assert abs(np.corrcoef(epochs[0], np.arange(n))[0, 1]) < 0.1
        assert not np.array_equal(IndexStream(n, 6).at(0, n), epochs[0])


def test_the_order_is_a_function_of_the_position():
    whole = IndexStream(37, seed=2).at(0, 500)
    pieces, position = [], 0
    for count in itertools.cycle((5, 1, 64, 0, 17, 90)):
        if position + count > 500:
            break
        pieces.append(IndexStream(37, seed=2).at(position, count))  # a new object each time: a resumed run
        position += count
    np.testing.assert_array_equal(np.concatenate(pieces), whole[:position])
    stream = IndexStream(37, seed=2)
    np.testing.assert_array_equal(stream.at(400, 10), whole[400:410])
    np.testing.assert_array_equal(stream.at(3, 10), whole[3:13])
    assert len(stream.at(5, 0)) == 0
    assert IndexStream(10**5, -3).at(10**12, 3).shape == (3,)


def test_the_order_is_the_same_on_every_machine():
    assert IndexStream(10, seed=0).at(0, 20).tolist() == FIRST_TWENTY


FIRST_TWENTY = [3, 2, 1, 8, 6, 0, 7, 4, 5, 9, 7, 4, 5, 1, 9, 8, 6, 2, 0, 3]


def test_stream_refusals():
    with pytest.raises(ValueError):
        IndexStream(0, 0)
    for position, count in ((-1, 5), (5, -1)):
        with pytest.raises(ValueError):
            IndexStream(3, 0).at(position, count)


@pytest.mark.parametrize("kind", [DecodedFaces, Patches])
def test_a_moved_set_is_named_where_it_lies_now(folder, tmp_path, kind):
    made = kind.build(open_source(folder), Preprocess(32), cache_dir=tmp_path / "cache")
    folder.rename(tmp_path / "moved")
    again = kind.build(open_source(tmp_path / "moved"), Preprocess(32), cache_dir=tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*.json"))) == 1 and len(made.skipped) == 5
    assert [(name.replace("/moved/", "/photos/"), why) for name, why in again.skipped] == made.skipped
    assert all(os.path.exists(name) for name, _ in again.skipped)
