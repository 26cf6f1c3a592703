"""Which images are the same, or nearly: SHA-256 for copies, a 64-bit perceptual hash for re-saved and mirrored ones.

The hash is of the kind described by Zauner, «Implementation and benchmarking of perceptual image hash functions», 2010:
the luma at 32 x 32 pixels, its DCT-II, one bit per low frequency. Here a bit is the *sign* of a coefficient, which is
as stable as the usual comparison with the median and makes the hash of the mirror image a matter of flipping fixed
bits: mirroring changes the sign of every odd horizontal frequency and nothing else.

Why MAX_DISTANCE is 4 of 64 bits: measured on 10 000 aligned faces of flickr140k (50 million pairs, the hardest case:
all faces have eyes and mouth at the same place) and on 1000 of them changed. Share of the changed copies found, and
how many pairs of different photos are taken for one (counted against mirrored images: no true pairs among them):

    distance  JPEG 50/20, half, quarter, x2.3, blur, noise   brightness, gamma   crop 2 %   unrelated pairs
        4                       100 %                              89 %            47 %        0 of 50 million
        6                       100 %                              97 %            78 %       19
        8                       100 %                              99 %            94 %      298

At 4 a set of a million has some thousand unrelated pairs; at 6 one for every few images, which chains them all.
The 70 pairs within 4 in flickr140k itself are real finds: fakes made from one latent with other noise.
Cropping by 5 % or more, rotation and covered parts are beyond this hash.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import overload

import numpy as np
from PIL import Image

from common.errors import UserError

SIDE = 32  # pixels of the thumbnail that is hashed
MAX_DISTANCE = 4  # bits; see above
CHAIN = 100  # so many hashes may hang together as a chain, larger groups must be compact
FLAT = 0.5  # grey levels of contrast below which there is nothing to hash

_SHIFTS = 1 << 22  # candidate pairs that are compared at once
# int [64, 2]: (vertical, horizontal) frequency of each bit, along the anti-diagonals from the lowest on
FREQUENCIES = np.array(sorted(itertools.product(range(11), repeat=2), key=lambda p: (p[0] + p[1], p[0]))[1:65])
_COSINES = np.cos(np.pi / SIDE * (np.arange(SIDE) + 0.5) * np.arange(11)[:, None]) * math.sqrt(2 / SIDE)
_COSINES[0] /= math.sqrt(2)
_BITS = np.uint64(1) << np.arange(64, dtype=np.uint64)
_MIRRORING = np.bitwise_or.reduce(_BITS[FREQUENCIES[:, 1] % 2 == 1])


def phash(image: np.ndarray) -> int:
    """The 64-bit hash of an H x W x 3 uint8 RGB (or H x W grey) image; 0 where it is too flat to have one."""
    return int(hashes_of(thumbnail(Image.fromarray(image))[None])[0])


def thumbnail(image: Image.Image) -> np.ndarray:
    """uint8 [32, 32]: luma of the whole image, whatever its aspect ratio."""
    grey = image if image.mode == "L" else image.convert("L")
    if grey.size != (SIDE, SIDE):
        enlarges = min(grey.size) < SIDE
        grey = grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR if enlarges else Image.Resampling.BOX)
    return np.asarray(grey)


def hashes_of(thumbnails: np.ndarray) -> np.ndarray:
    """uint64 [n] from luma thumbnails [n, 32, 32]; 0 where one is too flat."""
    spectrum = _COSINES @ np.asarray(thumbnails, dtype=np.float64) @ _COSINES.T
    values = spectrum[:, FREQUENCIES[:, 0], FREQUENCIES[:, 1]]
    hashes = np.where(values > 0, _BITS, np.uint64(0)).sum(axis=1, dtype=np.uint64)
    hashes[np.sqrt((values**2).sum(axis=1)) / SIDE < FLAT] = 0
    return hashes


@overload
def mirrored(hashes: int) -> int: ...
@overload
def mirrored(hashes: np.ndarray) -> np.ndarray: ...
def mirrored(hashes: np.ndarray | int) -> np.ndarray | int:
    """The hashes of the same images mirrored left to right, int or uint64 [n] as given; 0 (no hash) stays 0."""
    if isinstance(hashes, int):
        return hashes ^ int(_MIRRORING) if hashes else 0
    hashes = np.asarray(hashes, dtype=np.uint64)
    return np.where(hashes == 0, hashes, hashes ^ _MIRRORING)


def distance(a: np.ndarray | int, b: np.ndarray | int) -> np.ndarray:
    """Number of bits in which hashes differ (0 to 64); broadcasts."""
    return np.bitwise_count(np.asarray(a, dtype=np.uint64) ^ np.asarray(b, dtype=np.uint64)).astype(np.int64)


def exact_groups(keys: Sequence[str] | np.ndarray) -> np.ndarray:
    """int64 [n]: equal keys (SHA-256) get equal group numbers, by first appearance. Empty texts stand alone."""
    numbers: dict[object, int] = {}
    keys = keys.tolist() if isinstance(keys, np.ndarray) else keys
    return np.array([numbers.setdefault((i,) if k == "" else k, len(numbers)) for i, k in enumerate(keys)], np.int64)


def near_groups(hashes: np.ndarray, *, max_distance: int = MAX_DISTANCE) -> np.ndarray:
    """int64 [n]: images get the same group number if their hashes, or one's and the other's mirrored, differ in at most
    `max_distance` bits, directly or by way of others. Numbers are in order of first appearance. Images without a hash
    (0) stand alone.

    Groups of more than CHAIN different hashes are kept from running on without end: their members must lie within
    twice `max_distance` of the hash that has most neighbours; the others are grouped again among themselves."""
    hashes = np.asarray(hashes, dtype=np.uint64)
    # equal hashes are one node; a thousand copies of one image must not become half a million pairs
    nodes, node_of = np.unique(hashes, return_inverse=True)
    found = overlaps(nodes, mirrored(nodes), max_distance=max_distance)[:, :2]
    found = np.sort(found[found[:, 0] != found[:, 1]], axis=1)
    pairs = np.concatenate([near_pairs(nodes, max_distance=max_distance), found])
    groups = _compact(nodes, pairs, max_distance)[node_of]
    alone = np.flatnonzero(hashes == 0)
    groups[alone] = len(nodes) + np.arange(len(alone))
    return in_order(groups)


def members(groups: np.ndarray) -> list[np.ndarray]:
    """The positions [n] of each group's members, in the order of the groups' numbers."""
    order = np.argsort(groups, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(groups[order])) + 1) if len(order) else []


def in_order(groups: np.ndarray) -> np.ndarray:
    """The same grouping (any integers) numbered 0, 1, 2… by first appearance: int64 [n]."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def joined(*groupings: np.ndarray) -> np.ndarray:
    """The finest grouping in which images stay together that are together in any of the given ones: int64 [n]."""
    count = len(groupings[0])
    offset, edges = count, []
    for groups in groupings:
        groups = in_order(np.asarray(groups))
        edges.append(np.stack([np.arange(count), groups + offset], axis=1))
        offset += count
    return in_order(components(offset, np.concatenate(edges))[:count])


