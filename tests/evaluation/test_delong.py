"""AUROC without resampling: against R's pROC, against the definitions by brute force, and as laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from radtransfer.evaluation import delong
from radtransfer.evaluation.delong import Areas, areas
from radtransfer.evaluation.metrics import Scored, auroc

ASAH = pd.read_csv(Path(__file__).with_name("asah.csv"))
"""Ranks of three markers of 113 patients with aneurysmal subarachnoid haemorrhage (Turck et al. 2010), the data of
pROC's examples; the ranks order every patient with a poor and every one with a good outcome as the markers do."""


def published(*names: str) -> Areas:
    labels = ASAH["poor_outcome"].to_numpy(dtype=bool)
    return areas(labels, [[Scored(ASAH[name].to_numpy(dtype=float), 0.5)] for name in names], np.arange(113))


@pytest.mark.parametrize(
    ("marker", "area", "variance"),
    [
        ("wfns", 0.823678861788618, 0.00146991470882363),
        ("ndka", 0.611957994579946, 0.0031908105493913),
        ("s100b", 0.731368563685637, 0.00266868245717244),
    ],
)
def test_area_and_variance_are_those_of_proc(marker: str, area: float, variance: float) -> None:
    """pROC's own tests (tests/testthat/test-var.R), in R."""
    found = published(marker)
    assert (found.values[0], found.covariance[0, 0]) == (pytest.approx(area), pytest.approx(variance))


def test_delongs_interval_is_that_of_proc() -> None:
    """ci.auc(outcome ~ ndka): .5012 to .7227 (pROC, test-ci.auc.R), on the plain scale, which the tool does not use."""
    found = published("ndka")
    half = norm.ppf(0.975) * np.sqrt(found.covariance[0, 0])
    ends = (found.values[0] - half, found.values[0] + half)
    assert ends == pytest.approx((0.501244999271703, 0.722670989888189))


