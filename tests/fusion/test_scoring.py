"""Scores, calibration, thresholds, and classifier files that nothing foreign hides in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve
from sklearn.preprocessing import FunctionTransformer

from radtransfer.errors import RadtransferError
from radtransfer.fusion.scoring import (
    Calibration,
    calibrate,
    fit_calibration,
    load_classifier,
    raw_score,
    save_classifier,
    youden_threshold,
)


def two_classes(seed: int, count: int, shift: float) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    rng = np.random.default_rng(seed)
    labels = np.r_[0, 1, rng.integers(0, 2, count)].astype(np.int8)
    return rng.normal(size=len(labels)) + shift * labels, labels


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(8, 60), shift=st.floats(-3, 3))
def test_calibration_is_finite_and_keeps_the_order(seed: int, count: int, shift: float) -> None:
    raw, labels = two_classes(seed, count, shift)
    fitted = fit_calibration(raw, labels)
    probability = calibrate(raw, fitted.slope, fitted.intercept)
    assert fitted.slope > 0 and np.isfinite([fitted.slope, fitted.intercept]).all()
    assert ((probability >= 0) & (probability <= 1)).all()
    assert (np.diff(probability[np.argsort(raw)]) >= 0).all()


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
    assert 0.9 < calibrate(np.array([1.0]), separable.slope, separable.intercept)[0] < 1
    constant = fit_calibration(np.full(20, 3.0), labels)
    assert calibrate(np.array([3.0]), constant.slope, constant.intercept)[0] == pytest.approx(0.5, abs=0.01)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(4, 50), shift=st.floats(0, 3))
def test_threshold_reaches_the_best_youden_index(seed: int, count: int, shift: float) -> None:
    raw, labels = two_classes(seed, count, shift)
    probability = 1 / (1 + np.exp(-np.round(raw, 1)))  # rounded: with ties
    threshold = youden_threshold(probability, labels)
    called = probability >= threshold
    reached = called[labels == 1].mean() - called[labels == 0].mean()
    fpr, tpr, _ = roc_curve(labels, probability)
    assert reached == pytest.approx(max(0, (tpr - fpr).max()), abs=1e-9) or threshold == 0.5


def test_a_classifier_file_comes_back_the_same_and_equal_ones_have_equal_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(60, 5)), rng.integers(0, 2, 60)
    for number in range(2):
        save_classifier(RandomForestClassifier(10, random_state=0).fit(features, labels), tmp_path / f"{number}.skops")
    assert (tmp_path / "0.skops").read_bytes() == (tmp_path / "1.skops").read_bytes()
    fitted = RandomForestClassifier(10, random_state=0).fit(features, labels)
    assert np.array_equal(raw_score(load_classifier(tmp_path / "0.skops"), features), raw_score(fitted, features))
    assert np.isfinite(raw_score(fitted, features)).all()


def test_foreign_types_and_rubbish_are_refused(tmp_path: Path) -> None:
    skops.io.dump(FunctionTransformer(np.linalg.norm), tmp_path / "foreign.skops")
    with pytest.raises(RadtransferError, match="which no classifier of radtransfer has"):
        load_classifier(tmp_path / "foreign.skops")
    (tmp_path / "rubbish.skops").write_bytes(b"\x80\x04not a zip file")
    with pytest.raises(RadtransferError, match="not a classifier that can be loaded"):
        load_classifier(tmp_path / "rubbish.skops")
    with pytest.raises(RadtransferError, match="no such file"):
        load_classifier(tmp_path / "absent.skops")


def test_decision_function_is_preferred_to_probabilities() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 3))
    labels = (features[:, 0] > 0).astype(int)
    linear = LogisticRegression().fit(features, labels)
    assert np.array_equal(raw_score(linear, features), linear.decision_function(features))


@given(st.floats(0.1, 10), st.floats(-5, 5), st.integers(0, 2**31))
def test_a_carried_calibration_undoes_shift_and_scale(scale: float, shift: float, seed: int) -> None:
    before = np.random.default_rng(seed).normal(size=50)
    calibration = Calibration(1.7, -0.4)
    after = scale * before + shift
    carried = calibration.carried(before, after)
    np.testing.assert_allclose(
        calibrate(after, carried.slope, carried.intercept), calibrate(before, 1.7, -0.4), rtol=1e-9
    )
    assert calibration.carried(before, np.full(50, 2.0)).slope == 1.7  # a network that says nothing is left as it is
