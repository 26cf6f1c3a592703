"""Train, valid and test, and folds: every class in the same proportion, and images that belong together on one side.

A detector that has seen a photo's copy in training is not tested by it. So the unit that is dealt out is a group (an
image with its near-duplicates, or all images of a person), never the single image.
"""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Sequence

import numpy as np

from common.errors import UserError, one_line
from common.words import are, counted
from faces.layout import COMPOSITE, FAKE, REAL, parts_of
from faces.manifest import Manifest, text_column
from faces.prepare_options import GROUPINGS
from faces.similar import MAX_DISTANCE, components, exact_groups, in_order, joined, near_groups

NAMED = 8  # empty parts, in a warning
MOST_FOLDS = 20  # that are told one by one; of more the first and the last two
SPLIT_ORDER = ("train", "valid", "test")
# Replaced parts change the hash of the whole photo. In Yonsei's 2 million pairs, of the 20 at 5 to 7 bits of which one
# is a composite 18 are one photo; at 8 it is every second, beyond that few.
COMPOSITE_DISTANCE = 7


def parse_ratios(text: str) -> tuple[float, float, float]:
    """ "80/10/10" -> (0.8, 0.1, 0.1): shares of train, valid and test. Raises UserError."""
    words = re.split(r"[/:,]", text.strip())
    try:
        values = [float(word.strip().removesuffix("%")) for word in words]
    except ValueError:
        values = []
    total = sum(values)
    if len(values) != 3 or not all(0 <= v < float("inf") for v in values) or not total:
        raise UserError(f"`ratios` {text}: not three shares; write train/valid/test, like 80/10/10 or 100/0/0")
    return values[0] / total, values[1] / total, values[2] / total


def groups_of(
    manifest: Manifest, group_by: str, *, identity: str | None = None, max_distance: int | None = None
) -> np.ndarray:
    """int64 [n]: images with one number must stay together.

    near-duplicate: equal SHA-256, or perceptual hashes within `max_distance` bits, mirrored or not. identity: these,
    and all images with one value in the column `identity`, or one text captured by the regular expression `identity`
    in their path (a face swap may have two: images linked by any stay together). none: every image alone."""
    if group_by not in GROUPINGS:
        raise UserError(f"`group_by` must be one of {', '.join(GROUPINGS)}, not {group_by!r}")
    if group_by == "none":
        return np.arange(len(manifest))
    people = None
    if group_by == "identity":
        people = identity_groups(manifest, identity)
        if people is None and max_distance is None:
            max_distance = COMPOSITE_DISTANCE
    if "sha256" not in manifest and "phash" not in manifest:
        raise UserError("near-duplicates can't be found in a manifest without sha256 and phash")
    max_distance = MAX_DISTANCE if max_distance is None else max_distance
    same = exact_groups(manifest["sha256"])
    near = near_groups(manifest["phash"], max_distance=max_distance)
    return joined(same, near) if people is None else joined(same, near, people)


def identity_groups(manifest: Manifest, pattern: str | None) -> np.ndarray | None:
    """int64 [n] by person; None for a set of composites whose names don't tell. Images without identity stand alone.

    Raises UserError where nothing tells who is who."""
    found: list[tuple[str, ...]]
    if pattern is None and "identity" in manifest:
        found = [(str(value),) if value else () for value in manifest["identity"]]
    elif pattern is None:
        if any(COMPOSITE.fullmatch(parts_of(path)[-1]) for path in manifest["path"]):
            return None
        raise UserError(
            "`group_by` identity: nothing tells who is who; add a column «identity» to the manifest, or give `identity`"
            " a regular expression whose group captures it in the path, like '(id[0-9]+)_'"
        )
    else:
        try:
            rule = re.compile(pattern)
        except re.error as error:
            raise UserError(f"`identity` {pattern}: not a regular expression ({error}); mend it") from None
        if not rule.groups:
            raise UserError(f"`identity` {pattern}: captures nothing; put round brackets around the identity")
        matches = [rule.search(path) for path in manifest["path"]]
        found = [tuple(text for text in match.groups() if text) if match else () for match in matches]
    if not any(found):
        which = "the column «identity» is empty" if pattern is None else f"`identity` {pattern} matches no path"
        raise UserError(f"`group_by` identity: {which}; correct it")
    numbers: dict[str, int] = {}
    edges = [(i, numbers.setdefault(who, len(numbers))) for i, people in enumerate(found) for who in people]
    links = np.array(edges, dtype=np.int64)
    links[:, 1] += len(found)
    return in_order(components(len(found) + len(numbers), links)[: len(found)])


