"""The calibration slope: how far scores spread compared with what they are worth.

The slope of a logistic regression of the label on the logit of the score (Cox, Biometrika 45, 1958; Van Calster et al.,
BMC Medicine 17:230, 2019): 1 where the spread is right, below 1 where scores are too extreme, above 1 where they are
too timid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from radtransfer.evaluation.metrics import Floats, Scored
from radtransfer.evaluation.proportions import Share
from radtransfer.evaluation.quantiles import of_groups

_EDGE = 1e-6
"""Scores are moved this far away from 0 and 1, whose logits are infinite."""
_SAME = 1e-9
"""Logits that differ by less, as a share of their size, differ by rounding alone."""


def slope(labels: NDArray[np.bool_], tests: Sequence[Scored], group: NDArray[np.intp]) -> Share | None:
    """Calibration slope, the mean over tests, with its 95 % interval.

    The variance is that of sums over groups of each image's influence (the "sandwich" for clusters: Liang and Zeger,
    Biometrika 73, 1986) with the factor G / (G - 1), the quantile Student's with G - 1 degrees of freedom.

    Args:
        labels: [N].
        tests: at least one; each scores all N images.
        group: [N] number of the group of each image, from 0; at least two groups.

    Returns:
        None where no slope fits best: a class is missing, all scores are equal, or one score separates the classes.
    """
    fitted = [_fit(labels, test.scores) for test in tests]
    known = [one for one in fitted if one is not None]
    if len(known) < len(fitted):
        return None
    value = float(np.mean([slope for slope, _ in known]))
    sums = np.bincount(group, np.mean([influence for _, influence in known], axis=0))
    groups = len(sums)
    error = np.sqrt(groups / (groups - 1) * float(sums @ sums))
    half = float(of_groups(groups) * error)
    return Share(value, value - half, value + half)


def _fit(labels: NDArray[np.bool_], scores: Floats) -> tuple[float, Floats] | None:
    """The slope and each image's influence on it [N], by Newton's method; None where no slope fits best."""
    if labels.all() or not labels.any():
        return None
    clipped = np.clip(scores, _EDGE, 1 - _EDGE)
    logit = np.log(clipped / (1 - clipped))
    spread = float(logit.std())
    if spread <= _SAME * max(1.0, float(np.abs(logit).max())):
        return None
    positive, negative = logit[labels], logit[~labels]
    if negative.max() <= positive.min() or positive.max() <= negative.min():
        return None
    design = np.stack([np.ones(len(logit)), (logit - logit.mean()) / spread], axis=1)
    coefficients = np.zeros(2)
    loss = _loss(design @ coefficients, labels)
    for _ in range(100):
        chances = 1 / (1 + np.exp(-(design @ coefficients)))
        score = (labels - chances)[:, None] * design
        information = (design * (chances * (1 - chances))[:, None]).T @ design
        step = np.linalg.solve(information, score.sum(axis=0))
        while (tried := _loss(design @ (coefficients + step), labels)) > loss + 1e-12 and np.abs(step).max() > 1e-12:
            step /= 2
        coefficients, loss = coefficients + step, tried
        if np.abs(step).max() <= 1e-9 * (1 + np.abs(coefficients).max()):
            break
    return float(coefficients[1]) / spread, score @ np.linalg.inv(information)[:, 1] / spread


def _loss(linear: Floats, labels: NDArray[np.bool_]) -> float:
    return float(np.logaddexp(0, np.where(labels, -linear, linear)).sum())
