"""What folder names say about the images in them: label, split, order, and which folder is a copy of another.

A path is judged by its folders below the source's root, at any depth; the folder nearest to the file decides.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

REAL, FAKE = 0, 1
LABELS = {
    **dict.fromkeys(("real", "reals", "training_real", "0_real"), REAL),
    **dict.fromkeys(("fake", "fakes", "training_fake", "1_fake"), FAKE),
}
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Kaggle's copy of the Yonsei set carries itself a second time: (folder of the copy, the original beside it).
COPIES = (("real_and_fake_face_detection", "real_and_fake_face"),)
# Photoshopped faces of Yonsei University: difficulty, a number of its own, and which parts were replaced (left eye,
# right eye, nose, mouth; one name lacks a digit). Nothing in such a name says whose photo it was.
COMPOSITE = re.compile(r"(easy|mid|hard)_[0-9]+_[01]{3,4}\.\w+")

_DIGITS = re.compile(r"[0-9]+")


def parts_of(path: str) -> tuple[str, ...]:
    """The components of a relative path or zip member name ("..", "." and drive-like oddities are plain names here)."""
    return tuple(part for part in path.replace("\\", "/").split("/") if part)


def label_of(folders: Sequence[str]) -> int | None:
    """0 (real), 1 (fake) or None by the nearest folder that names a label; upper and lower case are the same."""
    return next((LABELS[f.lower()] for f in reversed(folders) if f.lower() in LABELS), None)


def split_of(folders: Sequence[str]) -> str | None:
    """ "train", "valid", "test" or None by the nearest folder that names a split."""
    return next((SPLITS[f.lower()] for f in reversed(folders) if f.lower() in SPLITS), None)


def is_hidden(parts: Sequence[str]) -> bool:
    """Whether a path is a system's own file (".DS_Store", "__MACOSX/._a.jpg", ".ipynb_checkpoints/…").

    "." and ".." are no hidden names: an archive with them is odd, its images are not."""
    return any((part[0] == "." and part not in (".", "..")) or part == "__MACOSX" for part in parts)


def natural_key(path: str) -> tuple[str, str]:
    """Sort key: numbers by value ("img2" before "img10"), the rest by code point, folder by folder, on every locale."""
    return _DIGITS.sub(_by_value, "\0".join(parts_of(path))), path


def _by_value(digits: re.Match) -> str:
    # Length first, then the digits, orders numbers as strings: no int(), which refuses absurdly long ones.
    number = digits[0].lstrip("0")
    return f"\2{len(number):06d}{number}"


def without_copies(paths: Sequence[str]) -> list[bool]:
    """For every path, whether to keep it: False where a set is known to carry a second copy of the same images."""
    split = [parts_of(path) for path in paths]
    lower = [tuple(part.lower() for part in parts[:-1]) for parts in split]
    present = {folders[: i + 1] for folders in set(lower) for i in range(len(folders))}

    def is_copy(folders: tuple[str, ...]) -> bool:
        pairs = enumerate(itertools.pairwise(folders))
        return any(pair in COPIES and (*folders[:at], pair[1]) in present for at, pair in pairs)

    verdict = {folders: not is_copy(folders) for folders in set(lower)}
    return [verdict[folders] for folders in lower]
