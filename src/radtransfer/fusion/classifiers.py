"""The classifiers themselves: pipelines of block scaling, reduction and an estimator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import KBinsDiscretizer
from sklearn.svm import SVC

from radtransfer.fusion.blocks import BlockScaler
from radtransfer.fusion.grid import Settings

Floats = NDArray[np.float64]

TREES = 200
ROUNDS = 60
BINS = 64
"""Histogram bins of gradient boosting for each component; its time grows with them, and 255 see no more here."""

ITERATIONS = 100
"""Steps of L-BFGS that the MLP gets; with the penalty this is what keeps it from learning the images by heart."""


class Fed(NamedTuple):
    """What a classifier is fed; classifiers that are fed the same share its fit.

    Attributes:
        weights, reduction: settings of :data:`radtransfer.fusion.grid.CLASSIFIERS`.
        components: columns that the reduction leaves; 0 where there is none.
    """

    weights: str
    reduction: str
    components: int

    @classmethod
    def of(cls, settings: Settings, limit: int) -> Fed:
        """As the settings say, with no more components than ``limit``."""
        reduction = settings["reduction"]
        return cls(settings["weights"], reduction, 0 if reduction == "none" else min(settings["components"], limit))

    def steps(self, widths: Sequence[int], seed: int) -> list[tuple[str, Any]]:
        """Unfitted steps of a pipeline, for blocks of columns so wide."""
        steps: list[tuple[str, Any]] = [("scale", BlockScaler(list(widths), self.weights))]  # type: ignore[arg-type]
        if self.reduction == "pca":
            steps.append(("pca", PCA(self.components, svd_solver="randomized", random_state=seed)))
        if self.reduction == "anova":
            steps.append(("select", SelectKBest(f_classif, k=self.components)))
        return steps


class LinearSVM(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """The support vector machine with a linear kernel, fitted on the Gram matrix and kept as one weight a column.

    The same optimum as ``SVC(kernel="linear")``, which evaluates the kernel column by column and keeps and visits all
    support vectors.

    Args:
        C: as of ``SVC``; classes are balanced.
    """

    def __init__(self, C: float = 1.0) -> None:
        self.C = C

    def fit(self, X: Floats, y: NDArray[np.integer[Any]]) -> Self:
        """Fit to X [N, D] and labels y [N], 0 or 1."""
        machine = SVC(kernel="precomputed", C=self.C, class_weight="balanced").fit(X @ X.T, y)
        self.classes_ = machine.classes_
        self.coef_ = machine.dual_coef_ @ X[machine.support_]
        self.intercept_ = machine.intercept_
        return self

    def decision_function(self, X: Floats) -> Floats:
        """Margin [N]."""
        return np.asarray(X @ self.coef_[0] + self.intercept_[0], np.float64)

    def predict(self, X: Floats) -> NDArray[Any]:
        """Class [N]."""
        return np.asarray(self.classes_[(self.decision_function(X) > 0).astype(int)])


def classifier(name: str, settings: Settings, seed: int) -> Any:
    """The unfitted estimator behind the steps of :class:`Fed`."""
    own = {key: value for key, value in settings.items() if key not in ("weights", "reduction", "components")}
    balanced, seeded = {"class_weight": "balanced"}, {"random_state": seed}
    match name:
        case "logistic_regression":
            made: Any = LogisticRegression(max_iter=2000, **balanced, **own)
        case "lda":
            made = LinearDiscriminantAnalysis(solver="lsqr", **own)
        case "svm_linear":
            made = LinearSVM(**own)
        case "svm_rbf":
            made = SVC(kernel="rbf", **balanced, **own)
        case "knn":
            made = KNeighborsClassifier(weights="distance", algorithm="brute", **own)
        case "random_forest":
            made = RandomForestClassifier(TREES, **balanced, **seeded, **own)
        case "gradient_boosting":
            # scikit-learn's own bins of weighted images take 20 times as long as the fit
            bins = KBinsDiscretizer(
                BINS, encode="ordinal", strategy="quantile", quantile_method="linear", subsample=None
            )
            boosting = HistGradientBoostingClassifier(
                max_iter=ROUNDS, max_bins=BINS, early_stopping=False, **balanced, **seeded, **own
            )
            made = Pipeline([("bins", bins), ("boosting", boosting)])
        case "mlp":
            layers = (own.pop("hidden"),)
            made = MLPClassifier(layers, solver="lbfgs", max_iter=ITERATIONS, **seeded, **own)
        case _:
            raise AssertionError(name)
    return made


def pipeline(name: str, settings: Settings, widths: Sequence[int], limit: int, seed: int) -> Pipeline:
    """The unfitted pipeline of a classifier.

    Args:
        name: of the classifier.
        settings: a value for each of its settings.
        widths: columns of each block.
        limit: components at most.
        seed: of principal components, forest, boosting and MLP.
    """
    steps = Fed.of(settings, limit).steps(widths, seed)
    return Pipeline([*steps, ("classifier", classifier(name, settings, seed))])
