"""Binary classification metrics from scores and a threshold, for many weightings of the same images at once.

A weighting is a row of a matrix ``weights`` [B, N]: how often each image counts, e.g. its multiplicity in a bootstrap
replicate. All functions are vectorised over B. With whole-number weights every count is exact in float64, so that
results do not depend on how the linear algebra library splits its sums.

Conventions: label 1 is the positive class; an image is called positive when ``score >= threshold``; scores are
probabilities of the positive class. A metric whose definition divides by zero is NaN here (``null`` in JSON):
sensitivity, F1, AUROC and AUPRC without positives, specificity and AUROC without negatives, kappa where labels and
predictions are all of one and the same class, PPV where nothing is called positive, NPV where nothing is called
negative. Kappa of a constant prediction on both classes is 0, F1 of a classifier that never says positive is 0.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypedDict, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from radtransfer.errors import RadtransferError

Floats = NDArray[np.float64]
Metric = Literal[
    "accuracy",
    "f1",
    "kappa",
    "auroc",
    "sensitivity",
    "specificity",
    "ece",
    "auprc",
    "brier",
    "ppv",
    "npv",
    "calibration_slope",
]
METRICS: tuple[Metric, ...] = get_args(Metric)
RESAMPLED: tuple[Metric, ...] = METRICS[:-1]
"""What :func:`evaluate_scores` gives; the calibration slope has a module of its own (``calibration_slope``)."""
BINS = 10
_INNER_EDGES = np.linspace(0, 1, BINS + 1)[1:-1]


class Confusion(TypedDict):
    """Images by label and prediction: true positives, false negatives, true negatives, false positives."""

    tp: int
    fn: int
    tn: int
    fp: int


class Roc(TypedDict):
    """Points of a ROC curve, from (0, 0) to (1, 1); ``thresholds`` is finite throughout and falls."""

    fpr: list[float]
    tpr: list[float]
    thresholds: list[float]


class ReliabilityBin(TypedDict):
    """A bin of scores: mean score, fraction of positives, number of images (at least 1)."""

    predicted: float
    observed: float
    n: int


class Scored(NamedTuple):
    """Scores of one test of all images, each by one and the same model or by the model of its fold.

    Attributes:
        scores: [N], probabilities.
        threshold: of the classifier; or [N], each image's own.
        folds: [N] the model that scored each image; None: one model scored all.
    """

    scores: Floats
    threshold: float | Floats
    folds: NDArray[np.intp] | None = None


def check(labels: ArrayLike, scores: ArrayLike, what: str) -> tuple[NDArray[np.bool_], Floats]:
    """Labels as booleans and scores as float64, both [N].

    Args:
        labels: 0 or 1 each.
        scores: probabilities in [0, 1].
        what: whose they are, for the error.

    Raises:
        RadtransferError: empty, of different lengths, or a value out of range.
    """
    y, s = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if y.ndim != 1 or y.shape != s.shape or not len(y):
        raise RadtransferError(f"{what}: expected as many scores as labels, got {s.shape} and {y.shape}")
    if not np.isin(y, (0, 1)).all():
        raise RadtransferError(f"{what}: labels must be 0 or 1, found {sorted(set(np.unique(y)) - {0, 1})}")
    if not ((s >= 0) & (s <= 1)).all():
        raise RadtransferError(f"{what}: {(~((s >= 0) & (s <= 1))).sum()} scores are not probabilities in [0, 1]")
    return y.astype(bool), s


def confusion(labels: ArrayLike, scores: ArrayLike, threshold: float) -> Confusion:
    """Counts of a confusion matrix at ``score >= threshold``."""
    y, predicted = np.asarray(labels, dtype=bool), np.asarray(scores) >= threshold
    return Confusion(
        tp=int((y & predicted).sum()),
        fn=int((y & ~predicted).sum()),
        tn=int((~y & ~predicted).sum()),
        fp=int((~y & predicted).sum()),
    )


def from_confusion(tp: ArrayLike, fn: ArrayLike, tn: ArrayLike, fp: ArrayLike) -> dict[Metric, Floats]:
    """Accuracy, F1 of the positive class, Cohen's kappa, sensitivity and specificity from (weighted) counts.

    Kappa is Cohen (1960): (observed - chance agreement) / (1 - chance agreement).
    """
    tp, fn, tn, fp = (np.asarray(count, dtype=np.float64) for count in (tp, fn, tn, fp))
    positives, negatives = tp + fn, tn + fp
    total = positives + negatives
    # (observed - chance) / (1 - chance), both multiplied by total**2 and simplified, so that whole counts stay exact
    agreement = 2 * (tp * tn - fn * fp)
    disagreement = positives * (fn + tn) + (tp + fp) * negatives
    return {
        "accuracy": _ratio(tp + tn, total),
        "f1": np.where(positives > 0, _ratio(2 * tp, 2 * tp + fp + fn), np.nan),
        "kappa": _ratio(agreement, disagreement),
        "sensitivity": _ratio(tp, positives),
        "specificity": _ratio(tn, negatives),
    }


def predictive(sensitivity: Floats, specificity: Floats, prevalence: float | Floats) -> tuple[Floats, Floats]:
    """Positive and negative predictive value at a prevalence, by Bayes' theorem."""
    called = prevalence * sensitivity + (1 - prevalence) * (1 - specificity)
    cleared = (1 - prevalence) * specificity + prevalence * (1 - sensitivity)
    return _ratio(prevalence * sensitivity, called), _ratio((1 - prevalence) * specificity, cleared)


