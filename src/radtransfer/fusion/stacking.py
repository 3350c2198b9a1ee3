"""Late fusion that learns: a logistic regression on the networks' own scores.

Networks score the images that they have learnt near 0 or 1, whatever the truth about new images: a stacker fitted on
training images would learn to trust whichever network knows them best by heart. So it is fitted on the validation
split, whose labels no network's weights have seen, and it is judged there by cross-validation: every validation
image is scored by stackers that were fitted without its group. These out-of-fold scores stand for the candidate in the
choice, in calibration and in the threshold, beside those of classifiers that were fitted on the training split. What
scores test images is one stacker fitted on the whole of validation; it had a little more to learn from than those of
the folds.

That is as honest as the scores of a network on validation, not more: early stopping looked at them too.

Sources: Wolpert, Stacked generalization, Neural Networks 5 (1992), section 2 (the level-1 learner sees out-of-sample
scores only); Breiman, Stacked regressions, Machine Learning 24 (1996).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from radtransfer.fusion.search import grouped_folds

Floats = NDArray[np.float64]

STRENGTH = 0.1
"""C of the logistic regression on standardised logits. It is fixed: a validation split is small, and this much penalty
holds the weights of networks that say nearly the same near to one another."""

REPEATS = 5
"""Cuts of the validation split into folds; an image's out-of-fold score is its mean over them."""


class Stacked(NamedTuple):
    """A stacker and its scores for the images that it was fitted on.

    Attributes:
        model: fitted logistic regression on logits [N, B].
        out_of_fold: [N] scores of these images, in units of a logit, by stackers fitted without their groups.
    """

    model: LogisticRegression
    out_of_fold: Floats


def stack(logits: Floats, labels: NDArray[np.int8], groups: NDArray[Any], folds: int, seed: int) -> Stacked | None:
    """Fit a stacker.

    Args:
        logits: [N, B] of B networks, for images that these have not learnt.
        labels: [N], 0 or 1.
        groups: [N] leakage groups, which no fold cuts.
        folds: asked for.
        seed: of the cuts.

    Returns:
        None where the groups do not allow two folds with both classes on both sides.
    """
    parts = grouped_folds(labels, groups, folds, REPEATS, seed)
    if not parts:
        return None
    out_of_fold = np.zeros(len(labels))
    for fit, held in parts:
        out_of_fold[held] += _fit(logits[fit], labels[fit]).decision_function(logits[held]) / REPEATS
    return Stacked(_fit(logits, labels), out_of_fold)


def carried(model: LogisticRegression, before: Floats, after: Floats) -> LogisticRegression:
    """The stacker for networks that were trained anew, whose logits may be shifted and scaled.

    Every network's logits are brought to the mean and standard deviation that those of its first fit had, as
    :meth:`radtransfer.fusion.scoring.Calibration.carried` does. No label is used.

    Args:
        model: stacker for the logits of the first fit.
        before: [N, B] logits of the first fit for images that both fits have learnt.
        after: [N, B] those of the second.
    """
    spread = after.std(axis=0)
    scale = np.where(spread > 0, before.std(axis=0) / np.where(spread > 0, spread, 1), 1.0)
    shift = before.mean(axis=0) - scale * after.mean(axis=0)
    return _linear(model.coef_[0] * scale, float(model.intercept_[0] + model.coef_[0] @ shift))


def _fit(logits: Floats, labels: NDArray[np.int8]) -> LogisticRegression:
    centre, spread = logits.mean(axis=0), logits.std(axis=0)
    spread[spread <= 1e-12 * np.maximum(1, np.abs(centre))] = 1.0
    model = LogisticRegression(C=STRENGTH, class_weight="balanced").fit((logits - centre) / spread, labels)
    weights = model.coef_[0] / spread
    return _linear(weights, float(model.intercept_[0] - weights @ centre))


def _linear(weights: Floats, intercept: float) -> LogisticRegression:
    """A fitted logistic regression with these weights, in units of logits."""
    model = LogisticRegression(C=STRENGTH, class_weight="balanced")
    model.classes_, model.n_features_in_ = np.array([0, 1], np.int8), len(weights)
    model.coef_, model.intercept_ = weights[None], np.array([intercept])
    return model
