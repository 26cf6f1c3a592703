"""Compression tiers of files, the threshold that a tier needs, and what a move is called."""

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from evaluation.bias import judged, needed_threshold, tier_of, tiers_of
from faces.manifest import text_column
from faces.scan import Facts, scan
from faces.source import open_source
from metrics.bootstrap import Rate
from metrics.breakdown import AnswerRule
from metrics.scores import Scores

RULE = AnswerRule(0.5, 0.5, "given")


def picture(seed: int, width: int = 48) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, width, 3), dtype=np.uint8))


def table(labels, values) -> Scores:
    n = len(labels)
    words = [text_column([word] * n) for word in ("there", "", "clean")]
    return Scores(text_column([f"{i}" for i in range(n)]), np.array(labels, np.int8), np.array(values, float), *words)


def test_tiers_are_those_of_files_of_known_quality(tmp_path):
    wanted = {}
    for i, quality in enumerate((100, 95, 90, 89, 75, 60, 59, 40, 5)):
        for kind, options in (("a", {}), ("b", {"subsampling": 0, "progressive": True}), ("c", {"optimize": True})):
            image = picture(i).convert("L") if kind == "c" else picture(i)
            image.save(tmp_path / f"{kind}{quality}.jpg", quality=quality, **options)
            wanted[f"{kind}{quality}.jpg"] = "as saved" if quality >= 90 else "web" if quality >= 60 else "hard"
    picture(0).save(tmp_path / "x.png")
    picture(0).save(tmp_path / "x.webp", quality=75)
    wanted |= {"x.png": "unknown", "x.webp": "unknown"}
    assert {f.path: tier_of(f) for f in scan(open_source(tmp_path), pixels=False)} == wanted


def test_tiers_count_by_hand(tmp_path):
    """Four reals and two fakes on the web, two reals as saved, one fake as PNG."""
    files = [("real", q, s) for q, s in ((75, 0.1), (60, 0.7), (89, 0.2), (80, 0.3), (90, 0.6), (96, 0.9))]
    files += [("fake", 70, 0.8), ("fake", 75, 0.4), ("fake", None, 0.9)]
    for i, (word, quality, _) in enumerate(files):
        (tmp_path / word).mkdir(exist_ok=True)
        path = tmp_path / word / f"{i}.{'png' if quality is None else 'jpg'}"
        picture(i, 48 + i).save(path, **({} if quality is None else {"quality": quality}))
    source = open_source(tmp_path)
    score = {f"{word}/{i}": value for i, (word, _, value) in enumerate(files)}
    values = [score[item.path.rsplit(".", 1)[0]] for item in source.items]
    saved, web, unknown = tiers_of(scan(source, pixels=False), table(source.labels, values), RULE)
    assert (web.name, web.n_real, web.n_fake, web.fpr.value, web.tpr.value) == ("web", 4, 2, 0.25, 0.5)
    assert (saved.name, saved.n_real, saved.fpr.value, saved.tpr.n) == ("as saved", 2, 1.0, 0)
    assert (unknown.name, unknown.n_real, unknown.tpr.value, unknown.verdict) == ("unknown", 0, 1.0, "")
    exact = stats.binomtest(1, 4).proportion_ci(0.95, "exact")
    assert (web.fpr.low, web.fpr.high) == pytest.approx((exact.low, exact.high))
    assert web.verdict == "UNCLEAR" and 0.7 < web.needed.value < 0.70001 and web.side == 50  # of 48 to 51, 54, 55


@pytest.mark.parametrize(
    ("k", "n", "said"), [(0, 500, "PASS"), (2, 1000, "PASS"), (5, 500, "UNCLEAR"), (20, 500, "FAIL")]
)
def test_whether_a_threshold_holds_follows_the_exact_interval(k, n, said):
    exact = stats.binomtest(k, n).proportion_ci(0.95, "exact")
    assert judged(Rate(k / n, exact.low, exact.high, n), 0.0, 0.01) == said


def test_a_tiers_threshold_is_its_reals_quantile():
    values = np.random.default_rng(3).permutation(np.arange(1000) / 1000)
    found, allowed = needed_threshold(values, 0.01)
    assert allowed == 10 == (values >= found.value).sum() and found.n == 1000
    # as many may lie above the quantile as a binomial count does in 95 % of all draws
    fewest, most = stats.binom.ppf([0.025, 0.975], 1000, 0.01)
    assert (values > found.low).sum() == most and (values > found.high).sum() == fewest - 1
    few, none = needed_threshold(values[:80], 0.01)
    assert none == 0 and few.value > values[:80].max() and few.high == 1.0
    assert needed_threshold(np.empty(0), 0.01)[0].n == 0


def test_the_interval_of_a_threshold_holds_the_quantile():
    rng = np.random.default_rng(0)
    truth, held = stats.beta(1, 20).ppf(0.99), []
    for _ in range(400):
        found, _ = needed_threshold(rng.beta(1, 20, 600), 0.01)
        held.append(found.low <= truth <= found.high)
    assert np.mean(held) >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / 400)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.03, 0.03, "PASS"),
        (-0.01, 0.031, "UNCLEAR"),
        (0.031, 0.2, "FAIL"),
        (-0.2, -0.031, "FAIL"),
        (-0.1, 0.1, "UNCLEAR"),
    ],
)
def test_a_move_is_judged_by_its_interval(low, high, said):
    assert judged(Rate((low + high) / 2, low, high, 100), -0.03, 0.03) == said


def test_a_photo_that_is_not_decided_on_raises_no_tiers_threshold():
    """As `detect.py` says UNSURE of it at any threshold, whatever its score."""
    rng = np.random.default_rng(1)
    scores = table([0] * 300, np.r_[rng.uniform(0.9, 1, 30), rng.uniform(0, 0.6, 270)])
    scores.undecided = np.arange(300) < 30
    facts = [Facts(str(i), 0, None, 1, quality=75, width=9, height=9) for i in range(300)]
    (web,) = tiers_of(facts, scores, RULE)
    least = min(t for t in np.r_[0, np.nextafter(scores.score, 1)] if scores.called(t).sum() <= 3)
    assert web.needed.value == least < 0.6 and web.needed.low <= least <= web.needed.high
    scores.undecided[:] = True
    assert tiers_of(facts, scores, RULE)[0].needed.value == 0  # none of them is ever called FAKE