def auroc(labels: NDArray[np.bool_], scores: Floats, weights: Floats, folds: NDArray[np.intp] | None = None) -> Floats:
    """Area under the ROC curve [B]: the chance that a positive scores above a negative, ties counting one half.

    Args:
        labels: [N].
        scores: [N].
        weights: [B, N].
        folds: [N] the fold of each image, where each fold was scored by a model of its own: only pairs within a fold
            count, since the scores of two models differ in level. None: all pairs.
    """
    counted = [_ordered_pairs(*ranked) for ranked in _ranked(labels, scores, weights, folds)]
    return _ratio(np.sum([wins for wins, _ in counted], axis=0), np.sum([pairs for _, pairs in counted], axis=0))


def _ranked(
    labels: NDArray[np.bool_], scores: Floats, weights: Floats, folds: NDArray[np.intp] | None
) -> list[tuple[Floats, Floats]]:
    """For each fold the weight of positives and of negatives at each distinct score [V, B], from low to high."""
    parts = [slice(None)] if folds is None else [np.flatnonzero(folds == one) for one in np.unique(folds)]
    found = []
    for part in parts:
        order = np.argsort(scores[part], kind="stable")
        ordered = scores[part][order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        positive = labels[part][order]
        by_rank = weights[:, part].T[order]  # [N, B]: one row per image makes the sums below run along memory
        positives = by_rank * positive[:, None]
        negatives = by_rank * ~positive[:, None]
        if len(starts) < len(order):
            positives, negatives = np.add.reduceat(positives, starts), np.add.reduceat(negatives, starts)
        found.append((positives, negatives))
    return found


def _ordered_pairs(positives: Floats, negatives: Floats) -> tuple[Floats, Floats]:
    """How many pairs of a positive and a negative are in order, and how many there are [B each]."""
    below_or_equal = np.cumsum(negatives, axis=0)
    total_negatives = below_or_equal[-1].copy()
    below_or_equal -= negatives / 2
    wins = np.einsum("vb,vb->b", positives, below_or_equal)
    return wins, positives.sum(axis=0) * total_negatives


def _summed_precision(positives: Floats, negatives: Floats) -> Floats:
    """Sum over positives of the precision at their own score [B]."""
    called = np.cumsum(positives[::-1], axis=0)
    precision = np.cumsum(negatives[::-1], axis=0)
    precision += called
    np.divide(called, precision, out=precision, where=precision > 0)
    return np.asarray(np.einsum("vb,vb->b", positives[::-1], precision), dtype=np.float64)


def evaluate_scores(
    labels: NDArray[np.bool_],
    scores: Floats,
    threshold: float | Floats,
    weights: Floats,
    folds: NDArray[np.intp] | None = None,
    prevalence: float | None = None,
) -> tuple[dict[Metric, Floats], Floats]:
    """All of :data:`RESAMPLED` for each weighting.

    ECE is the expected calibration error of Guo et al. (2017, equation 3) taken for the binary probability of the
    positive class: ten bins of equal width, open below and closed above, (0, 0.1], ..., (0.9, 1] (0 joins the first);
    the sum over bins of |mean score - fraction of positives| weighted by the bin's share of the images.
    AUPRC is the average precision: the mean over positives of the precision at their own score, without interpolation
    (Davis and Goadrich 2006). Brier (1950) is the mean squared difference of score and label.

    Args:
        labels: [N].
        scores: [N], probabilities.
        threshold: calls an image positive from here up; one for all, or [N] where models of their own scored them.
        weights: [B, N], not negative, no row all zero.
        folds: for AUROC and AUPRC, which look at pairs and precisions within a fold, see :func:`auroc`; every other
            metric counts all images together.
        prevalence: share of positives for which PPV and NPV are given; None: that of the images as weighted.

    Returns:
        The metrics, [B] each, NaN where undefined; and the calibration gaps [B, 10], per bin the share-weighted
        difference of mean score and fraction of positives, whose absolute values add up to the ECE.
    """
    predicted = scores >= threshold
    columns = np.zeros((len(scores), 5 + BINS))
    columns[:, 0] = labels & predicted
    columns[:, 1] = labels
    columns[:, 2] = ~labels & ~predicted
    columns[:, 3] = 1
    columns[:, 4] = (scores - labels) ** 2
    columns[np.arange(len(scores)), 5 + _bin(scores)] = scores - labels
    sums = weights @ columns
    tp, positives, tn, total, squares = sums[:, :5].T
    gaps = sums[:, 5:] / total[:, None]
    values = from_confusion(tp, positives - tp, tn, total - positives - tn)
    if prevalence is None:
        values["ppv"], values["npv"] = _ratio(tp, tp + total - positives - tn), _ratio(tn, tn + positives - tp)
    else:
        values["ppv"], values["npv"] = predictive(values["sensitivity"], values["specificity"], prevalence)
    wins, pairs, precision = np.zeros((3, len(weights)))
    for by_score in _ranked(labels, scores, weights, folds):
        in_order, there = _ordered_pairs(*by_score)
        wins, pairs, precision = wins + in_order, pairs + there, precision + _summed_precision(*by_score)
    values |= {"auroc": _ratio(wins, pairs), "auprc": _ratio(precision, positives)}
    values |= {"ece": np.abs(gaps).sum(axis=1), "brier": squares / total}
    return {metric: values[metric] for metric in RESAMPLED}, gaps


def roc(labels: NDArray[np.bool_], scores: Floats) -> Roc | None:
    """ROC curve without the points that lie on a straight line between others; ``None`` if a class is missing.

    scikit-learn's first threshold is infinite; here it is the next number above the highest score, which also calls
    nothing positive and can be written to JSON and handed to the KFP UI.
    """
    from sklearn.metrics import roc_curve  # training needs this module's AUROC, but not a second of imports

    if labels.all() or not labels.any():
        return None
    fpr, tpr, thresholds = roc_curve(labels, scores)
    thresholds[0] = np.nextafter(scores.max(), np.inf)
    return Roc(fpr=_rounded(fpr), tpr=_rounded(tpr), thresholds=[float(value) for value in thresholds])


def reliability(labels: NDArray[np.bool_], scores: Floats) -> list[ReliabilityBin]:
    """The bins of the ECE that hold an image, from low to high scores."""
    bins = _bin(scores)
    return [
        ReliabilityBin(
            predicted=round(float(scores[bins == one].mean()), 6),
            observed=round(float(labels[bins == one].mean()), 6),
            n=int((bins == one).sum()),
        )
        for one in np.unique(bins)
    ]


def _bin(scores: Floats) -> NDArray[np.intp]:
    return np.asarray(np.digitize(scores, _INNER_EDGES, right=True), dtype=np.intp)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    undefined = np.full(np.shape(denominator), np.nan)
    return np.asarray(np.divide(numerator, denominator, out=undefined, where=denominator > 0), dtype=np.float64)


def _rounded(values: Floats) -> list[float]:
    return [round(float(value), 6) for value in values]
