"""Splits: nothing that belongs together is torn, and classes come out in proportion, by sklearn's measure too."""

import numpy as np
import pytest

from common.errors import UserError
from faces.manifest import Manifest, text_column
from faces.prepare_options import Splitting
from faces.similar import mirrored
from faces.splitting import deal, describe, groups_of, identity_groups, parse_ratios, split, straddling


def table(paths, **columns) -> Manifest:
    texts = ("source", "generator", "split", "sha256", "identity")
    arrays = {name: text_column(v) if name in texts else np.asarray(v) for name, v in columns.items()}
    return Manifest({"path": text_column(list(paths)), **arrays})


def random_groups(seed: int, count: int, *, strata: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Groups of 1 to about 30 images, most of one stratum, some mixed."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(count), rng.geometric(0.35, count))[: count * 2]
    of_group = rng.choice(strata, count, p=np.linspace(1, 2, strata) / np.linspace(1, 2, strata).sum())
    own = rng.random(len(groups)) < 0.15
    return groups, np.where(own, rng.integers(0, strata, len(groups)), of_group[groups])


def test_ratios():
    assert parse_ratios("80/10/10") == parse_ratios("0.8:.1:.1") == parse_ratios("8/1/1") == (0.8, 0.1, 0.1)
    assert parse_ratios("100/0/0") == (1, 0, 0)
    for bad in ("80/20", "80/10/x", "0/0/0", "-1/1/1", "", "1/2/3/4", "nan/1/1", "inf/1/1"):
        with pytest.raises(UserError, match="not three shares"):
            parse_ratios(bad)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.1), (0.2,) * 5, (1.0, 0.0, 0.0)])
def test_groups_stay_whole_and_shares_are_kept_to_within_a_group(seed, shares):
    groups, strata = random_groups(seed, 800, strata=4)
    part = deal(groups, strata, np.array(shares), np.random.default_rng(seed))
    assert set(part.tolist()) <= {k for k, share in enumerate(shares) if share}
    assert not len(straddling(groups, part))
    largest = np.bincount(groups).max()
    for k, share in enumerate(shares):
        for stratum in range(4):
            inside = strata == stratum
            assert abs((part[inside] == k).sum() - share * inside.sum()) <= largest


def test_single_images_are_dealt_exactly():
    strata = np.repeat([0, 1, 2], [1000, 370, 33])
    part = deal(np.arange(1403), strata, np.array([0.7, 0.2, 0.1]), np.random.default_rng(0))
    assert [np.bincount(part[strata == s]).tolist() for s in range(3)] == [[700, 200, 100], [259, 74, 37], [23, 7, 3]]


@pytest.mark.parametrize("seed", range(4))
def test_folds_are_as_balanced_as_sklearns(seed):
    from sklearn.model_selection import StratifiedGroupKFold

    groups, strata = random_groups(seed, 300)
    theirs = np.empty(len(groups), dtype=int)
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(np.zeros(len(groups)), strata, groups)
    for k, (_, test) in enumerate(folds):
        theirs[test] = k
    ours = deal(groups, strata, np.full(5, 0.2), np.random.default_rng(seed))

    def imbalance(part):
        counts = np.array([[(strata[part == k] == s).sum() for s in range(2)] for k in range(5)])
        return (counts / counts.sum(axis=0)).std(axis=0).sum()

    assert imbalance(ours) <= imbalance(theirs) + 1e-9


def test_the_seed_decides_and_nothing_else():
    m = table([f"{i}.png" for i in range(500)], label=np.arange(500) % 2)
    first, again, other = (split(m, folds=3, group_by="none", seed=seed) for seed in (1, 1, 2))
    assert (first[0] == again[0]).all() and (first[1] == again[1]).all()
    assert (first[0] != other[0]).any()
    with pytest.raises(ValueError, match="sha256"):
        split(m)


def test_folds_leave_the_test_split_alone():
    m = table([f"{i}.png" for i in range(200)], label=np.arange(200) % 2)
    parts, fold = split(m, (0.6, 0.2, 0.2), 4, "none")
    assert (fold[parts == "test"] == -1).all() and np.bincount(fold[parts != "test"]).tolist() == [40] * 4


def test_label_source_and_generator_are_strata():
    rng = np.random.default_rng(0)
    label, source = rng.integers(0, 2, 3000), rng.choice(["a", "b"], 3000)
    generator = np.where(label == 1, rng.choice(["x", "y", "z"], 3000, p=[0.9, 0.09, 0.01]), "")
    m = table(map(str, range(3000)), label=label, source=source.tolist(), generator=generator.tolist())
    parts, _ = split(m, group_by="none")
    for kind in {*zip(label.tolist(), source.tolist(), generator.tolist())}:
        inside = (label == kind[0]) & (source == kind[1]) & (generator == kind[2])
        assert abs((parts[inside] == "test").sum() - inside.sum() / 10) <= 1


