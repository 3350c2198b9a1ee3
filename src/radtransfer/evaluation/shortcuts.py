"""What a shortcut would score: the majority class, and classifiers on the grey-level histogram and on metadata alone.

A model that does not clear these has not been shown to see more than how often the classes occur, how images were
exposed, windowed and framed, or which device and archive they came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from radtransfer.errors import RadtransferError
from radtransfer.evaluation.metrics import Floats
from radtransfer.fusion.calibration import Method, fit_calibration
from radtransfer.fusion.scoring import raw_score
from radtransfer.fusion.threshold import Rule
from radtransfer.preprocess.store import Store

LEVELS = 32
FOLDS = 5
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)


@dataclass(frozen=True)
class Shortcut:
    """A shortcut's answers.

    Attributes:
        name: ``majority_class``, ``grey_level_histogram`` or ``image_metadata``.
        classifier: ``majority`` or ``logistic_regression``.
        scores: probability of the positive class for the test images [T], in the order of ``store.rows("test")``.
        threshold: an image is called positive from here up.
    """

    name: str
    classifier: str
    scores: Floats
    threshold: float


def shortcuts(store: Store, seed: int, calibration: Method, rule: Rule) -> list[Shortcut]:
    """Fit all shortcuts on train and validation labels and apply them to the test images.

    Args:
        store: the target's image store; the labels of its test rows are not looked at.
        seed: of the cross-validation folds.
        calibration, rule: those of the candidates.

    Raises:
        RadtransferError: train or validation lacks a class.
    """
    rows = {split: store.rows(split) for split in ("train", "validation", "test")}
    labels = {split: store.manifest["label"].iloc[rows[split]].to_numpy(np.int64) for split in ("train", "validation")}
    for split, found in labels.items():
        if len(np.unique(found)) < 2:
            raise RadtransferError(
                f"{store.artifact.path}: split {split!r} ({len(found)} images) lacks a class; make the store with more "
                "images or other fractions"
            )
    groups = store.manifest["group_id"].iloc[rows["train"]].to_numpy()

    def learnt(name: str, features: Floats) -> Shortcut:
        """Fitted on the training images; calibration and threshold from the validation images."""
        model = _fit(features[rows["train"]], labels["train"], groups, seed)
        raw = raw_score(model, features[rows["validation"]])
        fitted = fit_calibration(raw, labels["validation"], calibration)
        threshold = rule(fitted(raw), labels["validation"])
        scores = fitted(raw_score(model, features[rows["test"]]))
        return Shortcut(name, "logistic_regression", scores, threshold)

    share = float(labels["train"].mean())
    return [
        Shortcut("majority_class", "majority", np.full(len(rows["test"]), share), 0.5),
        learnt("grey_level_histogram", histograms(store.images, np.arange(len(store.images)))),
        learnt("image_metadata", metadata(store.manifest)),
    ]


def histograms(images: NDArray[np.uint8], rows: NDArray[np.intp]) -> Floats:
    """Share of each of 32 equal ranges of grey levels in the stored images [len(rows), 32].

    The black margins that fill an image up to a square count too: the shape of the original is a shortcut as well.
    """
    width = 256 // LEVELS
    counts = [np.bincount(np.asarray(images[row]).ravel() // width, minlength=LEVELS) for row in rows]
    return np.asarray(counts, dtype=np.float64).reshape(-1, LEVELS) / np.prod(images.shape[1:])


def metadata(manifest: pd.DataFrame) -> Floats:
    """What is known of the images without looking at them [N, D].

    Logarithms of width and height, the kind of file, and what had to be repaired or cropped away (``flags``), a column
    each.

    Args:
        manifest: of a store, [N] rows.
    """
    sides = np.log(manifest[["width", "height"]].to_numpy(np.float64))
    kind = manifest["source_file"].map(lambda name: Path(name).suffix.lower())
    flags = manifest["flags"].map(set)
    columns = [kind == one for one in sorted(set(kind))]
    columns += [flags.map(lambda has, flag=flag: flag in has) for flag in sorted(set().union(*flags))]
    return np.column_stack([sides, *(column.to_numpy(np.float64) for column in columns)])


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
