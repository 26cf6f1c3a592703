"""Where a detector comes from, by what its file says: of which others it was made, with which sets it was taught.

Its answers on these prove nothing. The file of one training has the set's fingerprint and the seed that held images of
it out; one that was made of several detectors has those of all their trainings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

TAUGHT = "taught"  # where the header of a detector made of several has their sets
MADE_OF = ("ensemble", "soup", "wise_ft")  # where a header has what the detector was made of


class Lesson(NamedTuple):
    """fingerprint: of the set (`faces.source`). seed: of the split that held images of it out; None where the file does
    not tell."""

    fingerprint: str
    seed: int | None


def lessons_of(meta: object) -> list[Lesson]:
    """meta: of a detector's file, of which nothing is taken for granted."""
    views = meta.get("two_views") if isinstance(meta, Mapping) else None
    if isinstance(views, Mapping):
        parts = [part for part in (views.get("face"), views.get("pixels")) if isinstance(part, Mapping)]
        return list(dict.fromkeys(lesson for part in parts for lesson in _lessons(part.get("meta"))))
    return list(dict.fromkeys(_lessons(meta)))


def lessons_of_run(config: object) -> list[Lesson]:
    """config: of a run's folder, a detector's or a game's, of which nothing is taken for granted."""
    if not isinstance(config, Mapping):
        return []
    own = _lesson(config.get("data"), config.get("recipe"))
    return list(dict.fromkeys(own + _lessons({TAUGHT: config.get(TAUGHT)})))


def lessons_of_all(metas: Iterable[object]) -> list[Lesson]:
    """Those of several files, each once."""
    return list(dict.fromkeys(lesson for meta in metas for lesson in lessons_of(meta)))


def lessons_told(metas: Iterable[object]) -> dict:
    """What the header of a detector made of several says of the sets they were taught with."""
    found = lessons_of_all(metas)
    return {TAUGHT: [lesson._asdict() for lesson in found]} if found else {}


def said_by_all(metas: Sequence[Mapping]) -> dict:
    """What the headers of several detectors say alike, for one that is made of them."""
    first, *others = metas
    alike = {key: value for key, value in first.items() if all(key in m and m[key] == value for m in others)}
    return without_origin(alike)


def without_origin(meta: Mapping) -> dict:
    """A header's `meta` for what is made of that detector: what this was made of itself, its SHA-256 tells."""
    return {key: value for key, value in meta.items() if key not in MADE_OF}


def _lessons(meta: object) -> list[Lesson]:
    """Of a single network's file."""
    if not isinstance(meta, Mapping):
        return []
    if isinstance(told := meta.get(TAUGHT), list):
        return [lesson for one in told for lesson in _lesson(one, one)]
    return _lesson(meta, meta.get("recipe"))


def _lesson(of_set: object, of_split: object) -> list[Lesson]:
    mark = of_set.get("fingerprint") if isinstance(of_set, Mapping) else None
    seed = of_split.get("seed") if isinstance(of_split, Mapping) else None
    known = isinstance(seed, int) and not isinstance(seed, bool)
    return [Lesson(mark, seed if known else None)] if isinstance(mark, str) and mark else []
