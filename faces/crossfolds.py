"""Folds for cross-validation: the images dealt into parts of equal make-up, groups whole, as often as asked.

Every fold is held out once. From the others a validation part is cut, by groups as well, so that what chooses and
calibrates a detector is neither learnt from nor tested on.
"""

from __future__ import annotations

import numpy as np

from common.errors import UserError
from common.words import counted
from faces.layout import COMPOSITE, parts_of
from faces.manifest import Manifest, text_column
from faces.similar import MAX_DISTANCE, exact_groups, in_order, joined
from faces.splitting import COMPOSITE_DISTANCE, deal, groups_of, straddling, strata_of

VALID_SHARE = 1 / 8  # of the images that are not held out: with five folds a tenth of all
TOGETHER = ("group", "identity")  # columns of a manifest by which images belong together


def relatives(table: Manifest) -> tuple[np.ndarray, str]:
    """(int64 [n], by what): images with one number must share a fold.

    Near-duplicates (perceptual hashes within 4 of 64 bits, 7 where composites may lie beside their originals), and what
    the columns `group` and `identity` put together. A table without hashes is grouped by its columns alone."""
    composites = any(COMPOSITE.fullmatch(parts_of(path)[-1]) for path in table["path"].tolist())
    distance = COMPOSITE_DISTANCE if composites else MAX_DISTANCE
    found, said = [np.arange(len(table))], []
    if "sha256" in table or "phash" in table:
        found.append(groups_of(table, "near-duplicate", max_distance=distance))
        said.append(f"near-duplicates (at most {distance} of 64 bits, mirrored or not)")
    for name in TOGETHER:
        if name in table and any(table[name].tolist()):
            found.append(exact_groups(text_column([str(value) for value in table[name].tolist()])))
            said.append(f"the column «{name}»")
    return joined(*found), " and ".join(said) or "nothing: every image stands alone"


def deal_folds(table: Manifest, groups: np.ndarray, folds: int, repeats: int, seed: int) -> np.ndarray:
    """int32 [repeats, n], 0 to folds - 1: labels, sources and generators in the same proportion, groups whole.

    Where the column `fold` numbers images, they keep theirs and the others are dealt around them; then the same folds
    would come again, so more than one repeat is refused. UserError, too, where it has other numbers than `folds`, or a
    class has fewer groups than folds."""
    labels, strata = table["label"], strata_of(table)
    for label, name in ((0, "real"), (1, "fake")):
        count = len(np.unique(groups[labels == label]))
        if count < 2 * folds:
            raise UserError(
                f"`folds` {folds}: the {name} images are only {count} (groups of near-duplicates counted once), each"
                f" fold needs two at least; give fewer folds or more images"
            )
    given = table["fold"].astype(np.int64)
    if (given >= 0).any():
        found = int(given.max()) + 1
        if found != folds:
            raise UserError(
                f"`folds` {folds}: the manifest's column «fold» has {counted(found, 'fold')}; give `folds` {found}"
            )
        if repeats > 1:
            raise UserError(
                "`repeats`: the manifest's column «fold» says which fold an image is in, so every repeat would have the"
                " same ones; leave `repeats` or the column out"
            )
    shares = np.full(folds, 1 / folds)
    dealt = [
        deal(in_order(groups), strata, shares, np.random.default_rng([seed, 0xF01D, repeat]), given)
        for repeat in range(repeats)
    ]
    return np.stack(dealt).astype(np.int32)


def cut_validation(
    table: Manifest, groups: np.ndarray, held_out: np.ndarray, seed: tuple[int, ...], share: float = VALID_SHARE
) -> np.ndarray:
    """bool [n]: the images that validate, `share` of those not `held_out` (bool [n]), groups whole.

    What is related to a held-out image (folds from a manifest may tear groups) neither validates nor teaches; see
    `taught`."""
    free = np.flatnonzero(~held_out & ~related(groups, held_out))
    part = deal(
        in_order(groups[free]), strata_of(table.select(free)), np.array([1 - share, share]), np.random.default_rng(seed)
    )
    valid = np.zeros(len(table), bool)
    valid[free[part == 1]] = True
    for label, name in ((0, "real"), (1, "fake")):
        if not (valid & (table["label"] == label)).any():
            raise UserError(f"`folds`: no {name} image is left to validate on; give fewer folds or more images")
    return valid


def related(groups: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """bool [n]: images that are not held out, but of one group with some that are."""
    return np.isin(groups, groups[held_out]) & ~held_out


def taught(groups: np.ndarray, held_out: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """bool [n]: what is left to learn from: neither held out, nor validating, nor related to what is held out."""
    return ~held_out & ~valid & ~related(groups, held_out)


def torn(groups: np.ndarray, fold: np.ndarray) -> int:
    """How many groups have images in several folds (only folds given by a manifest can do that)."""
    return len(straddling(groups, fold))
