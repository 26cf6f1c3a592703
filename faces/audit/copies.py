"""Gates that count: pictures that are in two splits, in two sets, or under two labels.

Near duplicates are found by perceptual hash and confirmed by their pixels, since in a large set some hashes meet
by chance.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import cv2
import numpy as np

from common.errors import BadImage
from common.words import counted
from faces.audit.gates import Gate, counting_gate
from faces.scan import Facts
from faces.similar import exact_groups, members, near_groups, overlaps
from faces.source import FaceSource

# Correlation of luma at 64 x 64 pixels from which two pictures with like hashes are one. In flickr140k the variants of
# one latent that StyleGAN drew with other noise have .87 to .99 and re-saved copies more than .98; the one real photo
# whose hash is within 4 bits of a fake's has .84.
SAME = 0.9
TRIED = 200  # pairs of a group


def split_gates(source: FaceSource, facts: Sequence[Facts], cheap_only: bool) -> list[Gate]:
    """No picture in two splits, no file with two labels; `facts` are those of `source`, all readable."""
    exact = exact_groups([f.sha256 for f in facts])
    splits = np.array([f.split or "" for f in facts])
    gates = []

    def add(name: str, what: str, pairs: Sequence[tuple[int, int]], parts: np.ndarray | None = None) -> None:
        places = ""
        if pairs and parts is not None:
            places = f" in more than one split, e.g. {parts[pairs[0][0]]} and {parts[pairs[0][1]]}"
        examples = [(facts[i].path, facts[j].path) for i, j in pairs]
        gates.append(counting_gate(name, len(pairs), examples, f"{len(pairs)} {what}{places}"))

    if len(np.unique(splits[splits != ""])) > 1:
        same = [_pair(run, splits) for run in _spanning(exact, splits, splits != "")]
        add("copies across splits", "files", same, splits)
        if not cheap_only:
            kept = np.unique(exact, return_index=True)[1]  # of copies one: those across splits are counted above
            near = near_groups(np.array([f.phash or 0 for f in facts], np.uint64))[kept]
            runs = [kept[run] for run in _spanning(near, splits[kept], splits[kept] != "")]
            pairs = [pair for run in runs if (pair := _confirmed(source, run, splits))]
            add("near duplicates across splits", "pictures", pairs, splits)
    labels = np.array([-1 if f.label is None else f.label for f in facts])
    add("one image, both labels", "files", [_pair(run, labels) for run in _spanning(exact, labels, labels >= 0)])
    return gates


def _spanning(groups: np.ndarray, parts: np.ndarray, counted: np.ndarray) -> list[np.ndarray]:
    """Members of each group that has images in more than one part (among those counted)."""
    order = np.flatnonzero(counted)
    return [order[run] for run in members(groups[order]) if len(set(parts[order[run]].tolist())) > 1]


def _pair(group: np.ndarray, parts: np.ndarray) -> tuple[int, int]:
    """The first two members that are in different parts."""
    first = int(group[0])
    return first, next(int(i) for i in group if parts[i] != parts[first])


def _confirmed(source: FaceSource, group: np.ndarray, parts: np.ndarray) -> tuple[int, int] | None:
    """Two members in different parts whose pixels agree, too; None where their hashes met by chance."""
    apart = (pair for pair in itertools.combinations(group.tolist(), 2) if parts[pair[0]] != parts[pair[1]])
    tried = itertools.islice(apart, TRIED)
    return next((pair for pair in tried if _alike(source, pair[0], source, pair[1])), None)


def _alike(first: FaceSource, i: int, second: FaceSource, j: int) -> bool:
    """Whether two images, or one and the other's mirror image, correlate as one picture re-saved does (`SAME`)."""
    try:
        a, b = _tiny(first.image(i)), _tiny(second.image(j))
    except BadImage:  # it has vanished since it was scanned: the hashes' word is all there is
        return True
    return max(float((a * b).sum()), float((a * b[:, ::-1]).sum())) >= SAME


def _tiny(image: np.ndarray) -> np.ndarray:
    """Luma at 64 x 64 pixels, mean 0 and norm 1."""
    small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (64, 64), interpolation=cv2.INTER_AREA)
    small = small - small.mean(dtype=np.float64)
    return small / max(np.sqrt((small**2).sum()), 1e-9)


def against_gate(source: FaceSource, facts: Sequence[Facts], other: FaceSource, theirs: Sequence[Facts]) -> Gate:
    """No picture of `other` (with all its facts) may be in `source` (without its unreadable files)."""
    place = [j for j, f in enumerate(theirs) if f.error is None]
    theirs = [theirs[j] for j in place]
    by_sha = {f.sha256: f.path for f in theirs}
    pairs = {f.path: (f.path, by_sha[f.sha256]) for f in facts if f.sha256 in by_sha}
    exact = len(pairs)
    mine, yours = (np.array([f.phash or 0 for f in each], np.uint64) for each in (facts, theirs))
    for i, j, _ in overlaps(mine, yours, mirror=True):
        if facts[i].path not in pairs and _alike(source, int(i), other, place[j]):
            pairs[facts[i].path] = (facts[i].path, theirs[j].path)
    detail = f"{counted(exact, 'copy', 'copies')} and {counted(len(pairs) - exact, 'near duplicate')}"
    return counting_gate("overlap", len(pairs), list(pairs.values()), detail, of=f"with {other.name}")
