"""Metrics against scikit-learn, the paper's table, and their definitions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from radtransfer.errors import RadtransferError
from radtransfer.evaluation import metrics
from radtransfer.evaluation.metrics import RESAMPLED


@pytest.mark.parametrize(
    ("matrix", "accuracy", "f1", "kappa"),
    [
        ({"tp": 124, "fn": 16, "tn": 129, "fp": 19}, 87.85, 87.63, 75.69),
        ({"tp": 227, "fn": 68, "tn": 337, "fp": 27}, 85.58, 82.70, 70.46),
    ],
    ids=["humerus", "wrist"],
)
def test_reproduces_the_table_of_the_paper(matrix: dict[str, int], accuracy: float, f1: float, kappa: float) -> None:
    values = metrics.from_confusion(**matrix)
    found = tuple(round(100 * float(values[name]), 2) for name in ("accuracy", "f1", "kappa"))
    assert found == (accuracy, f1, kappa)


def test_paper_matrices_come_out_of_scores_too() -> None:
    labels = np.repeat([True, True, False, False], [124, 16, 129, 19])
    scores = np.repeat([0.8, 0.3, 0.2, 0.9], [124, 16, 129, 19])
    assert metrics.confusion(labels, scores, 0.8) == {"tp": 124, "fn": 16, "tn": 129, "fp": 19}
    values, _ = metrics.evaluate_scores(labels, scores, 0.8, np.ones((1, 288)))
    assert round(100 * float(values["kappa"][0]), 2) == 75.69


@st.composite
def data(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Labels, scores with many ties, whole-number weights and a threshold that may equal a score."""
    n = draw(st.integers(2, 40))
    labels = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    grain = draw(st.sampled_from([4, 10, 1000]))
    scores = np.array(draw(st.lists(st.integers(0, grain), min_size=n, max_size=n))) / grain
    weights = np.array(draw(st.lists(st.lists(st.integers(0, 3), min_size=n, max_size=n), min_size=1, max_size=4)))
    weights = weights[weights.sum(axis=1) > 0]
    weights = np.vstack([np.ones((1, n)), weights])
    return labels, scores, weights.astype(float), draw(st.integers(0, grain)) / grain


def _reference(labels: np.ndarray, scores: np.ndarray, threshold: float, weights: np.ndarray) -> dict[str, float]:
    """Each metric by scikit-learn; NaN where this project calls it undefined."""
    kept = weights > 0
    y, s, w = labels[kept].astype(int), scores[kept], weights[kept]
    p = (s >= threshold).astype(int)
    positives, negatives = bool((y == 1).any()), bool((y == 0).any())
    constant = len(set(y) | set(p)) == 1
    keywords = {"sample_weight": w, "zero_division": 0}
    edges = np.arange(1, 10) / 10
    ece = 0.0
    for one in range(10):
        low, high = (edges[one - 1] if one else -1.0), (edges[one] if one < 9 else 1.0)
        inside = (s > low) & (s <= high)
        if inside.any():
            gap = np.average(s[inside], weights=w[inside]) - np.average(y[inside], weights=w[inside])
            ece += abs(gap) * w[inside].sum() / w.sum()
    return {
        "accuracy": reference.accuracy_score(y, p, sample_weight=w),
        "f1": reference.f1_score(y, p, **keywords) if positives else np.nan,
        "kappa": np.nan if constant else reference.cohen_kappa_score(y, p, sample_weight=w, labels=[0, 1]),
        "auroc": reference.roc_auc_score(y, s, sample_weight=w) if positives and negatives else np.nan,
        "sensitivity": reference.recall_score(y, p, **keywords) if positives else np.nan,
        "specificity": reference.recall_score(y, p, pos_label=0, **keywords) if negatives else np.nan,
        "ece": ece,
        "auprc": reference.average_precision_score(y, s, sample_weight=w) if positives else np.nan,
        "brier": np.average((s - y) ** 2, weights=w),
        "ppv": reference.precision_score(y, p, sample_weight=w) if p.any() else np.nan,
        "npv": reference.precision_score(y, p, pos_label=0, sample_weight=w) if not p.all() else np.nan,
    }


@settings(max_examples=60, deadline=None)
@given(data())
def test_equals_scikit_learn(case: tuple[np.ndarray, np.ndarray, np.ndarray, float]) -> None:
    labels, scores, weights, threshold = case
    values, gaps = metrics.evaluate_scores(labels, scores, threshold, weights)
    assert tuple(values) == RESAMPLED
    for row, weighting in enumerate(weights):
        expected = _reference(labels, scores, threshold, weighting)
        for name in RESAMPLED:
            assert values[name][row] == pytest.approx(expected[name], abs=1e-12, nan_ok=True), name
    assert np.abs(gaps).sum(axis=1) == pytest.approx(values["ece"])


