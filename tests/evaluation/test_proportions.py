"""Proportions, their paired tests, kappa by the jackknife and the calibration slope, against statsmodels and R."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from statsmodels.stats.proportion import proportion_confint

from radtransfer.evaluation.calibration_slope import slope
from radtransfer.evaluation.counts import from_tests, jackknife
from radtransfer.evaluation.metrics import Scored, from_confusion
from radtransfer.evaluation.proportions import mcnemar_clustered, mcnemar_exact, wilson


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_independent_images_have_wilsons_interval(right: list[bool]) -> None:
    found = wilson(np.array(right, dtype=float), np.ones(len(right)), np.arange(len(right)))
    expected = proportion_confint(sum(right), len(right), method="wilson")
    assert found is not None and found[1:] == pytest.approx(expected, abs=1e-12)


def test_copies_of_an_image_are_worth_one() -> None:
    """Four equal images a group: the interval is that of one of them, but for Student's quantile."""
    once = np.random.default_rng(0).random(400) < 0.8
    group = np.repeat(np.arange(400), 4)
    found = wilson(np.repeat(once, 4).astype(float), np.ones(1600), group)
    alone = wilson(once.astype(float), np.ones(400), np.arange(400))
    assert found is not None and alone is not None
    assert found == pytest.approx(alone, abs=5e-4)
    ignored = wilson(np.repeat(once, 4).astype(float), np.ones(1600), np.arange(1600))
    assert ignored is not None and found.high - found.low > 1.9 * (ignored.high - ignored.low)


def test_all_right_counts_groups_not_images() -> None:
    found = wilson(np.ones(40), np.ones(40), np.repeat(np.arange(10), 4))
    assert found is not None and found[1:] == pytest.approx(proportion_confint(10, 10, method="wilson"))
    assert wilson(np.ones(4), np.zeros(4), np.arange(4)) is None


def test_exact_mcnemar_by_hand() -> None:
    """8 images right by the first alone, 2 by the second alone: 2 P(X <= 2), X binomial(10, 1/2) = 112/1024."""
    first = np.repeat([True, True, False], [20, 8, 2])
    second = np.repeat([True, False, True], [20, 8, 2])
    assert mcnemar_exact(first, second) == pytest.approx(112 / 1024)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 6)), min_size=4, max_size=40))
def test_clustered_mcnemar_is_obuchowskis_ratio(cases: list[tuple[bool, bool, int]]) -> None:
    """Obuchowski (1998): the difference of the proportions squared, over its variance when both are the pooled one."""
    first, second, groups = (np.array(one) for one in zip(*cases, strict=True))
    names, sizes = np.unique(groups, return_counts=True)
    if len(names) < 2:
        return
    wins = np.array([[one[groups == name].sum() for name in names] for one in (first, second)])
    pooled = (wins.sum() / 2) / sizes.sum()
    rest = wins - sizes * pooled
    covariance = len(names) / (len(names) - 1) * rest @ rest.T / sizes.sum() ** 2
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    apart = (wins[0].sum() - wins[1].sum()) / sizes.sum()
    p = mcnemar_clustered(first, second, groups)
    if variance < 1e-15:
        assert p == 1
        return
    from scipy.stats import chi2

    assert p == pytest.approx(chi2.sf(apart**2 / variance, 1))


def test_kappas_jackknife_is_near_its_textbook_error() -> None:
    """Independent images: the large-sample variance of Fleiss, Cohen and Everitt (1969), as statsmodels has it."""
    from statsmodels.stats.inter_rater import cohens_kappa

    labels = np.repeat([True, True, False, False], [124, 16, 129, 19])
    scores = np.repeat([0.8, 0.3, 0.2, 0.9], [124, 16, 129, 19])
    found = jackknife(from_tests(labels, [Scored(scores, 0.5)], np.arange(288)), "kappa")
    textbook = cohens_kappa(np.array([[124, 16], [19, 129]]))
    assert found is not None and found.value == pytest.approx(textbook.kappa)
    assert (found.low, found.high) == pytest.approx((textbook.kappa_low, textbook.kappa_upp), abs=2e-3)


