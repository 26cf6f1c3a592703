"""The comparison of a study on made-up scores, its plan, and what its arms are shown."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from common.errors import UserError
from discriminator.calibration import threshold_at_fpr
from discriminator.detector import Detector
from discriminator.models import new_network
from discriminator.training.linear import Part
from evaluation.study_compare import Scored, compare, threshold_of
from evaluation.study_features import Table
from evaluation.study_fit import Taught, choose, fit_arm
from evaluation.study_plan import Material, read_plan
from evaluation.study_raw import RawLogit
from evaluation.study_sources import Opened, as_saved, open_material
from faces import filters
from faces.degrade import grid
from faces.preprocess import Preprocess
from faces.twin_bank import Pair
from tests.discriminator.conftest import make_calibration
from tests.twin_banks import marked_pairs, write_bank

PLAN = """
title = "Small"
[probe]
model = "levels:timm:mobilenetv3_small_050"
weights = "random"
resolution = 32
draws = 1
[fit]
seeds = 2
reals = 60
fakes = 60
[endpoint]
thresholds = ["valid"]
tests = ["unseen"]
resamples = 200
[source.photos]
data = "photos"
label = "real"
[source.labelled]
data = "labelled"
label = "fake"
[source.twins]
bank = "bank"
label = "fake"
[source.valid]
data = "valid"
label = "real"
[test.unseen]
data = "unseen"
label = "fake"
[[arm]]
name = "labelled"
reals = { photos = 1 }
fakes = { labelled = 1 }
[[arm]]
name = "half"
reals = { photos = 1 }
fakes = { labelled = 0.5, "twins:2" = 0.5 }
[[arm]]
name = "random labels"
wrong_labels = true
reals = { photos = 0.75, twins = 0.25 }
fakes = { labelled = 0.75, twins = 0.25 }
[[arm]]
name = "size"
number = 120
reals = { photos = 1 }
fakes = { labelled = 1 }
[[comparison]]
first = "half"
second = "labelled"
"""


CURVE = """
[[curve]]
title = "More"
x = [1, 2]
arms = ["labelled", "size"]
"""


# ---- comparison ----------------------------------------------------------------------------------------------------


def made_up(shift: float, common: np.ndarray, rng, seeds: int = 3) -> Scored:
    """An arm of which fakes lie `shift` higher than photos; `common`: what the images share under all arms."""
    photos, fakes = common[:300], common[300:]
    noise = lambda n: rng.normal(size=(seeds, n)) * 0.3  # noqa: E731
    valid = {c: photos + noise(300) for c in ("clean", "web")}
    return Scored(valid, {"a": {c: fakes + shift + noise(400) for c in ("clean", "web")}})


def test_a_planted_effect_is_found_and_none_where_there_is_none():
    rng = np.random.default_rng(1)
    common = rng.normal(size=700)
    scored = {
        "plain": made_up(1.0, common, rng),
        "better": made_up(1.8, common, rng),
        "same": made_up(1.0, common, rng),
    }
    found = compare(scored, [("better", "plain"), ("same", "plain")], ["a"], 0.05, resamples=2000)
    better, same = found.differences
    assert better.low > 0.05 and better.holm < 0.01 and better.value > 0.15
    assert same.low < 0 < same.high and same.holm > 0.1
    assert np.mean(better.seeds) == pytest.approx(better.value) and len(better.seeds) == 3


def test_the_endpoint_is_the_mean_of_plain_shares():
    rng = np.random.default_rng(2)
    common = rng.normal(size=700)
    one = made_up(1.5, common, rng)
    found = compare({"it": one}, [], ["a"], 0.01, resamples=50)
    shares = []
    for seed in range(3):
        threshold = max(threshold_at_fpr(scores[seed], 0.01) for scores in one.valid.values())
        assert threshold_of(one.valid, seed, 0.01) == threshold
        shares.append(np.mean([np.mean(scores[seed] >= threshold) for scores in one.tests["a"].values()]))
    assert found.endpoint["it"].seeds == pytest.approx(shares) and found.endpoint["it"].value == pytest.approx(
        np.mean(shares)
    )
    assert found.rates["a"]["clean"]["it"].low <= found.rates["a"]["clean"]["it"].value


def test_an_interval_is_that_of_a_plain_loop_over_resamples():
    rng = np.random.default_rng(3)
    common = rng.normal(size=700)
    a, b = made_up(1.4, common, rng), made_up(1.1, common, rng)
    found = compare({"a": a, "b": b}, [("a", "b")], ["a"], 0.05, resamples=4000).differences[0]
    drawn = []
    for _ in range(1500):
        photos, fakes, seeds = (rng.integers(n, size=n) for n in (300, 400, 3))
        values = []
        for one in (a, b):
            shares = []
            for seed in seeds:
                threshold = max(threshold_at_fpr(s[seed][photos], 0.05) for s in one.valid.values())
                shares.append(np.mean([np.mean(s[seed][fakes] >= threshold) for s in one.tests["a"].values()]))
            values.append(np.mean(shares))
        drawn.append(values[0] - values[1])
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.012)


def test_null_differences_are_seldom_called_different():
    """Of 40 studies without any effect, about 2 at 5 %; 8 would be one in a thousand."""
    wrong = 0
    for number in range(40):
        rng = np.random.default_rng(100 + number)
        common = rng.normal(size=700)
        scored = {"a": made_up(1.2, common, rng), "b": made_up(1.2, common, rng)}
        wrong += compare(scored, [("a", "b")], ["a"], 0.05, resamples=400, seed=number).differences[0].holm < 0.05
    assert wrong < 8


def test_holm_is_over_all_differences():
    rng = np.random.default_rng(4)
    common = rng.normal(size=700)
    scored = {name: made_up(shift, common, rng) for name, shift in (("a", 1.0), ("b", 1.08), ("c", 1.15), ("d", 1.9))}
    found = compare(scored, [("b", "a"), ("c", "a"), ("d", "a")], ["a"], 0.02, resamples=1000).differences
    p = [one.p for one in found]
    order, expected, most = np.argsort(p), [0.0] * 3, 0.0
    for rank, i in enumerate(order):
        most = max(most, min(1.0, (3 - rank) * p[i]))
        expected[i] = most
    assert [one.holm for one in found] == pytest.approx(expected)


# ---- plan ----------------------------------------------------------------------------------------------------------


def test_a_plan_is_read(tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN)
    plan = read_plan(tmp_path / "plan.toml")
    assert plan.arm("half").fakes[1].decoders == 2 and plan.conditions == ("clean", "web") and plan.fpr == 0.01
    assert plan.arm("size").number == 120 and plan.sources["twins"].bank == "bank"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("reals = 60", "reals = 0", "reals must be a whole number from 1"),
        ("fakes = { labelled = 1 }", "fakes = { labelled = 0.5 }", "add up to 1"),
        ("fakes = { labelled = 1 }", "fakes = { photos = 1 }", "'photos' is real; a control says wrong_labels"),
        ("fakes = { labelled = 1 }", "fakes = { unseen = 1 }", "no source 'unseen'"),
        ("reals = { photos = 1 }", "reals = { valid = 1 }", "sets thresholds and may not teach"),
        ('thresholds = ["valid"]', 'thresholds = ["labelled"]', "thresholds are set on real photos"),
        ('tests = ["unseen"]', 'tests = ["valid"]', "no test 'valid'"),
        ('first = "half"', 'first = "other"', "no arm 'other'"),
        ("[test.unseen]", "[test.photos]", "is a source and a test"),
        ("draws = 1", "draw = 1", "unknown 'draw'"),
        ('label = "real"', 'label = "genuine"', "label must be real or fake"),
        ("title", "= title", "not TOML"),
        ("fakes = { labelled = 1 }", "fakes = { labelled = nan }", "above 0 and add up to 1"),
        ('tests = ["unseen"]', 'tests = ["unseen", "unseen"]', "tests names 'unseen' twice"),
        ('thresholds = ["valid"]', 'thresholds = ["valid", "valid"]', "thresholds names 'valid' twice"),
        ("[[comparison]]", CURVE.replace("2", '"two"') + "[[comparison]]", "x are numbers, not 'two'"),
        ("[[comparison]]", CURVE.replace("2", "inf") + "[[comparison]]", "x are numbers, not inf"),
        ("[[comparison]]", CURVE.replace("2", "true") + "[[comparison]]", "x are numbers, not True"),
        # a digit, and no number: a two above the line
        ("draws = 1", r'levels = "\u00b2-"', "levels: write the first and the last"),
        ('"twins:2" = 0.5', r'"twins:\u00b2" = 0.5', "write source = share"),
    ],
)
def test_what_contradicts_itself_is_told_in_a_line(old, new, said, tmp_path):
    assert old in PLAN
    (tmp_path / "plan.toml").write_text(PLAN.replace(old, new, 1))
    with pytest.raises(UserError, match=said) as error:
        read_plan(tmp_path / "plan.toml")
    assert "plan.toml" in str(error.value) and "\n" not in str(error.value)


def test_a_bank_gives_each_of_its_decoders_something(tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN)
    plan = read_plan(tmp_path / "plan.toml")
    write_bank(tmp_path / "bank", *marked_pairs(6, 32), decoders=3)
    bank = lambda count: Material("twins", "fake", bank=str(tmp_path / "bank"), count=count)  # noqa: E731
    assert np.bincount(open_material(bank(7), plan, None).decoder).tolist() == [2, 2, 2]
    with pytest.raises(UserError, match="count = 2 leaves nothing for each of its 3 decoders: give at least 3"):
        open_material(bank(2), plan, None)


# ---- arms ----------------------------------------------------------------------------------------------------------


def offered(names, count: int = 130, features: int = 6) -> dict[str, Taught]:
    found = {}
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        kept = np.setdiff1d(np.arange(count + 3), [1, 7, 11])  # three of its images can't be used
        x = torch.from_numpy(rng.normal(size=(2, count, features)) + number).float()
        views = [Table([Part.of(v[:70]), Part.of(v[70:])], kept, []) for v in x]
        found[name] = Taught(views, np.arange(count + 3) % 4 if name == "twins" else np.zeros(count + 3, int))
    return found


def test_arms_show_as_many_of_each_and_nothing_twice(tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN)
    plan = read_plan(tmp_path / "plan.toml")
    there = offered(["photos", "labelled", "twins"])
    shown = {}
    for arm in plan.arms:
        for seed in range(2):
            chosen = shown[arm.name, seed] = choose(arm, plan, seed, there)
            for label, number in ((0, plan.reals), (1, arm.number or plan.fakes)):
                assert sum(len(one.positions) for one in chosen if one.label == label) == number
            for source in arm.sources:
                every = np.concatenate([one.positions for one in chosen if one.source == source])
                assert len(set(every)) == len(every) and set(every) <= set(there[source].kept)
    first = lambda name, seed: next(o.positions for o in shown[name, seed] if o.source == "labelled")  # noqa: E731
    assert np.array_equal(first("half", 0), first("labelled", 0)[:30])  # paired: the same images as far as both go
    assert not np.array_equal(first("labelled", 0), first("labelled", 1))
    twins = next(one for one in shown["half", 0] if one.source == "twins")
    assert np.bincount(there["twins"].decoder[twins.positions]).tolist() == [15, 15]
    assert sum(one.source == "twins" for one in shown["random labels", 0]) == 2
    with pytest.raises(UserError, match="labelled holds 40 images that can be used, 60 are needed"):
        choose(plan.arm("labelled"), plan, 0, offered(["photos", "labelled", "twins"], 40))


def test_a_fit_is_scikit_learns_on_the_rows_of_its_images(tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN)
    plan = read_plan(tmp_path / "plan.toml")
    there = offered(["photos", "labelled", "twins"])
    chosen = choose(plan.arm("size"), plan, 0, there)
    fit = fit_arm(chosen, there, 0.3)
    x, y = [], []
    for one in chosen:
        for view in there[one.source].views:
            wide = np.concatenate([part.wide() for part in view.parts])
            x.append(np.stack([wide[list(view.kept).index(i)] for i in one.positions]))
            y += [one.label] * len(one.positions)
    x, y = np.concatenate(x), np.array(y)
    weight = np.where(y == 1, 0.5 / y.sum(), 0.5 / (1 - y).sum())
    scaler = StandardScaler().fit(x, sample_weight=weight)
    theirs = LogisticRegression(C=1 / 0.3, tol=1e-10, max_iter=5000).fit(scaler.transform(x), y, weight)
    view = there["twins"].views[1]
    wide = np.concatenate([part.wide() for part in view.parts])
    np.testing.assert_allclose(fit.logits(view), theirs.decision_function(scaler.transform(wide)), atol=1e-4)
    assert fit.facts["rows"] == 2 * (60 + 120) and fit.facts["converged"]


def test_a_twin_is_saved_on_the_grid_of_its_photos_file():
    rng = np.random.default_rng(0)
    smooth = filters.blur(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), 2.0)
    photo = filters.jpeg(smooth, 75)
    cut = photo[5:53, 11:59]
    pair = Pair("a.jpg", 1, 5, 11, 75, "4:2:0")
    again, off = (
        as_saved(cut, pair._replace(top=t) if hasattr(pair, "_replace") else Pair("a.jpg", 1, t, 11, 75, "4:2:0"), 0)
        for t in (5, 6)
    )
    inner = (slice(11, -8), slice(5, -8))  # whole blocks; the others lack what was beyond the cut
    moved = [np.abs(one[inner].astype(int) - cut[inner]).mean() for one in (again, off)]
    assert moved[0] < 0.35 * moved[1]  # saved once more on the same grid, a JPEG hardly changes
    assert as_saved(cut, Pair("a.png", 1, 5, 11, None, ""), 0) is cut and math.isfinite(moved[0])


def test_the_committed_plan_stands():
    plan = read_plan(Path(__file__).parents[2] / "docs" / "study" / "plan.toml")
    assert plan.endpoint == ("hardfake", "sfhq", "native_stylegan2") and plan.seeds >= 3
    measured = {one.data for one in plan.tests.values() if one.split is None}
    assert not measured & {one.data for one in plan.sources.values()}


def test_a_games_raw_logit_is_negated_and_one_for_each_image(tmp_path):
    net = new_network("hybrid", 16, seed=3).eval()
    Detector(net, Preprocess(16), make_calibration(), {}).save(tmp_path / "detector.safetensors")
    photos = np.random.default_rng(0).integers(0, 256, (20, 24, 24, 3), dtype=np.uint8)
    opened = Opened(
        Material("it", "fake", ("it",)), lambda i: photos[i], [str(i) for i in range(20)], np.zeros(20), False, ""
    )
    found = RawLogit.open(str(tmp_path), torch.device("cpu")).scores(
        opened, np.array([1, *range(3, 20)]), grid()["clean"], 0
    )
    with torch.no_grad():
        alone = net.adversarial(torch.from_numpy(Preprocess(16)(photos[4]))[None]).item()
    assert found.shape == (18,) and found[2] == pytest.approx(-alone, abs=1e-4)


def test_a_share_of_which_no_resample_differs_has_the_exact_interval():
    """«0.0 % (0.0 to 0.0)» of 50 photos, or no interval at all, told of a certainty that there is none."""
    valid = {"clean": np.linspace(-1, 1, 200)[None].repeat(3, 0)}
    none, some = np.full((3, 50), -9.0), np.full((3, 50), -9.0)
    some[0, :4] = 9
    found = compare({"it": Scored(valid, {"none": {"clean": none}, "all": {"clean": -none}, "some": {"clean": some}})},
                    [], ["none"], 0.05, resamples=200)  # fmt: skip
    for name, k in (("none", 0), ("all", 50)):
        one, exact = found.rates[name]["clean"]["it"], stats.binomtest(k, 50).proportion_ci(0.95, "exact")
        assert (one.value, one.low, one.high) == pytest.approx((k / 50, exact.low, exact.high))
    assert 0 < found.rates["some"]["clean"]["it"].high < 0.12 and np.isnan(found.endpoint["it"].low)