def near_pairs(hashes: np.ndarray, *, max_distance: int = MAX_DISTANCE) -> np.ndarray:
    """int64 [m, 2]: every pair i < j of hashes that differ in at most `max_distance` bits. A hash of 0 has no pairs."""
    return _search(np.asarray(hashes, dtype=np.uint64), None, max_distance)


def overlaps(a: np.ndarray, b: np.ndarray, *, mirror: bool = False, max_distance: int = MAX_DISTANCE) -> np.ndarray:
    """int64 [m, 3]: (index in a, index in b, distance) of every near pair between two sets, sorted.

    mirror: b's mirrored hashes count as well; the smaller distance is told. Hashes of 0 have no pairs."""
    a, b = np.asarray(a, dtype=np.uint64), np.asarray(b, dtype=np.uint64)
    if mirror:
        found = [overlaps(a, side, max_distance=max_distance) for side in (b, mirrored(b))]
        both = np.concatenate(found)
        both = both[np.lexsort((both[:, 2], both[:, 1], both[:, 0]))]
        new = np.ones(len(both), dtype=bool)
        new[1:] = (both[1:, :2] != both[:-1, :2]).any(axis=1)
        return both[new]
    side = np.repeat([False, True], [len(a), len(b)])
    pairs = _search(np.concatenate([a, b]), side, max_distance)
    pairs[:, 1] -= len(a)
    apart = distance(a[pairs[:, 0]], b[pairs[:, 1]]) if len(pairs) else np.zeros(0, dtype=np.int64)
    return np.column_stack([pairs, apart])


def _blocks(max_distance: int, count: int) -> tuple[int, int]:
    """(blocks, how many of them agree): hashes that differ in at most `max_distance` bits differ in as many blocks at
    most, so the others agree; sorting by every choice of so many blocks finds each pair (Manku et al., «Detecting
    near-duplicates for web crawling», 2007). Chosen for the fewest steps: sorts, and candidates that share a key."""

    def steps(plan: tuple[int, int]) -> float:
        blocks, agree = plan
        candidates = count * count / 2 / 2 ** (0.75 * 64 / blocks * agree)  # 0.75: bits of faces are not independent
        return math.comb(blocks, agree) * (20 * count + candidates)

    plans = [(max_distance + agree, agree) for agree in range(1, 7) if max_distance + agree <= 16]
    return min(plans, key=steps)


