"""From a fitted classifier to a calibrated probability: one path for the run's table and for prediction."""

from __future__ import annotations

import io
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from radtransfer.errors import RadtransferError

Floats = NDArray[np.float64]

PROBABILITY_CLIP = 1e-3
"""Votes and neighbours give probabilities of exactly 0 and 1; their logit is taken after clipping to this range."""

MIN_SLOPE = 1e-3
"""Least slope of a calibration, per standard deviation of the raw score."""

ALLOWED_TYPES = frozenset(
    {
        "radtransfer.fusion.blocks.BlockScaler",
        "radtransfer.fusion.classifiers.LinearSVM",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.feature_selection._univariate_selection.f_classif",
        "sklearn.tree._tree.Tree",
    }
)
"""Types beyond skops' own list of safe ones that a classifier file may hold: numbers with arithmetic on them."""

MAX_UNPACKED_BYTES = 2**30
"""A classifier file that unpacks to more than this is refused."""


@dataclass(frozen=True)
class Calibration:
    """p = sigmoid(slope * raw + intercept), with slope > 0, so that the order of the scores never changes."""

    slope: float
    intercept: float

    def carried(self, before: NDArray[np.floating[Any]], after: NDArray[np.floating[Any]]) -> Calibration:
        """The calibration of a network that was trained anew, whose logits may be shifted and scaled.

        Both fits have learnt the same images in the same way; that mean and standard deviation of their logits over
        these are the same is what the new calibration sees to. No label is used.

        Args:
            before: [N] logits of the network that this calibration is of, for images that both have learnt.
            after: [N] those of the new one.
        """
        spread = float(np.std(after))
        scale = float(np.std(before)) / spread if spread > 0 else 1.0
        shift = float(np.mean(before)) - scale * float(np.mean(after))
        return Calibration(self.slope * scale, self.intercept + self.slope * shift)


def raw_score(estimator: Any, features: NDArray[np.floating[Any]]) -> Floats:
    """Uncalibrated score of the positive class, in units of a logit or of a margin.

    Args:
        estimator: fitted binary scikit-learn classifier with classes 0 and 1.
        features: [N, D].

    Returns:
        float64 [N]: the decision function where there is one, else the logit of the clipped probability.
    """
    values = np.asarray(features, np.float64)
    if hasattr(estimator, "decision_function"):
        return np.asarray(estimator.decision_function(values), np.float64)
    probability = estimator.predict_proba(values)[:, 1]
    return np.asarray(logit(np.clip(probability, PROBABILITY_CLIP, 1 - PROBABILITY_CLIP)), np.float64)


def calibrate(raw: NDArray[np.floating[Any]], slope: float, intercept: float) -> Floats:
    """Calibrated probability of the positive class, float64 [N] in 0..1, from raw scores [N]."""
    return np.asarray(expit(slope * np.asarray(raw, np.float64) + intercept), np.float64)