@pytest.fixture
def leaky():
    """100 images; 0 and 50 are copies, 1 and 51 differ in three bits, 2 and 52 are mirror images; splits tear them."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(1, 2**64, 100, dtype=np.uint64)
    hashes[50], hashes[51], hashes[52] = hashes[0], hashes[1] ^ np.uint64(0b1011), mirrored(int(hashes[2]))
    sha = [f"{i:064x}" for i in range(100)]
    sha[50] = sha[0]
    splits = ["train"] * 50 + ["test"] * 25 + [""] * 25
    return table(map(str, range(100)), label=np.arange(100) % 2, phash=hashes, sha256=sha, split=splits)


@pytest.mark.parametrize("seed", range(5))
def test_planted_leaks_land_on_one_side(leaky, seed):
    groups = groups_of(leaky, "near-duplicate")
    assert sorted(straddling(groups, leaky["split"])) == sorted({groups[0], groups[1], groups[2]})
    parts, fold = split(leaky, (0.5, 0.0, 0.5), 5, seed=seed)
    for a, b in ((0, 50), (1, 51), (2, 52)):
        assert parts[a] == parts[b] and fold[a] == fold[b]
    assert not len(straddling(groups, parts))
    assert groups_of(leaky, "none").tolist() == list(range(100))


def test_kept_splits_stay_and_the_rest_fills_up(leaky):
    before = leaky["split"]
    parts, _ = split(leaky, (0.5, 0.25, 0.25), keep_splits=True)
    had = before != ""
    assert (parts[had] == before[had]).all()
    assert (parts[~had] == "valid").all()  # train and test have their shares already
    told = "\n".join(describe(leaky.having(split=parts, fold=np.full(100, -1)), groups_of(leaky, "near-duplicate"),
                              "near-duplicate", before=before, kept=True))  # fmt: skip
    assert "3 groups with images in several of the old splits" in told and "left so" in told


def test_a_free_copy_follows_the_kept_one(leaky):
    free = leaky.having(split=text_column(["train"] * 50 + [""] * 50))
    parts, _ = split(free, (0.5, 0.25, 0.25), keep_splits=True)
    assert parts[50] == parts[51] == parts[52] == "train"


def test_identity_by_column_and_by_name():
    paths = ["a/id3_id7_1.png", "a/id3_id9_2.png", "b/id9_id9_1.png", "b/id4_id4_1.png", "c/other.png", "c/more.png"]
    rng = np.random.default_rng(0)
    m = table(paths, phash=rng.integers(1, 2**64, 6, dtype=np.uint64), sha256=list("abcdef"))
    groups = groups_of(m, "identity", identity=r"(id\d+)_(id\d+)")
    assert groups.tolist() == [0, 0, 0, 1, 2, 3], "a swap links both people"
    by_column = groups_of(m.having(identity=text_column(["x", "", "x", "y", "", "y"])), "identity")
    assert by_column.tolist() == [0, 1, 0, 2, 3, 2]
    m["phash"][5] = m["phash"][4]
    assert groups_of(m, "identity", identity=r"(id\d+)_")[4:].tolist() == [3, 3], "near-duplicates stay together, too"


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        (None, "nothing tells who is who"),
        ("(", "not a regular expression"),
        ("id", "captures nothing"),
        ("(x9)", "no path"),
    ],
)
def test_identity_that_tells_nothing_is_refused(pattern, told):
    with pytest.raises(UserError, match=told):
        identity_groups(table(["id1_a.png", "id2_b.png"]), pattern)


def test_options_that_would_do_nothing_are_refused():
    """A person would be in two splits who was named by `identity` alone."""
    for how, told in (
        ({"identity": "(id)"}, "`group_by` identity"),
        ({"max_distance": 3, "group_by": "none"}, "nothing is"),
    ):
        with pytest.raises(UserError, match=told):
            Splitting(source="photos", **how)
    assert Splitting(source="photos", identity="(id)", group_by="identity").identity == "(id)"


def test_composites_are_grouped_by_looks_within_more_bits():
    """Yonsei's names say which parts were replaced, not whose photo it was."""
    hashes = np.array([0xF0F0F0F0AAAAAAAA, 0xF0F0F0F0AAAAAAAA ^ 0b1111110, 0x123456789ABCDEF0], dtype=np.uint64)
    names = ["fake/easy_12_1110.jpg", "real/real_00012.jpg", "fake/hard_12_0001.jpg"]
    m = table(names, label=[1, 0, 1], phash=hashes, sha256=list("abc"))
    assert groups_of(m, "near-duplicate").tolist() == [0, 1, 2]
    groups = groups_of(m, "identity")
    assert groups.tolist() == [0, 0, 1] and groups_of(m, "identity", max_distance=4).tolist() == [0, 1, 2]
    lines = describe(m.having(split=text_column(["train"] * 3), fold=np.full(3, -1)), groups, "identity")
    assert any("not whose photo it was" in line for line in lines)


