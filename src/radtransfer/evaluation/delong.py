"""Variance of AUROCs and of their differences without resampling: DeLong, and its form for groups of images.

Everything rests on structural components (DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988): of a positive image
the share of negatives that score below it, of a negative one the share of positives that score above it, ties one half.
Sums of them within groups give the variance for clustered data (Obuchowski, Biometrics 53, 1997, equations 3 to 8), in
which positives and negatives of one group may depend on each other. Where every group is one image the two agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata

from radtransfer.evaluation.metrics import Floats, Scored
from radtransfer.evaluation.quantiles import NORMAL, of_groups


class Areas(NamedTuple):
    """AUROCs of K sets of scores of the same images, and the covariance of their errors.

    Attributes:
        values: [K].
        covariance: [K, K]; NaN where one group holds all images of a class.
        groups: how many groups hold the class that fewer groups hold.
    """

    values: Floats
    covariance: Floats
    groups: int


def areas(labels: NDArray[np.bool_], sets: Sequence[Sequence[Scored]], groups: ArrayLike) -> Areas:
    """AUROC of each set of scores, with the covariance that groups of images leave.

    Args:
        labels: [N], both classes.
        sets: for each set its tests; an AUROC is the mean over them, each stratified by fold (see
            :func:`radtransfer.evaluation.metrics.auroc`).
        groups: [N] leakage group of each image.
    """
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    pieces = [[_influence(labels, test) for test in tests] for tests in sets]
    values = np.array([np.mean([value for value, _ in found]) for found in pieces])
    shares = np.array([np.mean([share for _, share in found], axis=0) for found in pieces])  # [K, N]
    count = int(group.max()) + 1
    positive, negative = (
        np.array([np.bincount(group[side], one[side], count) for one in shares]) for side in (labels, ~labels)
    )
    held = [len(np.unique(group[side])) for side in (labels, ~labels)]
    crossed = positive @ negative.T
    covariance = (
        _corrected(held[0]) * positive @ positive.T
        + _corrected(held[1]) * negative @ negative.T
        + _corrected(count) * (crossed + crossed.T)
    )
    return Areas(values, covariance, min(held))


def _corrected(groups: int) -> float:
    """The factor I / (I - 1) of a variance from I groups; NaN for a single one."""
    return groups / (groups - 1) if groups > 1 else float("nan")


def _influence(labels: NDArray[np.bool_], test: Scored) -> tuple[float, Floats]:
    """AUROC within folds, and each image's part in its error [N]: its component less the mean, over its class's count.

    With folds, positives and negatives are compared within a fold only, and an image weighs as many pairs as it is in.
    """
    folds = np.zeros(len(labels), dtype=np.intp) if test.folds is None else test.folds
    wins = np.zeros(len(labels))
    pairs = np.zeros(len(labels))
    for fold in np.unique(folds):
        mine = np.flatnonzero(folds == fold)
        scores, positive = test.scores[mine], labels[mine]
        m, n = int(positive.sum()), int((~positive).sum())
        ranks = rankdata(scores)
        within = np.empty(len(mine))
        within[positive], within[~positive] = rankdata(scores[positive]), rankdata(scores[~positive])
        others = ranks - within  # images of the other class below, ties one half
        wins[mine] = np.where(positive, others, m - others)
        pairs[mine] = np.where(positive, n, m)
    total = pairs[labels].sum()
    value = float(wins[labels].sum() / total)
    return value, (wins - value * pairs) / total


def interval(value: float, variance: float, groups: int) -> tuple[float, float] | None:
    """95 % interval of an AUROC on the scale of its logit, with Student's quantile for so many groups.

    The logit keeps the ends inside (0, 1) and evens out the skew near 1 (Pepe 2003, The Statistical Evaluation of
    Medical Tests for Classification and Prediction, section 5.2); the quantile pays for the few groups that the
    variance is estimated from.

    Returns:
        The ends; None where the value is 0 or 1 or the variance is undefined.
    """
    if not (0 < value < 1 and np.isfinite(variance)) or groups < 2:
        return None
    logit = np.log(value / (1 - value))
    half = of_groups(groups) * np.sqrt(max(variance, 0.0)) / (value * (1 - value))
    low, high = 1 / (1 + np.exp(-(logit - half))), 1 / (1 + np.exp(-(logit + half)))
    return float(low), float(high)


def extreme(value: float, positives: int, negatives: int) -> tuple[float, float]:
    """95 % interval of an AUROC of 0 or 1, whose estimated variance is 0.

    All areas whose own variance, by Newcombe's method 5 (Statistics in Medicine 25, 2006), leaves the observed one
    within the interval: the ends solve (value - a)**2 = z**2 V(a).

    Args:
        value: 0 or 1; others are treated alike.
        positives, negatives: independent ones of each class; groups, where images come in groups.
    """
    grid = np.linspace(0, 1, 20_001)
    mean = (positives + negatives) / 2 - 1
    spread = grid * (1 - grid) * (1 + mean * (1 - grid) / (2 - grid) + mean * grid / (1 + grid))
    inside = grid[(value - grid) ** 2 <= NORMAL**2 * spread / (positives * negatives)]
    return float(min(inside.min(), value)), float(max(inside.max(), value))


def difference(found: Areas, a: int, b: int) -> tuple[float, float]:
    """AUROC of set ``a`` less that of ``b``, and its standard error (NaN as in :class:`Areas`)."""
    variance = found.covariance[a, a] + found.covariance[b, b] - 2 * found.covariance[a, b]
    return float(found.values[a] - found.values[b]), float(np.sqrt(max(variance, 0.0)))


def p_value(difference: float, error: float) -> float:
    """Two-sided p-value of a difference by its standard error; 1 where both are 0."""
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * norm.sf(abs(difference) / error))