def _search(hashes: np.ndarray, side: np.ndarray | None, max_distance: int) -> np.ndarray:
    """Near pairs [m, 2], sorted and each once; with `side` only those whose sides differ."""
    if not 0 <= max_distance <= 12:
        raise UserError(f"max_distance must be 0 to 12 bits, not {max_distance}: beyond that all faces are alike")
    present = np.flatnonzero(hashes)
    values, side = hashes[present], side[present] if side is not None else None
    blocks, agree = _blocks(max_distance, len(values))
    edges = np.linspace(0, 64, blocks + 1).round().astype(int).tolist()
    spans = [(np.uint64(low), high - low) for low, high in itertools.pairwise(edges)]
    # A key and its position share 64 bits, because sorting numbers is many times quicker than argsort. Of a key too
    # long for that the last bits are not sorted by, which makes for more candidates and misses none.
    numbers = np.arange(len(values), dtype=np.uint64)
    room = 64 - len(values).bit_length()
    found = [np.zeros((0, 2), dtype=np.int64)]
    for chosen in itertools.combinations(spans, agree):
        keys, length = np.zeros_like(values), 0
        for low, width in chosen:
            keys = (keys << np.uint64(width)) | ((values >> low) & np.uint64((1 << width) - 1))
            length += width
        keys >>= np.uint64(max(0, length - room))
        packed = np.sort((keys << np.uint64(64 - room)) | numbers)
        order = (packed & np.uint64((1 << (64 - room)) - 1)).astype(np.int64)
        found.append(_within_runs(packed >> np.uint64(64 - room), order, values, side, max_distance))
    pairs = np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
    return present[pairs]


def _within_runs(
    keys: np.ndarray, order: np.ndarray, values: np.ndarray, side: np.ndarray | None, max_distance: int
) -> np.ndarray:
    """Near pairs among entries with equal keys (sorted): every entry is compared with the next one, the one after the
    next, … until none shares a key with the entry so far ahead."""
    values, side = values[order], side[order] if side is not None else None
    found = [np.zeros((0, 2), dtype=np.int64)]
    at, ahead = np.arange(len(keys) - 1), 1
    while len(at):
        at = at[: np.searchsorted(at, len(keys) - ahead)]
        at = at[keys[at] == keys[at + ahead]]
        for part in np.split(at, range(_SHIFTS, len(at), _SHIFTS)):
            near = np.bitwise_count(values[part] ^ values[part + ahead]) <= max_distance
            if side is not None:
                near &= side[part] != side[part + ahead]
            hit = part[near]
            if len(hit):
                found.append(np.stack([order[hit], order[hit + ahead]], axis=1))
        ahead += 1
    return np.concatenate(found)


def components(count: int, edges: np.ndarray) -> np.ndarray:
    """int64 [count]: the connected component of every node of a graph with `edges` int64 [m, 2]."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(edges), dtype=bool), (edges[:, 0], edges[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _compact(nodes: np.ndarray, pairs: np.ndarray, max_distance: int) -> np.ndarray:
    """Component of every node, with chains of more than CHAIN nodes broken up as `near_groups` says."""
    groups = components(len(nodes), pairs)
    sizes = np.bincount(groups, minlength=1)
    todo = [int(k) for k in np.flatnonzero(sizes > CHAIN)]
    following = len(sizes)
    while todo:
        group = todo.pop()
        members = np.flatnonzero(groups == group)
        inside = pairs[groups[pairs[:, 0]] == group]
        inside = inside[groups[inside[:, 1]] == group]
        degree = np.bincount(inside.ravel(), minlength=len(nodes))[members]
        leader = nodes[members[degree.argmax()]]
        far = np.minimum(distance(nodes[members], leader), distance(mirrored(nodes[members]), leader))
        rest = members[far > 2 * max_distance]
        if not len(rest):
            continue
        place = np.full(len(nodes), -1)
        place[rest] = np.arange(len(rest))
        links = place[inside]
        parts = components(len(rest), links[(links >= 0).all(axis=1)])
        groups[rest] = following + parts
        counts = np.bincount(parts)
        todo += [following + int(k) for k in np.flatnonzero(counts > CHAIN)]
        following += len(counts)
    return groups
