"""What a shortcut would score: the majority class, and a classifier on the plain grey-level histogram.

A model that does not clear these has not been shown to see more than how often the classes occur, or how images were
exposed, windowed and framed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from radtransfer.errors import RadtransferError
from radtransfer.evaluation.metrics import Floats
from radtransfer.fusion.scoring import calibrate, fit_calibration, raw_score, youden_threshold
from radtransfer.preprocess.store import Store

LEVELS = 32
FOLDS = 5
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)


@dataclass(frozen=True)
class Shortcut:
    """A shortcut's answers.

    Attributes:
        name: ``majority_class`` or ``grey_level_histogram``.
        classifier: ``majority`` or ``logistic_regression``.
        scores: probability of the positive class for the test images [T], in the order of ``store.rows("test")``.
        threshold: an image is called positive from here up.
    """

    name: str
    classifier: str
    scores: Floats
    threshold: float


def shortcuts(store: Store, seed: int) -> list[Shortcut]:
    """Fit both shortcuts on train and validation labels and apply them to the test images.

    Args:
        store: the target's image store; the labels of its test rows are not looked at.
        seed: of the cross-validation folds.

    Raises:
        RadtransferError: train or validation lacks a class.
    """
    train, validation, test = (store.rows(split) for split in ("train", "validation", "test"))
    column = store.manifest["label"]
    labels, validation_labels = (column.iloc[rows].to_numpy(dtype=np.int64) for rows in (train, validation))
    for name, found in (("train", labels), ("validation", validation_labels)):
        if len(np.unique(found)) < 2:
            raise RadtransferError(
                f"{store.artifact.path}: split {name!r} ({len(found)} images) lacks a class; make the store with more "
                "images or other fractions"
            )
    majority = Shortcut("majority_class", "majority", np.full(len(test), labels.mean()), 0.5)

    groups = store.manifest["group_id"].iloc[train].to_numpy()
    model = _fit(histograms(store.images, train), labels, groups, seed)
    raw = raw_score(model, histograms(store.images, validation))
    fitted = fit_calibration(raw, validation_labels)
    threshold = youden_threshold(calibrate(raw, fitted.slope, fitted.intercept), validation_labels)
    raw = raw_score(model, histograms(store.images, test))
    scores = calibrate(raw, fitted.slope, fitted.intercept)
    return [majority, Shortcut("grey_level_histogram", "logistic_regression", scores, threshold)]


def histograms(images: NDArray[np.uint8], rows: NDArray[np.intp]) -> Floats:
    """Share of each of 32 equal ranges of grey levels in the stored images [len(rows), 32].

    The black margins that fill an image up to a square count too: the shape of the original is a shortcut as well.
    """
    width = 256 // LEVELS
    counts = [np.bincount(np.asarray(images[row]).ravel() // width, minlength=LEVELS) for row in rows]
    return np.asarray(counts, dtype=np.float64).reshape(-1, LEVELS) / np.prod(images.shape[1:])


def _fit(features: Floats, labels: NDArray[np.int64], groups: NDArray[np.object_], seed: int) -> BaseEstimator:
    """Logistic regression, its strength chosen by grouped cross-validation where the groups allow one."""
    model = make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cholesky"))
    folds = min(FOLDS, *(len(np.unique(groups[labels == one])) for one in (0, 1)))
    if folds < 2:
        return model.fit(features, labels)
    splits = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(features, labels, groups)
    usable = [pair for pair in splits if all(len(np.unique(labels[side])) == 2 for side in pair)]
    if not usable:
        return model.fit(features, labels)
    search = GridSearchCV(model, {"logisticregression__C": STRENGTHS}, scoring="roc_auc", cv=usable)
    return search.fit(features, labels)