@pytest.mark.parametrize(
    ("pair", "z", "p"),
    [
        (("wfns", "s100b"), 2.20898359144091, 0.0271757822291882),
        (("wfns", "ndka"), 2.79777591868904, 0.00514557970691098),
        (("ndka", "s100b"), -1.39077002573558, 0.164295175223054),
    ],
)
def test_paired_test_is_that_of_proc(pair: tuple[str, str], z: float, p: float) -> None:
    """roc.test, "DeLong's test for two correlated ROC curves" (pROC, test-roc.test.R)."""
    apart, error = delong.difference(published(*pair), 0, 1)
    assert (apart / error, delong.p_value(apart, error)) == (pytest.approx(z), pytest.approx(p))


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Labels of both classes, each in two groups or more; two sets of scores with many ties; groups."""
    n = draw(st.integers(6, 30))
    labels = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    groups = np.array(draw(st.lists(st.integers(0, 8), min_size=n, max_size=n)))
    labels[:2], labels[2:4], groups[:4] = True, False, [0, 1, 0, 1]
    scores = [np.array(draw(st.lists(st.integers(0, 6), min_size=n, max_size=n))) / 6 for _ in range(2)]
    return labels, scores, groups


def by_definition(labels: np.ndarray, scores: list[np.ndarray], groups: np.ndarray) -> np.ndarray:
    """Covariance [K, K] by Obuchowski (1997), equations 3 to 8, pair by pair and group by group."""
    positives, negatives = np.flatnonzero(labels), np.flatnonzero(~labels)
    m, n = len(positives), len(negatives)
    components = []
    for one in scores:
        psi = np.array([[float(one[i] > one[j]) + 0.5 * (one[i] == one[j]) for j in negatives] for i in positives])
        components.append((psi.mean(axis=1), psi.mean(axis=0), psi.mean()))
    names = np.unique(groups)
    with_positive = len(set(groups[positives].tolist()))
    with_negative = len(set(groups[negatives].tolist()))
    found = np.zeros((len(scores), len(scores)))
    for a, (v10_a, v01_a, area_a) in enumerate(components):
        for b, (v10_b, v01_b, area_b) in enumerate(components):
            s10 = s01 = s11 = s11_turned = 0.0
            for name in names:
                mine, others = groups[positives] == name, groups[negatives] == name
                x_a, x_b = (v[mine].sum() - mine.sum() * area for v, area in ((v10_a, area_a), (v10_b, area_b)))
                y_a, y_b = (v[others].sum() - others.sum() * area for v, area in ((v01_a, area_a), (v01_b, area_b)))
                s10, s01 = s10 + x_a * x_b, s01 + y_a * y_b
                s11, s11_turned = s11 + x_a * y_b, s11_turned + x_b * y_a
            s10 *= with_positive / ((with_positive - 1) * m)
            s01 *= with_negative / ((with_negative - 1) * n)
            factor = len(names) / (len(names) - 1)
            found[a, b] = s10 / m + s01 / n + factor * (s11 + s11_turned) / (m * n)
    return found


@settings(max_examples=60, deadline=None)
@given(cases())
def test_is_obuchowski_by_definition(case: tuple[np.ndarray, list[np.ndarray], np.ndarray]) -> None:
    labels, scores, groups = case
    found = areas(labels, [[Scored(one, 0.5)] for one in scores], groups)
    assert found.values == pytest.approx([roc_auc_score(labels, one) for one in scores])
    assert found.covariance == pytest.approx(by_definition(labels, scores, groups), abs=1e-12)
    assert found.groups == min(len(np.unique(groups[side])) for side in (labels, ~labels))


@settings(max_examples=40, deadline=None)
@given(cases())
def test_single_images_give_the_variance_of_structural_components(
    case: tuple[np.ndarray, list[np.ndarray], np.ndarray],
) -> None:
    """DeLong et al. (1988), equations 4 to 6: sample covariances of the components, over m and over n."""
    labels, scores, _ = case
    tens, ones = [], []
    for one in scores:
        positive, negative = one[labels][:, None], one[~labels][None, :]
        psi = (positive > negative) + 0.5 * (positive == negative)
        tens.append(psi.mean(axis=1))
        ones.append(psi.mean(axis=0))
    expected = np.cov(tens) / len(tens[0]) + np.cov(ones) / len(ones[0])
    found = areas(labels, [[Scored(one, 0.5)] for one in scores], np.arange(len(labels)))
    assert found.covariance == pytest.approx(expected, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(cases(), st.integers(0, 10))
def test_folds_are_weighed_by_their_pairs(case: tuple[np.ndarray, list[np.ndarray], np.ndarray], seed: int) -> None:
    """The value is the stratified AUROC; the influence of an image is its derivative with respect to its weight."""
    labels, scores, _ = case
    folds = np.random.default_rng(seed).integers(0, 2, len(labels))
    folds[[0, 2]] = 0
    value, influence = delong._influence(labels, Scored(scores[0], 0.5, folds))
    once = np.ones((1, len(labels)))
    assert value == pytest.approx(auroc(labels, scores[0], once, folds)[0])
    step = 1e-6
    moved = np.array([auroc(labels, scores[0], once + step * row, folds)[0] for row in np.eye(len(labels))])
    assert influence == pytest.approx((moved - value) / step, abs=1e-4)


def test_grouped_variance_is_near_that_of_leaving_out_groups() -> None:
    """120 groups of 1 to 4 images; the jackknife over groups estimates the same variance in another way."""
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(120), rng.integers(1, 5, 120))
    labels = (rng.random(120) < 0.4)[groups]
    scores = labels + rng.normal(size=120)[groups] + rng.normal(size=len(groups))
    without = [roc_auc_score(labels[groups != one], scores[groups != one]) for one in range(120)]
    jackknife = 119 / 120 * ((without - np.mean(without)) ** 2).sum()
    found = areas(labels, [[Scored(scores, 0.5)]], groups)
    assert found.covariance[0, 0] == pytest.approx(jackknife, rel=0.03)
    alone = areas(labels, [[Scored(scores, 0.5)]], np.arange(len(groups)))
    assert found.covariance[0, 0] > 1.3 * alone.covariance[0, 0]  # what ignoring the groups would hide


def test_intervals_stay_inside_and_extremes_are_not_certain() -> None:
    low, high = delong.interval(0.98, 0.02**2, 12)  # type: ignore[misc]
    assert 0.5 < low < 0.98 < high < 1
    assert delong.interval(1.0, 0.0, 12) is None and delong.interval(0.8, float("nan"), 1) is None
    few, many = delong.extreme(1.0, 5, 45), delong.extreme(1.0, 50, 450)
    assert 0.5 < few[0] < many[0] < 1 and few[1] == many[1] == 1
    assert delong.extreme(0.0, 5, 45) == pytest.approx((0, 1 - few[0]), abs=1e-4)


def test_one_group_with_all_positives_has_no_variance() -> None:
    labels = np.array([True, True, False, False, False])
    found = areas(labels, [[Scored(np.array([0.9, 0.3, 0.4, 0.2, 0.1]), 0.5)]], np.array([0, 0, 1, 2, 3]))
    assert np.isnan(found.covariance[0, 0]) and found.groups == 1
    assert delong.interval(float(found.values[0]), float(found.covariance[0, 0]), found.groups) is None


def test_equal_scores_do_not_differ() -> None:
    assert delong.p_value(0.0, 0.0) == 1 and delong.p_value(0.1, 0.0) == 0