def test_jackknife_leaves_out_whole_groups() -> None:
    rng = np.random.default_rng(1)
    labels, group = rng.random(60) < 0.4, np.repeat(np.arange(20), 3)
    scores = rng.random(60)
    counts = from_tests(labels, [Scored(scores, 0.5)], group)
    called = scores >= 0.5
    for one in range(20):
        kept = group != one
        cells = [(labels & called), (labels & ~called), (~labels & ~called), (~labels & called)]
        expected = from_confusion(*(cell[kept].sum() for cell in cells))["f1"]
        found = from_confusion(*(counts.table.sum(axis=1) - counts.table[:, one])[0])["f1"]
        assert found == expected


def test_the_whole_range_where_one_group_holds_a_class() -> None:
    labels = np.array([True, True, False, False, False])
    counts = from_tests(labels, [Scored(np.array([0.9, 0.2, 0.1, 0.6, 0.3]), 0.5)], np.array([0, 0, 1, 2, 3]))
    kappa, f1 = jackknife(counts, "kappa"), jackknife(counts, "f1")
    assert kappa is not None and kappa[1:] == (-1, 1)
    assert f1 is not None and f1[1:] == (0, 1)


@pytest.mark.parametrize("grouped", [False, True])
def test_calibration_slope_is_that_of_statsmodels(grouped: bool) -> None:
    rng = np.random.default_rng(4)
    group = np.repeat(np.arange(100), 3) if grouped else np.arange(300)
    raw = rng.normal(size=300)
    labels = rng.random(300) < expit(raw + 0.5 * rng.normal(size=100)[np.repeat(np.arange(100), 3)])
    scores = expit(2 * raw - 0.3)
    found = slope(labels, [Scored(scores, 0.5)], group)
    model = sm.Logit(labels.astype(float), sm.add_constant(logit(scores)))
    fitted = model.fit(disp=0, cov_type="cluster", cov_kwds={"groups": group, "use_correction": False})
    assert found is not None and found.value == pytest.approx(fitted.params[1], rel=1e-6)
    from scipy.stats import t

    groups = len(np.unique(group))
    half = t.ppf(0.975, groups - 1) * np.sqrt(groups / (groups - 1)) * fitted.bse[1]
    assert found.high - found.value == pytest.approx(half, rel=1e-5)
    assert found.high < 1  # scores twice too extreme


@pytest.mark.parametrize(
    "scores", [np.full(20, 0.3), 0.3 + 1e-16 * np.arange(20) % 3e-16, np.linspace(0, 1, 20), 1 - np.linspace(0, 1, 20)]
)
def test_no_slope_fits_constant_or_separated_scores(scores: np.ndarray) -> None:
    assert slope(np.arange(20) >= 10, [Scored(scores, 0.5)], np.arange(20)) is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=4, max_size=40))
def test_slope_solves_its_equations(cases: list[tuple[bool, int]]) -> None:
    """At the best fit residuals sum to 0, alone and times the logit; scores of 0 and 1 are finite."""
    labels, raw = np.array([one for one, _ in cases]), np.array([one for _, one in cases]) / 5
    found = slope(labels, [Scored(raw, 0.5)], np.arange(len(labels)))
    if found is None:
        return
    x = logit(np.clip(raw, 1e-6, 1 - 1e-6))
    intercepts = np.linspace(-60, 60, 3)
    assert np.isfinite(found).all() and len(intercepts)

    from scipy.optimize import brentq

    def residual(intercept: float) -> float:
        return float((labels - expit(intercept + found.value * x)).sum())

    best = brentq(residual, -500, 500, xtol=1e-13)
    assert ((labels - expit(best + found.value * x)) * x).sum() == pytest.approx(0, abs=1e-5)