def split(
    manifest: Manifest,
    ratios: Sequence[float] = (0.8, 0.1, 0.1),
    folds: int = 0,
    group_by: str = "near-duplicate",
    seed: int = 0,
    *,
    groups: np.ndarray | None = None,
    keep_splits: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """(split object [n] of "train", "valid", "test"; fold int32 [n]).

    Labels, sources and generators come in the same proportion everywhere, exactly to within a group. Folds 0 to
    `folds` - 1 are dealt to what is not in the test split, which keeps -1: nothing that is trained or chosen by folds
    may see it. keep_splits: images that have a split keep it, their groups follow them, the rest fills up the ratios.
    groups: what must stay together, where it is known already (else `groups_of`)."""
    if groups is None:
        groups = groups_of(manifest, group_by)
    groups = in_order(groups)
    strata = strata_of(manifest)
    fixed = np.full(len(manifest), -1)
    if keep_splits:
        place = {name: k for k, name in enumerate(SPLIT_ORDER)}
        fixed = np.array([place.get(name, -1) for name in manifest["split"]], dtype=np.int64)
    part = deal(groups, strata, np.asarray(ratios, dtype=float), np.random.default_rng([seed, 0]), fixed)
    fold = np.full(len(manifest), -1, dtype=np.int32)
    if folds:
        inside = np.flatnonzero(part != 2)
        shares = np.full(folds, 1 / folds)
        fold[inside] = deal(in_order(groups[inside]), strata[inside], shares, np.random.default_rng([seed, 1]))
    return text_column([SPLIT_ORDER[k] for k in part.tolist()]), fold


def describe(
    table: Manifest,
    groups: np.ndarray,
    group_by: str,
    *,
    before: np.ndarray | None = None,
    kept: bool = False,
    ratios: Sequence[float] | None = None,
    folds: int = 0,
) -> list[str]:
    """What came out of a split, line by line: a table of counts, what was grouped, and what is not as it should be.

    before: the splits that images had; kept: whether they were to stay; ratios, folds: what was asked for."""
    shares = None if ratios is None else dict(zip(SPLIT_ORDER, ratios))
    labels, parts, fold = table["label"], table["split"], table["fold"]
    names = {REAL: "real", FAKE: "fake", -1: "unlabelled"}
    kinds = [kind for kind in (REAL, FAKE, -1) if (labels == kind).any()]
    lines = ["split  " + "".join(f"{names[kind]:>11}" for kind in kinds)]
    rows = [(name, parts == name) for name in SPLIT_ORDER] + [
        ("fold " + str(k), fold == k) for k in range(max(folds, fold.max(initial=-1) + 1))
    ]
    told = [f"{name:7}" + "".join(f"{int((row & (labels == kind)).sum()):>11}" for kind in kinds) for name, row in rows]
    most = len(SPLIT_ORDER) + MOST_FOLDS
    if len(told) > most:
        told[most - 3 : -2] = [f"… {len(told) - most + 1} more of {len(told) - len(SPLIT_ORDER)} folds"]
    lines += told
    for kind in kinds:
        here = labels == kind
        wanted = [(name, row) for name, row in rows if shares is None or shares.get(name, 1)]
        empty = [name for name, row in wanted if not (row & here).any()]
        if empty:
            empty[NAMED:] = [f"{len(empty) - NAMED} more"] if len(empty) > NAMED else []
            lines.append(
                f"warning: no {names[kind]} images in {', '.join(empty)}: there are too few, or too few groups of them"
            )
    sizes = np.bincount(groups, minlength=1)
    if group_by != "none":
        together = int(sizes[sizes > 1].sum())
        what = {"near-duplicate": "near-duplicates", "identity": "one person or photo"}[group_by]
        lines.append(
            f"{together} of {counted(len(table), 'image')} {are(together)} in"
            f" {counted(int((sizes > 1).sum()), 'group')} of {what},"
            f" the largest of {sizes.max()}"
        )
        mixed = straddling(groups, labels)
        if len(mixed):
            lines.append(f"{_groups(len(mixed))} with real and fake images{_like(table, groups, mixed[0], labels)}")
    if sizes.max() > len(table) / 10 and sizes.max() > 2:
        lines.append("warning: one group holds more than a tenth of all images; the shares may be missed")
    if group_by == "identity" and any(COMPOSITE.fullmatch(parts_of(path)[-1]) for path in table["path"]):
        lines.append(
            "note: names like easy_12_1110.jpg tell which parts were replaced, not whose photo it was; composites are"
            " with their original only where the whole photos hash alike, which large replaced parts or another crop"
            " prevent"
        )
    if before is not None and (before != "").any():
        torn = straddling(groups, before)
        if len(torn) and group_by != "none":
            verdict = "left so, leave `keep_splits` out to repair it" if kept else "on one side now"
            lines.append(
                f"{_groups(len(torn))} with images in several of the old splits"
                f"{_like(table, groups, torn[0], before)}: {verdict}"
            )
        if not kept:
            lines.append("the old splits were replaced; `keep_splits` keeps them")
    return lines


def _groups(count: int) -> str:
    return counted(count, "group")


def _like(table: Manifest, groups: np.ndarray, group: int, part: np.ndarray) -> str:
    """An example: two images of a group that are in different parts."""
    first, *rest = [i for i in np.flatnonzero(groups == group) if part[i] not in ("", -1)]
    other = next(i for i in rest if part[i] != part[first])
    return one_line(f" (like {table['path'][first]} and {table['path'][other]})")


def strata_of(manifest: Manifest) -> np.ndarray:
    """int64 [n]: one number for each combination of label, source and generator."""
    strata = np.zeros(len(manifest), dtype=np.int64)
    for name in ("label", "source", "generator"):
        numbers = exact_groups([value or " " for value in manifest[name].tolist()])
        strata = in_order(strata * (numbers.max(initial=0) + 1) + numbers)
    return strata


def deal(
    groups: np.ndarray,
    strata: np.ndarray,
    shares: np.ndarray,
    random: np.random.Generator,
    fixed: np.ndarray | None = None,
) -> np.ndarray:
    """int64 [n]: the part (0 to len(shares) - 1) that every image goes to, whole groups at a time.

    groups, strata: numbers from 0 on. fixed: parts that are given (-1: free); a group with some goes where most of its
    given images are, and those that are elsewhere stay there.

    Groups of the same composition are interchangeable and are dealt together, the largest first; each time the parts
    get what brings them nearest (least squares over the strata) to their share of all that has been dealt. Single
    images come last and even out what groups left over."""
    count, kinds, parts = len(groups), int(strata.max(initial=0)) + 1, len(shares)
    result = np.full(count, -1, dtype=np.int64) if fixed is None else fixed.copy()
    if not count:
        return result
    follow_fixed(result, groups, parts)
    have = np.zeros((parts, kinds))
    given = result >= 0
    np.add.at(have, (result[given], strata[given]), 1)
    dealt = have.sum(axis=0)

    part_of_group = np.full(int(groups.max()) + 1, -1)
    for composition, members in _compositions(groups[~given], strata[~given]):
        which, amount = np.array(composition, dtype=np.int64).T
        dealt[which] += amount * len(members)
        missing = shares[:, None] * dealt[which] - have[:, which]
        wish = missing @ amount / (amount @ amount)
        numbers = _whole(wish, len(members), shares)
        part_of_group[random.permutation(members)] = np.repeat(np.arange(parts), numbers)
        have[:, which] += numbers[:, None] * amount
    result[~given] = part_of_group[groups[~given]]
    return result


def follow_fixed(result: np.ndarray, groups: np.ndarray, parts: int) -> None:
    """Free images (-1) of groups that have given ones get the part where most of these are (of equals the last: test
    before valid before train), in place."""
    given = np.flatnonzero(result >= 0)
    if not len(given) or len(given) == len(result):
        return
    keys, votes = np.unique(groups[given] * parts + result[given], return_counts=True)
    order = np.lexsort((keys % parts, votes))
    leading = np.full(int(groups.max()) + 1, -1)
    leading[keys[order] // parts] = keys[order] % parts  # the strongest comes last and stays
    free = result < 0
    result[free] = leading[groups[free]]


def straddling(groups: np.ndarray, part: np.ndarray) -> np.ndarray:
    """int64: the groups that have images in more than one part. part [n]: any values; "" and -1 are no part."""
    numbers = exact_groups(part)
    known = np.array([value not in ("", -1) for value in part.tolist()], dtype=bool)
    pairs = np.unique(np.stack([groups[known], numbers[known]]), axis=1)
    owners, parts = np.unique(pairs[0], return_counts=True)
    return owners[parts > 1]


def _compositions(groups: np.ndarray, strata: np.ndarray) -> list[tuple[tuple[tuple[int, int], ...], np.ndarray]]:
    """((stratum, images), …) and the groups composed so; the largest groups first."""
    kinds = int(strata.max(initial=0)) + 1
    keys, amounts = np.unique(groups * kinds + strata, return_counts=True)
    found: dict[tuple[tuple[int, int], ...], list[int]] = {}
    cells = zip((keys // kinds).tolist(), (keys % kinds).tolist(), amounts.tolist())
    for group, members in itertools.groupby(cells, key=operator.itemgetter(0)):
        found.setdefault(tuple((kind, amount) for _, kind, amount in members), []).append(group)
    largest_first = sorted(found, key=lambda composition: (-sum(amount for _, amount in composition), composition))
    return [(composition, np.array(found[composition])) for composition in largest_first]


def _whole(wish: np.ndarray, total: int, shares: np.ndarray) -> np.ndarray:
    """int [parts] that sum to `total`, none negative, as near to `wish` as that allows; nothing for a share of 0."""
    wish = np.where(shares > 0, np.maximum(wish, 0), 0)
    if not wish.sum():
        wish = shares.copy()
    wish = wish * (total / wish.sum())
    numbers = np.floor(wish + 1e-9).astype(np.int64)
    order = np.argsort(-(wish - numbers), kind="stable")
    order = order[shares[order] > 0]
    numbers[order[: total - numbers.sum()]] += 1
    return numbers
