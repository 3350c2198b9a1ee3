"""The gradient of every classifier's raw score by the features it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from radtransfer.fusion import grid
from radtransfer.fusion.classifiers import pipeline
from radtransfer.fusion.gradient import gradient
from radtransfer.fusion.scoring import load_classifier, raw_score, save_classifier

EXACT = ("logistic_regression", "lda", "svm_linear", "svm_rbf", "mlp")
STEPS = ("knn", "random_forest", "gradient_boosting")
WIDTHS = (7, 5)
TOLD = 2
"""The one column that tells the classes apart."""
RNG = np.random.default_rng(3)
LABELS = (np.arange(160) % 2).astype(np.int8)
FEATURES = RNG.normal(2.0, np.linspace(0.5, 4, sum(WIDTHS)), (160, sum(WIDTHS)))
FEATURES[:, TOLD] += 3 * LABELS


def fitted(name: str, **changed: Any) -> Any:
    settings = grid.space(name, {f"{name}.{key}": value for key, value in changed.items()}, 1, 0)[0]
    return pipeline(name, settings, WIDTHS, 6, 0).fit(FEATURES, LABELS)


def numerical(estimator: Any, features: np.ndarray, step: float = 1e-4) -> np.ndarray:
    moved = [
        (raw_score(estimator, features + step * axis) - raw_score(estimator, features - step * axis)) / (2 * step)
        for axis in np.eye(features.shape[1])
    ]
    return np.stack(moved, axis=1)


def test_all_classifiers_are_here() -> None:
    assert set(grid.CLASSIFIERS) == {*EXACT, *STEPS}


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
@pytest.mark.parametrize("reduction", ["none", "pca", "anova"])
@pytest.mark.parametrize("name", EXACT)
def test_exact_as_finite_differences_have_it(name: str, reduction: str) -> None:
    tame = {"alpha": 0.1} if name == "mlp" else {}  # of its own settings the images here are too few to learn
    estimator = fitted(name, reduction=reduction, weights="signal", **tame)
    found = gradient(estimator, FEATURES[:5])
    np.testing.assert_allclose(found.values, numerical(estimator, FEATURES[:5]), rtol=2e-3, atol=1e-7)
    assert np.abs(found.values).max() > 1e-4 and found.fidelity.tolist() == [1.0] * 5


def test_a_classifier_from_a_file_has_the_same(tmp_path: Path) -> None:
    for name in EXACT + STEPS:
        estimator = fitted(name)
        save_classifier(estimator, tmp_path / name)
        for own, read in zip(
            gradient(estimator, FEATURES[:2]), gradient(load_classifier(tmp_path / name), FEATURES[:2]), strict=True
        ):
            np.testing.assert_allclose(own, read, rtol=1e-9)


def test_a_bare_classifier_as_that_of_stacking() -> None:
    model = LogisticRegression().fit(FEATURES[:, :3], LABELS)
    assert gradient(model, FEATURES[:4, :3]).values.tolist() == np.repeat(model.coef_, 4, axis=0).tolist()


@pytest.mark.parametrize("name", STEPS)
def test_steps_get_the_nearest_line(name: str) -> None:
    estimator = fitted(name, reduction="anova")
    found = gradient(estimator, FEATURES[:6])
    assert (found.values.shape, found.fidelity.shape) == ((6, sum(WIDTHS)), (6,))
    assert found.fidelity.max() < 1 and found.fidelity.mean() > 0.3
    pull = np.abs(found.values * FEATURES.std(axis=0)).mean(axis=0)
    assert pull.argmax() == TOLD and found.values[:, TOLD].mean() > 0
    np.testing.assert_allclose(found.values[4:], gradient(estimator, FEATURES[4:6]).values)


@pytest.mark.parametrize("name", ["random_forest", "gradient_boosting"])
def test_trees_have_no_gradient_of_their_own(name: str) -> None:
    assert not numerical(fitted(name), FEATURES[:3], 1e-9).any()


@settings(max_examples=15)
@given(st.floats(-3, 3), st.sampled_from(STEPS))
def test_the_same_for_any_company(shift: float, name: str) -> None:
    """An image's gradient does not depend on those explained with it."""
    estimator = ESTIMATORS[name]
    images = FEATURES[:3] + shift
    whole, alone = gradient(estimator, images), gradient(estimator, images[1:2])
    np.testing.assert_allclose(whole.values[1:2], alone.values, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(whole.fidelity[1:2], alone.fidelity, rtol=1e-6, atol=1e-9)


ESTIMATORS = {name: fitted(name) for name in STEPS}
