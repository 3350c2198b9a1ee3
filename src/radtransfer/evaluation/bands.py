"""ROC and precision-recall curves with pointwise 95 % bands that resample leakage groups."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from radtransfer.evaluation.metrics import Floats

LEVEL = 0.95
GRID = np.linspace(0, 1, 51)


class Curve(NamedTuple):
    """A curve over a grid, with the ends of its band at each point.

    Attributes:
        x: false positive rate, or recall, rising from 0 to 1.
        y: true positive rate, or precision.
        low, high: ends of the 95 % band.
    """

    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]


def curves(labels: NDArray[np.bool_], scores: Floats, weights: Floats) -> dict[str, Curve]:
    """``roc`` and ``pr`` of one classifier.

    The band is pointwise: percentiles of the replicates' values at each x (Macskassy, Provost and Rosset, ICML 2005,
    call it vertical averaging), so that it covers the curve at any one x, not as a whole. A ROC curve runs straight
    between its points; precision at a recall is that of the highest threshold that reaches it, as average precision
    has it (Davis and Goadrich, ICML 2006, on why not straight).

    Args:
        labels: [N], both classes present.
        scores: [N].
        weights: [B, N] how often each image counts in each replicate, no class missing from any.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # of the images with equal scores
    y = labels[order]
    every = np.vstack([np.ones(len(scores)), weights])[:, order]
    true = np.cumsum(every * y, axis=1)[:, last]
    false = np.cumsum(every * ~y, axis=1)[:, last]
    found = {"roc": np.empty((len(every), len(GRID))), "pr": np.empty((len(every), len(GRID)))}
    for row, (tp, fp) in enumerate(zip(true, false, strict=True)):
        found["roc"][row] = np.interp(GRID, np.append(0, fp / fp[-1]), np.append(0, tp / tp[-1]))
        counted = tp + fp > 0  # images that a replicate has not drawn
        recall, precision = tp[counted] / tp[-1], tp[counted] / (tp + fp)[counted]
        found["pr"][row] = precision[np.searchsorted(recall, GRID - 1e-12)]
    return {name: _curve(values) for name, values in found.items()}


def _curve(values: Floats) -> Curve:
    """Of values [1 + B, G], the observed ones first."""
    low, high = np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Curve(*([round(float(one), 6) for one in row] for row in (GRID, values[0], low, high)))
