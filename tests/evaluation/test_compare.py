"""Paired comparisons: type-I error, power, and the correction for several of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binom

from radtransfer.evaluation.compare import Comparison, compare, detectable, holm
from radtransfer.evaluation.intervals import Measured, Resamples, measure, resample
from radtransfer.evaluation.metrics import RESAMPLED, Metric

SIMULATIONS = 200
REPLICATES = 300


def _two_classifiers(rng: np.random.Generator, shift_a: float, shift_b: float) -> tuple[np.ndarray, ...]:
    """70 groups of 2 images; both classifiers and both images of a group share part of their noise."""
    group = np.repeat(np.arange(70), 2)
    labels = (np.arange(70) < 30)[group]
    image = 0.7 * rng.normal(size=70)[group] + 0.7 * rng.normal(size=140)
    noise = [0.7 * rng.normal(size=70)[group] + 0.7 * rng.normal(size=140) for _ in range(2)]
    a, b = (expit(s * (labels - 0.5) + 0.8 * image + 0.6 * n) for s, n in zip((shift_a, shift_b), noise, strict=True))
    return group.astype(str), labels, a, b


def _measured(groups: np.ndarray, labels: np.ndarray, seed: int, **scores: np.ndarray) -> dict[str, Measured]:
    resamples = resample(groups, labels, REPLICATES, seed)
    return {name: measure(labels, one, 0.5, resamples) for name, one in scores.items()}


def _rejections(shift_a: float, shift_b: float, metric: Metric) -> int:
    rng = np.random.default_rng(5)
    found = 0
    for seed in range(SIMULATIONS):
        groups, labels, a, b = _two_classifiers(rng, shift_a, shift_b)
        result = compare("a", "b", metric, _measured(groups, labels, seed, a=a, b=b), "family")
        assert result.p_value is not None
        found += result.p_value < 0.05
    return found


@pytest.mark.parametrize("metric", ["auroc", "accuracy"])
def test_equal_classifiers_are_seldom_called_different(metric: Metric) -> None:
    """200 data sets, seed 5, 300 replicates; a test whose level is between 2 and 7 % fails in < 1 %."""
    assert binom.ppf(0.005, SIMULATIONS, 0.02) <= _rejections(1.4, 1.4, metric) <= binom.ppf(0.995, SIMULATIONS, 0.07)


def test_a_large_difference_is_found() -> None:
    """AUROC .92 against .76, 200 data sets, seed 5; a test whose power is at least 90 % fails in < 1 %."""
    assert _rejections(2.0, 1.0, "auroc") >= binom.ppf(0.005, SIMULATIONS, 0.9)


def test_pairing_is_used() -> None:
    """Two nearly equal classifiers: the paired interval is far narrower than what two separate ones would give."""
    rng = np.random.default_rng(0)
    groups, labels, a, _ = _two_classifiers(rng, 1.4, 1.4)
    b = expit(np.log(a / (1 - a)) + 0.1 * rng.normal(size=len(a)))
    measured = _measured(groups, labels, 0, a=a, b=b)
    result = compare("a", "b", "auroc", measured, "family")
    single = measured["a"].intervals["auroc"]
    assert result.high - result.low < 0.3 * (single.high - single.low)  # type: ignore[operator]


def test_a_classifier_does_not_differ_from_itself() -> None:
    groups, labels, a, _ = _two_classifiers(np.random.default_rng(1), 1.4, 1.4)
    measured = _measured(groups, labels, 0, a=a, b=a.copy())
    for metric in RESAMPLED:
        result = compare("a", "b", metric, measured, "family")
        assert (result.difference, result.low, result.high, result.p_value) == (0, 0, 0, 1), metric


def test_swapping_turns_the_sign_only() -> None:
    groups, labels, a, b = _two_classifiers(np.random.default_rng(2), 2, 1.2)
    measured = _measured(groups, labels, 0, a=a, b=b)
    forth, back = compare("a", "b", "auroc", measured, "f"), compare("b", "a", "auroc", measured, "f")
    assert forth.p_value == back.p_value
    assert forth.difference == pytest.approx(-back.difference)  # type: ignore[operator]
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low))  # type: ignore[operator]


def test_p_value_by_hand() -> None:
    """Differences -1 (once), 0 (twice), 1 (36 times) of 39: 2 (1 + 3) / 40 = 0.2."""
    labels = np.array([True, False] * 20)
    template = measure(labels, np.linspace(0, 1, 40), 0.5, Resamples(np.ones((39, 40)), np.arange(40)))
    point = template.intervals | {"auroc": template.intervals["auroc"]._replace(value=0.5)}
    a = Measured(point, {"auroc": np.array([-1.0] + [0.0] * 2 + [1.0] * 36)}, template.source)
    b = Measured(point, {"auroc": np.zeros(39)}, template.source)
    assert compare("a", "b", "auroc", {"a": a, "b": b}, "f").p_value == pytest.approx(0.2)


def test_undefined_metrics_are_not_compared() -> None:
    labels = np.zeros(30, dtype=bool)
    scores = np.linspace(0, 1, 30)
    measured = _measured(np.arange(30).astype(str), labels, 0, a=scores, b=scores**2)
    result = compare("a", "b", "auroc", measured, "f")
    assert (result.difference, result.low, result.p_value, result.significant) == (None, None, None, False)


def _comparison(p: float | None, family: str) -> Comparison:
    return Comparison("a", "b", "auroc", 0.1, 0.0, 0.2, p, p, family)


def test_holm_by_hand_within_families_only() -> None:
    """Holm (1979): sorted p times the number left, never falling, at most 1."""
    p_values: list[tuple[float | None, str]] = [(0.04, "x"), (0.01, "x"), (0.04, "y"), (0.03, "x"), (None, "x")]
    adjusted = [one.adjusted_p for one in holm([_comparison(*one) for one in p_values])]
    assert adjusted == [pytest.approx(0.06), pytest.approx(0.03), pytest.approx(0.04), pytest.approx(0.06), None]
    assert holm([]) == []
    assert holm([_comparison(0.6, "x"), _comparison(0.7, "x")])[0].adjusted_p == 1


def test_significance_is_judged_after_the_correction() -> None:
    alone, *_ = holm([_comparison(0.03, "x")])
    among, *_ = holm([_comparison(0.03, "x"), _comparison(0.5, "x")])
    assert alone.significant and not among.significant


@pytest.mark.parametrize("grouped", [False, True])
def test_another_test_stands_beside(grouped: bool) -> None:
    """DeLong and McNemar by their names, as they stand for single images only; they agree with the one that counts."""
    groups, labels, a, b = _two_classifiers(np.random.default_rng(3), 2, 1.0)
    units = groups if grouped else np.arange(len(labels)).astype(str)
    measured = _measured(units, labels, 0, a=a, b=b)
    found = {metric: compare("a", "b", metric, measured, "f") for metric in ("auroc", "accuracy", "kappa")}
    names = {metric: one.beside.test if one.beside else None for metric, one in found.items()}
    expected = ["clustered DeLong (Obuchowski 1997)", "clustered McNemar (Obuchowski 1998)"]
    assert list(names.values()) == [*(expected if grouped else ["DeLong", "exact McNemar"]), None]
    for metric in ("auroc", "accuracy"):
        one = found[metric]
        assert one.beside is not None and one.p_value is not None
        assert (one.beside.p_value < 0.05) == (one.p_value < 0.05), metric


def test_the_smallest_detectable_difference_by_hand() -> None:
    """(1.960 + 0.842) SE alone; among five (2.576 + 0.842) SE: alpha .01 two-sided."""
    assert detectable(0.02, 1) == pytest.approx((1.959964 + 0.841621) * 0.02, abs=1e-7)
    assert detectable(0.02, 5) == pytest.approx((2.575829 + 0.841621) * 0.02, abs=1e-7)
    five = [replace(_comparison(0.5, "x"), smallest_detectable=detectable(0.02, 1)) for _ in range(5)]
    assert holm(five)[0].smallest_detectable == pytest.approx(detectable(0.02, 5))


def test_power_at_the_smallest_detectable_difference_is_that_of_statsmodels() -> None:
    """With unit variance and n images the standard error is n ** -0.5."""
    from statsmodels.stats.power import normal_power

    assert normal_power(detectable(50**-0.5, 1), 50, 0.05) == pytest.approx(0.8, abs=1e-3)