def test_small_and_odd_sets():
    one = table(["a"], label=[0])
    assert split(one, group_by="none")[0].tolist() == ["train"]
    assert split(one.select([]), group_by="none", folds=3)[0].tolist() == []
    giant = np.zeros(10, dtype=int)
    parts, _ = split(table(map(str, range(10)), label=[0, 1] * 5), groups=giant, folds=4)
    assert set(parts) == {"train"}
    with pytest.raises(ValueError, match="group_by"):
        split(one, group_by="hair")


def test_of_many_folds_the_first_and_the_last_are_told():
    for folds, lines in ((20, 24), (21, 24), (999, 24)):  # the head, three splits and 20 lines of folds at most
        m = Manifest({"path": text_column([f"{i}.png" for i in range(999)]), "label": np.zeros(999, np.int8)})
        fold = np.arange(999, dtype=np.int32) % folds
        m = m.having(split=text_column(["train"] * 999), fold=fold)
        told = describe(m, np.arange(999), "none", ratios=(1.0, 0.0, 0.0), folds=folds)
        assert [line.split()[1] for line in (told[4], told[lines - 1])] == ["0", str(folds - 1)]
        cut = [line for line in told if line.startswith("…")]
        assert cut == {20: [], 21: ["… 2 more of 21 folds"], 999: ["… 980 more of 999 folds"]}[folds]


def test_yonsei_photos_and_their_composites(shared_dir):
    """Pairs seen by eye to be one photo, with parts replaced."""
    from faces.tabulate import table_for

    m, bad, _ = table_for(str(shared_dir / "data/yonsei"))
    assert (
        not bad and len(m) == 2041 and set(m["generator"]) == {"", "Photoshop easy", "Photoshop mid", "Photoshop hard"}
    )
    groups = groups_of(m, "identity")
    at = {path.split("/")[-1]: i for i, path in enumerate(m["path"])}
    for a, b in (("easy_24_0011", "real_00524"), ("easy_102_0101", "real_00771"), ("easy_94_0001", "real_00858")):
        assert groups[at[f"{a}.jpg"]] == groups[at[f"{b}.jpg"]]
    assert np.bincount(groups).max() <= 3
    parts, _ = split(m, groups=groups)
    assert not len(straddling(groups, parts))
    for name in ("Photoshop easy", "Photoshop mid", "Photoshop hard"):
        inside = m["generator"] == name
        assert abs((parts[inside] == "test").sum() - inside.sum() / 10) <= 2


@pytest.mark.slow
def test_a_million_rows_in_a_minute_and_two_gigabytes(tmp_path):
    """From file to file, in a process of its own; the time is the processor's, other work on the machine aside."""
    import subprocess
    import sys
    from pathlib import Path

    from faces.manifest import read_manifest, write_manifest

    rng = np.random.default_rng(0)
    count = 1_000_000
    hashes = rng.integers(1, 2**64, count, dtype=np.uint64)
    hashes[rng.permutation(count)[:50_000]] = hashes[rng.integers(0, count, 50_000)] ^ np.uint64(3)
    m = table(
        [f"set/train/{('real', 'fake')[i % 2]}/{i:07d}.jpg" for i in range(count)],
        label=(np.arange(count) % 2).astype(np.int8),
        source=[("a", "b", "c")[i % 3] for i in range(count)],
        sha256=[f"{i:064x}" for i in range(count)],
        phash=hashes,
    )
    write_manifest(tmp_path / "in.csv", m)
    root = Path(__file__).resolve().parents[2]
    code = (
        "import resource, sys, prepare_data\n"
        "try: prepare_data.main(['split', 'in.csv', '--out', 'out.csv', '--folds', '5'])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    seconds, gigabytes = map(float, run.stdout.splitlines()[-1].split())
    assert seconds < 60 and gigabytes < 2
    out = read_manifest(tmp_path / "out.csv")
    assert len(out) == count and not len(straddling(groups_of(out, "near-duplicate"), out["split"]))


def test_an_empty_split_is_told():
    m = table(["real/a.jpg", "real/b.jpg", "fake/a.jpg"], label=np.array([0, 0, 1], np.int8))
    groups = groups_of(m, "none")
    parts, fold = split(m, (0.8, 0.1, 0.1), groups=groups)
    lines = describe(m.having(split=parts, fold=fold), groups, "none", ratios=(0.8, 0.2, 0.0))
    assert "warning: no fake images in valid: there are too few, or too few groups of them" in lines


def test_folds_that_stay_empty_are_named():
    """Of 3 images and 12 folds the table ended with the third, and nothing said that there are no more."""
    m = Manifest({"path": text_column(["a", "b", "c"]), "label": np.zeros(3, np.int8)}, ".")
    parts, fold = split(m, (1.0, 0.0, 0.0), 12, groups=np.arange(3), seed=0)
    lines = describe(m.having(split=parts, fold=fold), np.arange(3), "none", ratios=(1.0, 0.0, 0.0), folds=12)
    assert sum(line.startswith("fold ") for line in lines) == 12
    (warning,) = [line for line in lines if line.startswith("warning: no real")]
    assert "images in fold 3, fold 4," in warning and "fold 10 and 1 more" not in warning and "1 more: there" in warning
