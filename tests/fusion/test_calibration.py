"""Probabilities and calls, fixed on validation images."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_curve

from radtransfer.errors import RadtransferError
from radtransfer.fusion.calibration import KEPT, METHODS, Calibration, Method, check_method, fit_calibration
from radtransfer.fusion.threshold import Rule


def two_classes(seed: int, count: int, shift: float) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    rng = np.random.default_rng(seed)
    labels = np.r_[0, 1, rng.integers(0, 2, count)].astype(np.int8)
    return rng.normal(size=len(labels)) + shift * labels, labels


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(8, 60), shift=st.floats(-3, 3), method=st.sampled_from(METHODS))
def test_calibration_is_finite_and_keeps_the_order(seed: int, count: int, shift: float, method: Method) -> None:
    raw, labels = two_classes(seed, count, shift)
    fitted = fit_calibration(raw, labels, method)
    assert Calibration.of(json.loads(json.dumps(fitted.content))) == fitted
    probability = fitted(raw)
    assert fitted.slope > 0 and np.isfinite([fitted.slope, fitted.intercept]).all()
    assert ((probability >= 0) & (probability <= 1)).all()
    assert (np.diff(probability[np.argsort(raw)]) > 0).all()


def test_calibration_recovers_known_coefficients() -> None:
    rng = np.random.default_rng(3)
    raw = rng.normal(size=20_000)
    labels = (rng.random(len(raw)) < 1 / (1 + np.exp(-(1.7 * raw - 0.6)))).astype(np.int8)
    fitted = fit_calibration(raw, labels)
    assert fitted.slope == pytest.approx(1.7, abs=0.1)  # standard error about 0.02: fails by chance less than 1 in 1e5
    assert fitted.intercept == pytest.approx(-0.6, abs=0.1)


def test_separable_and_constant_scores() -> None:
    labels = np.array([0] * 10 + [1] * 10, np.int8)
    separable = fit_calibration(np.linspace(-1, 1, 20), labels)
    assert 0.9 < separable(np.array([1.0]))[0] < 1
    constant = fit_calibration(np.full(20, 3.0), labels)
    assert constant(np.array([3.0]))[0] == pytest.approx(0.5, abs=0.01)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(4, 50), shift=st.floats(0, 3))
def test_threshold_reaches_the_best_youden_index(seed: int, count: int, shift: float) -> None:
    raw, labels = two_classes(seed, count, shift)
    probability = 1 / (1 + np.exp(-np.round(raw, 1)))  # rounded: with ties
    threshold = Rule()(probability, labels)
    called = probability >= threshold
    reached = called[labels == 1].mean() - called[labels == 0].mean()
    fpr, tpr, _ = roc_curve(labels, probability)
    assert reached == pytest.approx(max(0, (tpr - fpr).max()), abs=1e-9) or threshold == 0.5


def test_a_temperature_is_that_of_scores_which_are_right_but_for_it() -> None:
    """20,000 images, true temperature 2.5; the slope's standard error is about 0.006."""
    rng = np.random.default_rng(5)
    linear = rng.normal(0, 1.5, 20_000)
    labels = (rng.random(len(linear)) < 1 / (1 + np.exp(-linear))).astype(np.int8)
    fitted = fit_calibration(2.5 * linear, labels, "temperature")
    assert (1 / fitted.slope, fitted.intercept) == (pytest.approx(2.5, abs=0.15), 0)


def test_isotonic_steps_are_those_of_scikit_learn() -> None:
    """A shape that no sigmoid has: two thirds below 0, one third above."""
    rng = np.random.default_rng(6)
    raw = rng.normal(size=4000)
    labels = (rng.random(4000) < np.where(raw < 0, 0.1, 0.9)).astype(np.int8)
    fitted, platt = (fit_calibration(raw, labels, method) for method in ("isotonic", "platt"))
    expected = IsotonicRegression().fit(raw, labels).predict(raw)
    np.testing.assert_allclose(fitted(raw), (1 - KEPT) * expected + KEPT * platt(raw), atol=1e-6)
    far = np.array([-0.5, 0.5])
    assert np.abs(fitted(far) - [0.1, 0.9]).max() < 0.06 < np.abs(platt(far) - [0.1, 0.9]).max()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(4, 50),
    shift=st.floats(-1, 3),
    value=st.sampled_from([0.5, 0.8, 1.0]),
)
def test_a_sensitivity_is_reached_with_as_few_alarms_as_can_be(
    seed: int, count: int, shift: float, value: float
) -> None:
    raw, labels = two_classes(seed, count, shift)
    probability = 1 / (1 + np.exp(-np.round(raw, 1)))
    called = probability >= Rule.read(f"sensitivity={value}")(probability, labels)
    assert called[labels == 1].mean() >= value - 1e-12
    fpr, tpr, _ = roc_curve(labels, probability, drop_intermediate=False)
    assert called[labels == 0].mean() == pytest.approx(fpr[tpr >= value - 1e-12].min())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(4, 50),
    shift=st.floats(-1, 3),
    cost=st.sampled_from([0.01, 1, 5, 1e5]),
)
def test_no_other_threshold_costs_less(seed: int, count: int, shift: float, cost: float) -> None:
    raw, labels = two_classes(seed, count, shift)
    probability = 1 / (1 + np.exp(-np.round(raw, 1)))

    def costs(threshold: float) -> float:
        called = probability >= threshold
        return float(cost * (labels[~called] == 1).sum() + (labels[called] == 0).sum())

    threshold = Rule("cost", cost)(probability, labels)
    assert costs(threshold) == pytest.approx(min(map(costs, [*probability, 0.0, 1.1])))


@pytest.mark.parametrize(
    "text", ["", "yuoden", "sensitivity", "sensitivity=0", "sensitivity=1.1", "cost=-1", "cost=1.2.3"]
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(RadtransferError, match="threshold_rule: "):
        Rule.read(text)


def test_rules_and_methods_are_read() -> None:
    assert Rule.read("youden") == Rule() and Rule.read("cost = 5") == Rule("cost", 5.0)
    with pytest.raises(RadtransferError, match="platt"):
        check_method("plat")


@given(st.floats(0.1, 10), st.floats(-5, 5), st.integers(0, 2**31))
def test_a_carried_calibration_undoes_shift_and_scale(scale: float, shift: float, seed: int) -> None:
    before = np.random.default_rng(seed).normal(size=50)
    calibration = Calibration(1.7, -0.4, ((0.0, 0.1), (0.5, 0.2), (1.0, 0.9)) if seed % 2 else ())
    after = scale * before + shift
    carried = calibration.carried(before, after)
    np.testing.assert_allclose(carried(after), calibration(before), rtol=1e-9)
    assert calibration.carried(before, np.full(50, 2.0)).slope == 1.7  # a network that says nothing is left as it is
