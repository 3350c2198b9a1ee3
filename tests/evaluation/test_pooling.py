"""Figures pooled over folds and repeats: by hand, against scikit-learn, and how often their intervals cover the truth.

The simulations draw fixed data (seed stated); the odds stated are those of a correct tool failing under another seed.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binom, norm
from sklearn.metrics import accuracy_score, cohen_kappa_score, roc_auc_score

from radtransfer.evaluation.compare import compare
from radtransfer.evaluation.intervals import Scored, measure, measure_tests, resample
from radtransfer.evaluation.metrics import METRICS, auroc

SIMULATIONS = 250
REPLICATES = 300


def one_weight(count: int) -> np.ndarray:
    return np.ones((1, count))


def test_pairs_within_folds_by_hand() -> None:
    """Fold 1: .9 > .1, .9 > .5, .3 > .1, .3 < .5: 3 of 4. Fold 2: .8 = .8 (half), one pair. Together 3.5 of 5."""
    labels = np.array([True, True, False, False, True, False])
    scores = np.array([0.9, 0.3, 0.1, 0.5, 0.8, 0.8])
    folds = np.array([1, 1, 1, 1, 2, 2])
    assert auroc(labels, scores, one_weight(6), folds)[0] == pytest.approx(3.5 / 5)
    # the second positive counts twice: 1, 1, 1, 0, 1, 0 and a half of 2 + 4 + 1 pairs
    weights = np.array([[1.0, 2, 1, 1, 1, 1], [1, 1, 1, 1, 0, 1], [0, 0, 1, 1, 0, 1]])
    found = auroc(labels, scores, weights, folds)
    assert found[:2] == pytest.approx([(2 + 2 * 1 + 0.5) / 7, 3 / 4]) and np.isnan(found[2])


def test_a_fold_without_a_class_has_no_pairs() -> None:
    labels = np.array([True, False, False, False])
    scores, folds = np.array([0.5, 0.2, 0.9, 0.1]), np.array([1, 1, 2, 2])
    assert auroc(labels, scores, one_weight(4), folds)[0] == 1


def test_one_fold_is_the_ordinary_measure() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(90) < 30
    scores = np.round(expit(rng.normal(size=90) + labels), 2)
    weights = resample(np.arange(90).astype(str), labels, 200, 0)
    assert auroc(labels, scores, one_weight(90), np.ones(90, dtype=np.intp))[0] == roc_auc_score(labels, scores)
    ordinary = measure(labels, scores, 0.5, weights)
    pooled = measure_tests(labels, [Scored(scores, np.full(90, 0.5), np.ones(90, dtype=np.intp))] * 2, weights)
    for metric in METRICS:
        assert pooled.intervals[metric] == ordinary.intervals[metric], metric
        assert metric == "calibration_slope" or pooled.replicates[metric] == pytest.approx(ordinary.replicates[metric])


def test_folds_and_repeats_against_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    labels = rng.random(100) < 0.4
    weights = resample(np.arange(100).astype(str), labels, 100, 0)
    tests, expected = [], {"auroc": [], "kappa": [], "accuracy": []}
    for _ in range(3):
        folds = rng.permutation(100) % 4
        level = np.array([-1.0, 0.5, 2.0, 0.0])[folds]
        scores, threshold = expit(level + labels + rng.normal(size=100)), expit(level + 0.5)
        tests.append(Scored(scores, threshold, folds))
        wins = pairs = 0.0
        for fold in range(4):
            mine = folds == fold
            count = int(labels[mine].sum()) * int((~labels[mine]).sum())
            wins, pairs = wins + count * roc_auc_score(labels[mine], scores[mine]), pairs + count
        expected["auroc"].append(wins / pairs)
        expected["kappa"].append(cohen_kappa_score(labels, scores >= threshold))
        expected["accuracy"].append(accuracy_score(labels, scores >= threshold))
    intervals = measure_tests(labels, tests, weights).intervals
    for metric, values in expected.items():
        assert intervals[metric].value == pytest.approx(np.mean(values)), metric
    for interval in intervals.values():
        assert interval.low <= interval.value <= interval.high


def crossfitted(rng: np.random.Generator, strengths: tuple[float, ...], repeats: int) -> tuple[np.ndarray, ...]:
    """60 groups of 2 images, 24 groups positive, in 5 folds whose models score at levels of their own (SD 1.5).

    Half of the noise belongs to the image and is shared by groups, classifiers and repeats, as far as they go; the
    rest is the model's. AUROC of a classifier: Phi(strength / sqrt 2), whatever the level of its folds.
    """
    group = np.repeat(np.arange(60), 2)
    labels = (np.arange(60) < 24)[group]
    image = 0.5 * rng.normal(size=60)[group] + 0.5 * rng.normal(size=120)
    found: list[list[Scored]] = [[] for _ in strengths]
    for _ in range(repeats):
        folds = (rng.permutation(60) % 5)[group]
        for tests, strength in zip(found, strengths, strict=True):
            noise = image + np.sqrt(0.5) * rng.normal(size=120)
            level = 1.5 * rng.normal(size=5)[folds]
            tests.append(Scored(expit(level + strength * labels + noise), expit(level + strength / 2), folds))
    return (group.astype(str), labels, *found)  # type: ignore[return-value]


def covered(repeats: int, stratified: bool) -> int:
    """In how many data sets the interval holds the true AUROC."""
    rng, truth = np.random.default_rng(30), float(norm.cdf(1.5 / np.sqrt(2)))
    found = 0
    for seed in range(SIMULATIONS):
        groups, labels, tests = crossfitted(rng, (1.5,), repeats)
        if not stratified:
            tests = [one._replace(folds=None) for one in tests]
        interval = measure_tests(labels, tests, resample(groups, labels, REPLICATES, seed)).intervals["auroc"]
        found += interval.low <= truth <= interval.high
    return found


@pytest.mark.parametrize("repeats", [1, 3])
def test_intervals_over_folds_and_repeats_cover_the_truth(repeats: int) -> None:
    """250 data sets, seed 30, 300 replicates. A tool whose coverage lies between 91 and 97 % fails in < 1 %.

    Training noise is drawn anew for each image here, so the interval may cover it; that of a real training, which moves
    all images together, it does not, and no simulation of ours could show by how much.
    """
    assert binom.ppf(0.005, SIMULATIONS, 0.91) <= covered(repeats, True) <= binom.ppf(0.995, SIMULATIONS, 0.97)


def test_pairs_across_folds_would_not_cover() -> None:
    """The guard of the test above: the same data, all pairs counted. Coverage of at most .6 passes in > 99 %."""
    assert covered(1, False) <= binom.ppf(0.99, SIMULATIONS, 0.6)


def test_equal_procedures_are_seldom_called_different() -> None:
    """250 data sets, seed 31, two repeats; a test whose level is between 2 and 8 % fails in < 1 %."""
    rng, rejected = np.random.default_rng(31), 0
    for seed in range(SIMULATIONS):
        groups, labels, one, other = crossfitted(rng, (1.2, 1.2), 2)
        weights = resample(groups, labels, REPLICATES, seed)
        measured = {"a": measure_tests(labels, one, weights), "b": measure_tests(labels, other, weights)}
        p = compare("a", "b", "auroc", measured, "f").p_value
        rejected += p is not None and p < 0.05
    assert binom.ppf(0.005, SIMULATIONS, 0.02) <= rejected <= binom.ppf(0.995, SIMULATIONS, 0.08)
