"""Folds: whole groups, even strata, a column of one's own, and a validation part that is neither taught nor tested."""

import numpy as np
import pytest

from common.errors import UserError
from faces.crossfolds import cut_validation, deal_folds, relatives, taught, torn
from faces.manifest import Manifest, text_column
from faces.splitting import strata_of


def table(n: int = 200, seed: int = 0, **more) -> Manifest:
    rng = np.random.default_rng(seed)
    label = (np.arange(n) % 5 < 2).astype(np.int8)  # 40 % fakes
    hashes = rng.integers(1, 2**63, n, dtype=np.uint64)
    if n >= 20:
        hashes[10:20] = hashes[0:10]  # ten pairs of copies
    columns = {
        "path": text_column([f"{'real' if not y else 'fake'}/{i}.png" for i, y in enumerate(label)]),
        "label": label,
        "generator": text_column(["" if not y else "ab"[i % 2] for i, y in enumerate(label)]),
        "phash": hashes,
    }
    return Manifest({**columns, **more})


def test_every_image_is_held_out_once_and_groups_stay_whole():
    t = table()
    groups, said = relatives(t)
    assert len(np.unique(groups)) == 190 and "near-duplicates" in said
    dealt = deal_folds(t, groups, 5, 3, 42)
    assert dealt.shape == (3, 200) and set(np.unique(dealt)) == set(range(5))
    for fold in dealt:
        assert torn(groups, fold) == 0
        for stratum in np.unique(strata_of(t)):
            counts = np.bincount(fold[strata_of(t) == stratum], minlength=5)
            assert counts.max() - counts.min() <= 3, counts
    assert (dealt[0] != dealt[1]).any() and (dealt[1] != dealt[2]).any()
    again = deal_folds(t, groups, 5, 1, 42)
    assert (again[0] == dealt[0]).all() and (deal_folds(t, groups, 5, 1, 43)[0] != dealt[0]).any()


def test_validation_is_cut_from_the_other_folds_by_groups():
    t = table()
    groups, _ = relatives(t)
    fold = deal_folds(t, groups, 5, 1, 1)[0]
    for k in range(5):
        held_out = fold == k
        valid = cut_validation(t, groups, held_out, (1, k))
        learnt = taught(groups, held_out, valid)
        assert not (valid & held_out).any() and not (learnt & (valid | held_out)).any()
        assert (valid | held_out | learnt).all()
        assert set(groups[valid]).isdisjoint(groups[learnt]) and set(groups[held_out]).isdisjoint(groups[learnt])
        assert valid.sum() == pytest.approx(20, abs=4) and 0.25 < t["label"][valid].mean() < 0.55


def test_the_manifests_columns_count():
    people = text_column([f"p{i // 4}" for i in range(200)])
    t = table(group=people)
    groups, said = relatives(t)
    assert "«group»" in said
    for who in np.unique(people):
        assert len(np.unique(groups[people == who])) == 1
    given = np.arange(200).astype(np.int32) % 4
    given[100:] = -1
    t = table(fold=given)
    groups, _ = relatives(t)
    fold = deal_folds(t, groups, 4, 1, 0)[0]
    assert (fold[:100] == given[:100]).all() and (fold >= 0).all()
    assert torn(groups, fold) > 0  # copies 0 and 10 were put into folds 0 and 2
    held_out = fold == 0
    learnt = taught(groups, held_out, cut_validation(t, groups, held_out, (0,)))
    assert set(groups[held_out]).isdisjoint(groups[learnt])
    with pytest.raises(UserError, match="`folds` 5: .* has 4 folds"):
        deal_folds(t, groups, 5, 1, 0)
    with pytest.raises(UserError, match="`repeats`"):
        deal_folds(t, groups, 4, 2, 0)


def test_too_few_images_are_refused():
    t = table(12)
    with pytest.raises(UserError, match="`folds` 5: the real images are only 6"):
        deal_folds(t, np.arange(12), 5, 1, 0)


def test_composites_are_grouped_more_widely():
    t = table(40)
    hashes = t["phash"].copy()
    hashes[1] = hashes[0] ^ np.uint64(0b111111)  # six bits apart
    plain = t.having(phash=hashes)
    assert relatives(plain)[0][0] != relatives(plain)[0][1]
    paths = t["path"].copy()
    paths[1] = "fake/easy_1_0011.jpg"
    groups, said = relatives(plain.having(path=paths))
    assert groups[0] == groups[1] and "7 of 64" in said