def fit_calibration(raw: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]]) -> Calibration:
    """Platt scaling: a logistic regression of the label on the raw score.

    The targets are Platt's smoothed ones, (N+ + 1) / (N+ + 2) and 1 / (N- + 2), which keep the slope finite when the
    scores separate the classes. Raw scores that do not order the classes (constant ones, or the wrong way round) get
    the small slope :data:`MIN_SLOPE` and the intercept of the class share: an honest "cannot tell" that still keeps
    the order.

    Source: Platt, Probabilistic outputs for support vector machines (1999), section 2.2.

    Args:
        raw: [N], finite.
        labels: [N], 0 or 1, both present.
    """
    values = np.asarray(raw, np.float64)
    positives = int(np.sum(labels))
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2))
    centre, spread = float(values.mean()), float(values.std())
    if spread <= 1e-12 * max(1.0, abs(centre)):
        spread = 1.0
    scaled = (values - centre) / spread
    # Soft targets as a weighted pair of rows, one per class.
    model = LogisticRegression(C=1e4, solver="newton-cholesky", tol=1e-8)
    model.fit(
        np.concatenate([scaled, scaled])[:, None],
        np.repeat([1, 0], len(values)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    if not slope >= MIN_SLOPE:
        slope, intercept = MIN_SLOPE, float(logit(target.mean()))
    return Calibration(slope / spread, intercept - slope * centre / spread)


def youden_threshold(probability: Floats, labels: NDArray[np.integer[Any]]) -> float:
    """Threshold t that maximises sensitivity + specificity - 1 for the rule "positive if p >= t".

    Any t between two neighbouring scores is as good as any other: the midpoint is taken. Of several such gaps with an
    equal index the lowest is taken (the higher sensitivity). Scores that carry nothing (no gap has an index above 0)
    get 0.5. Source: Youden, Cancer 3 (1950) 32-35.

    Args:
        probability: [N] in 0..1.
        labels: [N], 0 or 1, both present.
    """
    levels, position = np.unique(probability, return_inverse=True)
    positive = np.bincount(position, weights=labels == 1, minlength=len(levels))
    negative = np.bincount(position, weights=labels == 0, minlength=len(levels))
    # Index of the cut above level i, for all but the highest level.
    youden = (np.cumsum(negative) / negative.sum() - np.cumsum(positive) / positive.sum())[:-1]
    if len(youden) == 0 or youden.max() <= 1e-12:
        return 0.5
    cut = int(np.flatnonzero(youden >= youden.max() - 1e-12)[0])
    low, high = float(levels[cut]), float(levels[cut + 1])
    middle = low + (high - low) / 2
    return middle if middle > low else high


def file_name(name: str) -> str:
    """``name`` as a file name: what is not a letter, digit, dot, dash or underscore becomes an underscore."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def save_classifier(estimator: Any, path: Path) -> None:
    """Write a fitted estimator with skops, such that equal estimators give equal bytes.

    skops names its parts by memory address and stamps them with the time; both are replaced by what repeats.
    """
    import skops.io  # it imports torch, which scoring alone does not need

    packed = zipfile.ZipFile(io.BytesIO(skops.io.dumps(estimator)))
    schema = json.loads(packed.read("schema.json"))
    numbers: dict[int, int] = {}
    files: dict[str, str] = {}

    def renumber(node: Any) -> Any:
        if isinstance(node, list):
            return [renumber(item) for item in node]
        if not isinstance(node, dict):
            return node
        renumbered = {key: renumber(item) for key, item in node.items()}
        if isinstance(node.get("__id__"), int):
            renumbered["__id__"] = numbers.setdefault(node["__id__"], len(numbers) + 1)
        if isinstance(node.get("file"), str):
            renumbered["file"] = files.setdefault(node["file"], f"{len(files)}{Path(node['file']).suffix}")
        return renumbered

    members = {"schema.json": json.dumps(renumber(schema)).encode()}
    members |= {new: packed.read(old) for old, new in files.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)


def load_classifier(path: Path) -> Any:
    """Load an estimator written by :func:`save_classifier`; nothing but numbers and known estimators is built.

    Raises:
        RadtransferError: not a skops file, too large, or it holds a type outside the allow-list.
    """
    import skops.io

    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_UNPACKED_BYTES:
            raise RadtransferError(f"{path}: unpacks to {size} bytes, more than the {MAX_UNPACKED_BYTES} allowed")
        foreign = sorted(set(skops.io.get_untrusted_types(file=path)) - ALLOWED_TYPES)
        if foreign:
            raise RadtransferError(
                f"{path}: holds the type {foreign[0]}, which no classifier of radtransfer has; do not use this file"
            )
        return skops.io.load(path, trusted=sorted(ALLOWED_TYPES))
    except RadtransferError:
        raise
    except FileNotFoundError:
        raise RadtransferError(f"{path}: no such file") from None
    except Exception as error:  # skops raises whatever a malformed file leads to
        raise RadtransferError(f"{path}: not a classifier that can be loaded ({error})") from None
