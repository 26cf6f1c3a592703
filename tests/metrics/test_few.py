"""Intervals of figures of few images: against closed forms, and against how often they hold."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from metrics.bootstrap import binomial_interval
from metrics.few import auc_text, balanced_text, counts_text, exact_interval, pair_interval, share_text


@pytest.mark.parametrize("m", [1, 2, 5, 19])
def test_ends_are_the_closed_form(m):
    """KL(1 || q) = -log q, so the bound of a perfect score is (alpha / 2) ** (1 / m), Clopper and Pearson's own."""
    low, high = pair_interval(1.0, m, m + 7)
    assert low == pytest.approx(0.025 ** (1 / m), rel=1e-9) and high == 1
    assert pair_interval(0.0, m + 7, m) == (0, pytest.approx(1 - low, rel=1e-9))


@pytest.mark.parametrize("separation", [0.0, 1.0, 2.5])
def test_the_interval_holds_at_least_as_often_as_it_says(separation):
    """Normal scores, whose true AUC is Phi(separation / sqrt(2))."""
    rng, truth = np.random.default_rng(0), (1 + math.erf(separation / 2)) / 2
    labels, held = np.repeat([0, 1], (4, 9)), 0
    for _ in range(400):
        found = roc_auc_score(labels, rng.normal(size=13) + separation * labels)
        low, high = pair_interval(found, 4, 9)
        assert low <= found <= high
        held += low <= truth <= high
    assert held >= 0.95 * 400


def test_more_images_make_it_narrower():
    widths = [np.subtract(*pair_interval(0.9, n, n)[::-1]) for n in (2, 5, 10, 100, 10_000)]
    assert widths == sorted(widths, reverse=True) and widths[-1] < 0.03


def test_no_figure_of_few_images_is_written_alone():
    assert auc_text(1.0, 1, 3) == "1.000 (0.03 to 1.00)" and auc_text(1.0, 20, 20) == "1.000"
    assert balanced_text(1.0, 1, 3) == "100.0 % (3 to 100)" and balanced_text(0.931, 500, 20) == "93.1 %"
    assert share_text(0.0, 1) == "0.0 % (0 to 98)" and share_text(0.5, 20) == "50.0 %"
    assert share_text(math.nan, 0) == "–"
    assert "only 1 real and 3 fake" in counts_text(1, 3) and counts_text(20, 20) == ""


@pytest.mark.parametrize("n", [1, 2, 7, 19])
def test_the_exact_interval_is_scipys(n):
    for k in range(n + 1):
        assert exact_interval(k, n) == pytest.approx(binomial_interval(k, n), abs=1e-9)
