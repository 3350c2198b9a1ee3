"""How a classifier's raw score changes with the features that it reads.

Exact for logistic regression, LDA, linear and RBF support vector machines and the MLP. Random forest and gradient
boosting are steps, whose gradient is zero wherever it exists, and that of nearest neighbours jumps wherever a neighbour
changes; there the linear function stands for the classifier that comes nearest to it around the image (Ribeiro et al.,
KDD 2016, section 3.3, in the space that the classifier sees), and how near that is is said beside it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import r2_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from radtransfer.fusion.classifiers import LinearSVM
from radtransfer.fusion.scoring import raw_score

Floats = NDArray[np.float64]

MIN_POINTS, POINTS_PER_COLUMN = 512, 8
"""Points around an image to which the linear function is fitted; a quarter as many more judge it."""
REACH = 1.0
"""How far around the image they lie, in standard deviations of the training images."""

_LINEAR = LogisticRegression | LinearDiscriminantAnalysis | LinearSVM


class Gradient(NamedTuple):
    """A gradient for each image.

    Attributes:
        values: [N, D] of the raw score by the features.
        fidelity: [N] share of the classifier's variance around the image that the linear function explains (R² on
            points to which it was not fitted, below 0 where it is worse than a constant); 1 where the gradient is
            exact.
    """

    values: Floats
    fidelity: Floats


def gradient(estimator: Any, features: NDArray[np.floating[Any]]) -> Gradient:
    """The gradient of :func:`radtransfer.fusion.scoring.raw_score`.

    Args:
        estimator: fitted, of :func:`radtransfer.fusion.classifiers.pipeline` or a bare classifier; the same images give
            the same gradient every time.
        features: [N, D].
    """
    steps = [step for _, step in estimator.steps[:-1]] if isinstance(estimator, Pipeline) else []
    last = estimator[-1] if isinstance(estimator, Pipeline) else estimator
    seen = np.asarray(features, np.float64)
    spread = np.ones(seen.shape[1])
    for step in steps:
        seen = step.transform(seen)
        spread = _spread(step, spread)
    found = _exact(last, seen)
    values, fidelity = _nearest(last, seen, spread) if found is None else (found, np.ones(len(seen)))
    for step in reversed(steps):
        values = _back(step, values)
    return Gradient(values, fidelity)


def _exact(classifier: Any, seen: Floats) -> Floats | None:
    if isinstance(classifier, _LINEAR):
        return np.repeat(np.asarray(classifier.coef_, np.float64), len(seen), axis=0)
    if isinstance(classifier, SVC) and classifier.kernel == "rbf":
        gamma, vectors = classifier._gamma, np.asarray(classifier.support_vectors_, np.float64)
        weights = classifier.dual_coef_[0] * np.exp(-gamma * cdist(seen, vectors, "sqeuclidean"))
        return np.asarray(2 * gamma * (weights @ vectors - weights.sum(axis=1, keepdims=True) * seen), np.float64)
    if isinstance(classifier, MLPClassifier) and classifier.activation == "relu":
        layers = list(zip(classifier.coefs_, classifier.intercepts_, strict=True))
        values, open_units = seen, []
        for weights, intercept in layers[:-1]:
            values = values @ weights + intercept
            open_units.append(values > 0)
            values = np.maximum(values, 0)
        back = np.repeat(classifier.coefs_[-1].T, len(seen), axis=0)
        for (weights, _), passing in zip(reversed(layers[:-1]), reversed(open_units), strict=True):
            back = (back * passing) @ weights.T
        return np.asarray(back, np.float64)
    return None


def _nearest(classifier: Any, seen: Floats, spread: Floats) -> tuple[Floats, Floats]:
    """Slopes [N, D] and fidelity [N] of the linear function nearest to a classifier around each image."""
    columns = seen.shape[1]
    fitted = max(MIN_POINTS, POINTS_PER_COLUMN * columns)
    around = np.random.default_rng(0).standard_normal((fitted + fitted // 4, columns))
    scores = np.stack([raw_score(classifier, image + REACH * spread * around) for image in seen], axis=1)
    line = LinearRegression().fit(around[:fitted], scores[:fitted])
    held, told = scores[fitted:], line.predict(around[fitted:])
    fidelity = [r2_score(held[:, image], told[:, image]) for image in range(len(seen))]
    slopes: Floats = np.asarray(line.coef_, np.float64).reshape(len(seen), columns) / (REACH * spread)
    return slopes, np.array(fidelity)


def _spread(step: Any, before: Floats) -> Floats:
    """Standard deviation of each column behind a step, over the training images."""
    if isinstance(step, StandardScaler):
        return np.asarray(np.sqrt(step.var_) / step.scale_, np.float64)
    if isinstance(step, PCA):
        return np.asarray(np.sqrt(step.explained_variance_), np.float64)
    if isinstance(step, SelectKBest):
        return np.asarray(before[step.get_support()], np.float64)
    raise AssertionError(type(step))


def _back(step: Any, values: Floats) -> Floats:
    """A gradient [N, columns behind a step] as one by the columns before it."""
    if isinstance(step, StandardScaler):
        return np.asarray(values / step.scale_, np.float64)
    if isinstance(step, PCA):
        return np.asarray(values @ step.components_, np.float64)
    before = np.zeros((len(values), len(step.get_support())))
    before[:, step.get_support()] = values
    return before