@settings(max_examples=50, deadline=None)
@given(data())
def test_a_weight_is_a_multiplicity(case: tuple[np.ndarray, np.ndarray, np.ndarray, float]) -> None:
    labels, scores, weights, threshold = case
    values, _ = metrics.evaluate_scores(labels, scores, threshold, weights)
    for row, weighting in enumerate(weights.astype(int)):
        y, s = np.repeat(labels, weighting), np.repeat(scores, weighting)
        repeated, _ = metrics.evaluate_scores(y, s, threshold, np.ones((1, len(y))))
        for name in RESAMPLED:
            assert values[name][row] == pytest.approx(repeated[name][0], abs=1e-12, nan_ok=True), name


def test_constant_predictions_are_defined_and_missing_classes_are_not() -> None:
    one = np.ones((1, 4))
    values, _ = metrics.evaluate_scores(np.array([1, 0, 0, 0], dtype=bool), np.full(4, 0.25), 0.5, one)
    assert {name: float(value[0]) for name, value in values.items()} == {
        "accuracy": 0.75,
        "f1": 0.0,
        "kappa": 0.0,
        "auroc": 0.5,
        "sensitivity": 0.0,
        "specificity": 1.0,
        "ece": 0.0,
        "auprc": 0.25,
        "brier": 0.1875,
        "ppv": pytest.approx(np.nan, nan_ok=True),
        "npv": 0.75,
    }
    values, _ = metrics.evaluate_scores(np.zeros(4, dtype=bool), np.full(4, 0.25), 0.5, one)
    undefined = {name for name, value in values.items() if np.isnan(value[0])}
    assert undefined == {"f1", "kappa", "auroc", "sensitivity", "auprc", "ppv"}


@settings(max_examples=30, deadline=None)
@given(data())
def test_predictive_values_at_the_images_own_prevalence_are_the_observed_ones(
    case: tuple[np.ndarray, np.ndarray, np.ndarray, float],
) -> None:
    labels, scores, _, threshold = case
    one = np.ones((1, len(labels)))
    observed, _ = metrics.evaluate_scores(labels, scores, threshold, one)
    if labels.all() or not labels.any():
        return
    stated, _ = metrics.evaluate_scores(labels, scores, threshold, one, prevalence=float(labels.mean()))
    for name in ("ppv", "npv"):
        assert stated[name] == pytest.approx(observed[name], nan_ok=True)


def test_predictive_values_by_hand() -> None:
    """Sensitivity .9 and specificity .8 at a prevalence of 1 %: .009 of .207, and .792 of .793 (Bayes)."""
    ppv, npv = metrics.predictive(np.array(0.9), np.array(0.8), 0.01)
    assert (float(ppv), float(npv)) == (pytest.approx(0.009 / 0.207), pytest.approx(0.792 / 0.793))


def test_precision_is_taken_within_folds() -> None:
    """Two folds whose scores differ in level: each ranks perfectly, together they do not."""
    labels = np.array([True, False, True, False])
    scores, folds = np.array([0.4, 0.3, 0.9, 0.8]), np.array([1, 1, 2, 2])
    one = np.ones((1, 4))
    assert metrics.evaluate_scores(labels, scores, 0.5, one, folds)[0]["auprc"][0] == 1
    assert metrics.evaluate_scores(labels, scores, 0.5, one)[0]["auprc"][0] < 1


@settings(max_examples=50, deadline=None)
@given(data())
def test_roc_is_finite_complete_and_has_the_area(
    case: tuple[np.ndarray, np.ndarray, np.ndarray, float],
) -> None:
    labels, scores, _, _ = case
    curve = metrics.roc(labels, scores)
    if labels.all() or not labels.any():
        assert curve is None
        return
    assert curve is not None
    json.dumps(curve, allow_nan=False)
    assert (curve["fpr"][0], curve["tpr"][0], curve["fpr"][-1], curve["tpr"][-1]) == (0, 0, 1, 1)
    assert np.all(np.diff(curve["thresholds"]) < 0) and curve["thresholds"][0] > scores.max()
    area = np.trapezoid(curve["tpr"], curve["fpr"])
    assert area == pytest.approx(reference.roc_auc_score(labels, scores), abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(data())
def test_reliability_bins_add_up_to_the_ece(case: tuple[np.ndarray, np.ndarray, np.ndarray, float]) -> None:
    labels, scores, _, threshold = case
    bins = metrics.reliability(labels, scores)
    assert sum(one["n"] for one in bins) == len(labels) and all(one["n"] for one in bins)
    values, _ = metrics.evaluate_scores(labels, scores, threshold, np.ones((1, len(labels))))
    ece = sum(one["n"] * abs(one["predicted"] - one["observed"]) for one in bins) / len(labels)
    assert ece == pytest.approx(float(values["ece"][0]), abs=2e-6)


@pytest.mark.parametrize("scores", [[0.1, np.nan], [0.1, 1.2], [-0.1, 0.5], [0.1]])
def test_bad_scores_are_named(scores: list[float]) -> None:
    with pytest.raises(RadtransferError, match="imagenet/fused"):
        metrics.check([0, 1], scores, "imagenet/fused")


def test_bad_labels_are_named() -> None:
    with pytest.raises(RadtransferError, match="labels must be 0 or 1"):
        metrics.check([0, 2], [0.1, 0.2], "row")
