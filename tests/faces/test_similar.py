"""Perceptual hashes against their definition, groups against brute force, and what they find among real faces."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from faces import similar
from faces.similar import distance, exact_groups, joined, mirrored, near_groups, near_pairs, overlaps, phash


def photo(seed: int, size: tuple[int, int] = (96, 96)) -> np.ndarray:
    """A smooth picture of many frequencies."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    return np.asarray(small.resize(size, Image.Resampling.BICUBIC))


def resaved(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def brute_groups(hashes: np.ndarray, limit: int) -> np.ndarray:
    bits = np.unpackbits(hashes.view(np.uint8).reshape(-1, 8), axis=1).astype(int)
    other = np.unpackbits(mirrored(hashes).view(np.uint8).reshape(-1, 8), axis=1).astype(int)
    near = ((bits[:, None] != bits[None]).sum(-1) <= limit) | ((bits[:, None] != other[None]).sum(-1) <= limit)
    near &= (hashes[:, None] != 0) & (hashes[None] != 0)
    return connected_components(coo_array(near), directed=False)[1]


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    return ((a[:, None] == a[None]) == (b[:, None] == b[None])).all()


def clustered(seed: int, count: int = 400) -> np.ndarray:
    """Random hashes, half of them a few bits from another or from its mirror image, some equal, some without hash."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(1, 2**64, count, dtype=np.uint64)
    for i in range(count // 2, count):
        value = hashes[rng.integers(0, i)]
        for bit in rng.choice(64, rng.integers(0, 7), replace=False):
            value ^= np.uint64(1) << np.uint64(bit)
        hashes[i] = mirrored(int(value)) if rng.random() < 0.4 else value
    hashes[rng.integers(0, count, 5)] = 0
    return hashes


def test_the_hash_is_the_signs_of_the_lowest_frequencies():
    image = photo(0, (32, 32))
    grey = np.asarray(Image.fromarray(image).convert("L"), dtype=float)
    spectrum = dctn(grey, norm="ortho")
    bits = [spectrum[u, v] > 0 for s in range(1, 11) for u in range(s + 1) if (v := s - u) >= 0][:64]
    assert phash(image) == sum(int(bit) << k for k, bit in enumerate(bits))


@pytest.mark.parametrize("seed", range(4))
def test_mirroring_an_image_is_mirroring_its_hash(seed):
    image = photo(seed)
    assert phash(image[:, ::-1].copy()) == mirrored(phash(image)) != phash(image)
    assert mirrored(mirrored(phash(image))) == phash(image)
    assert mirrored(np.array([0, phash(image)], dtype=np.uint64)).tolist() == [0, mirrored(phash(image))]


def test_flat_images_have_no_hash_and_are_nobodys_duplicate():
    flat = [np.full((40, 40, 3), value, dtype=np.uint8) for value in (0, 128, 129)]
    hashes = np.array([phash(image) for image in flat], dtype=np.uint64)
    assert hashes.tolist() == [0, 0, 0] and mirrored(0) == 0
    assert near_groups(hashes).tolist() == [0, 1, 2] and len(near_pairs(hashes)) == 0


def test_saving_again_and_resizing_stay_within_the_limit():
    apart = []
    for seed in range(20):
        image = photo(seed)
        picture = Image.fromarray(image)
        changed = [
            resaved(image, 30),
            np.asarray(picture.resize((48, 48), Image.Resampling.LANCZOS)),
            np.asarray(picture.resize((333, 333), Image.Resampling.BILINEAR)),
            np.asarray(picture.filter(ImageFilter.GaussianBlur(1))),
        ]
        apart += [int(distance(phash(image), phash(other))) for other in changed]
        assert distance(phash(image), phash(photo(seed + 1000))) > 12

    assert np.mean(np.array(apart) <= similar.MAX_DISTANCE) > 0.97 and max(apart) <= 6


def test_images_of_any_size_and_grey_ones_are_hashed():
    for shape in ((1, 1, 3), (5, 300, 3), (300, 5, 3), (31, 33)):
        assert 0 <= phash(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)) < 2**64


@pytest.mark.parametrize("limit", [0, 1, 2, 4, 6, 8, 12])
def test_groups_equal_brute_force(limit):
    for seed in range(3):
        hashes = clustered(seed)
        assert same_partition(near_groups(hashes, max_distance=limit), brute_groups(hashes, limit))


@pytest.mark.parametrize("limit", [0, 3, 4, 7])
def test_pairs_and_overlaps_equal_brute_force(limit):
    hashes = clustered(7)
    d = distance(hashes[:, None], hashes[None])
    known = (hashes != 0)[:, None] & (hashes != 0)[None]
    i, j = np.nonzero((d <= limit) & known)
    assert near_pairs(hashes, max_distance=limit).tolist() == [[a, b] for a, b in zip(i, j) if a < b]
    a, b = hashes[:150], hashes[150:]
    i, j = np.nonzero((d <= limit)[:150, 150:] & known[:150, 150:])
    assert overlaps(a, b, max_distance=limit).tolist() == [[x, y, d[x, 150 + y]] for x, y in zip(i, j)]
    both = np.minimum(d, distance(hashes[:, None], mirrored(hashes)[None]))
    i, j = np.nonzero((both <= limit)[:150, 150:] & known[:150, 150:])
    assert overlaps(a, b, mirror=True, max_distance=limit).tolist() == [[x, y, both[x, 150 + y]] for x, y in zip(i, j)]


def test_long_keys_are_cut_without_a_miss(monkeypatch):
    monkeypatch.setattr(similar, "_blocks", lambda limit, count: (limit + 6, 6))  # 38 bits and more in a key
    hashes = clustered(3)
    assert same_partition(near_groups(hashes), brute_groups(hashes, 4))


def test_many_copies_of_one_image_are_quick():
    hashes = np.full(200_000, 12345, dtype=np.uint64)
    hashes[::2] = mirrored(12345)
    assert near_groups(hashes).max() == 0


def test_a_chain_does_not_run_on_without_end():
    rng = np.random.default_rng(0)
    chain = [int(rng.integers(1, 2**63))]
    for _ in range(1500):  # each two bits from the one before, and after a while far from the first
        chain.append(chain[-1] ^ (1 << int(rng.integers(64))) ^ (1 << int(rng.integers(64))))
    hashes = np.array(chain, dtype=np.uint64)
    groups = near_groups(hashes, max_distance=2)
    assert len(set(brute_groups(hashes, 2).tolist())) == 1
    for group in np.flatnonzero(np.bincount(groups) > similar.CHAIN):
        members = hashes[groups == group]
        assert distance(members[:, None], members[None]).max() <= 8
    short = hashes[:90]
    assert near_groups(short, max_distance=2).max() == 0, "short chains stay whole"


def test_exact_groups_and_joined():
    assert exact_groups(["b", "a", "b", "", "", "a"]).tolist() == [0, 1, 0, 2, 3, 1]
    assert joined(np.array([5, 5, 7, 8, 9]), np.array([1, 2, 2, 3, 4])).tolist() == [0, 0, 0, 1, 2]
    assert near_groups(np.array([], dtype=np.uint64)).tolist() == []
    with pytest.raises(ValueError, match="max_distance"):
        near_groups(np.array([1], dtype=np.uint64), max_distance=13)


def test_near_duplicates_among_real_faces(shared_dir):
    """200 faces and six changed copies of 30 of them, mirrored ones too: each finds its original and nobody else."""
    folder = shared_dir / "data/flickr140k/real_vs_fake/real-vs-fake/test/real"
    images = [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())[:200]]
    changes = [
        lambda image: resaved(image, 20),
        lambda image: np.asarray(Image.fromarray(image).resize((100, 100))),
        lambda image: np.asarray(Image.fromarray(image).resize((640, 640), Image.Resampling.BICUBIC)),
        lambda image: np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(2))),
        lambda image: resaved(image[:, ::-1], 60),
        lambda image: np.asarray(Image.fromarray(image[:, ::-1]).resize((128, 128))),
    ]
    everything = images + [change(image) for image in images[:30] for change in changes]
    hashes = np.array([phash(image) for image in everything], dtype=np.uint64)
    truth = np.concatenate([np.arange(200), np.repeat(np.arange(30), len(changes))])
    assert same_partition(near_groups(hashes), truth)


@pytest.mark.slow
def test_a_million_hashes():
    import time

    rng = np.random.default_rng(0)
    hashes = rng.integers(1, 2**64, 1_000_000, dtype=np.uint64)
    hashes[500_000:520_000] = mirrored(hashes[:20_000]) ^ np.uint64(5)
    start = time.process_time()
    groups = near_groups(hashes)
    assert time.process_time() - start < 40
    assert 979_995 < groups.max() + 1 <= 980_000, "of a million random hashes hardly two are alike by chance"
