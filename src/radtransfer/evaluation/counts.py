"""Right and wrong calls counted by group of images, and what a jackknife over the groups says of kappa and F1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from radtransfer.evaluation.metrics import Floats, Scored, from_confusion
from radtransfer.evaluation.proportions import Share, wilson
from radtransfer.evaluation.quantiles import of_groups


class Counts(NamedTuple):
    """Calls of T tests of the same images.

    Attributes:
        table: [T, G, 4] true positives, false negatives, true negatives, false positives of each group.
        right: [N] share of the tests in which each image was called right.
        group: [N] number of the group of each image.
    """

    table: Floats
    right: Floats
    group: NDArray[np.intp]


def from_tests(labels: NDArray[np.bool_], tests: Sequence[Scored], group: NDArray[np.intp]) -> Counts:
    """Count the calls of each test, each image at the threshold of the model that scored it."""
    size = int(group.max()) + 1
    tables, right = [], []
    for scores, threshold, _ in tests:
        called = scores >= threshold
        cells = (labels & called, labels & ~called, ~labels & ~called, ~labels & called)
        tables.append(np.stack([np.bincount(group, cell, size) for cell in cells], axis=1))
        right.append(called == labels)
    return Counts(np.array(tables), np.mean(right, axis=0), group)


def jackknife(counts: Counts, metric: Literal["kappa", "f1"]) -> Share | None:
    """Kappa or F1, the mean over the tests, with a 95 % interval by leaving out one group after another.

    The variance is that of Efron and Stein (Annals of Statistics 9, 1981); the quantile is Student's with one degree of
    freedom less than the groups that hold the class that fewer groups hold, since what varies is mostly theirs. Ends
    stay within the metric's range.

    Where all calls are right, no group left out changes anything. Then the lower end is the metric at the lower end of
    the accuracy's interval, half of the errors being missed and half false alarms. Where one group holds all images of
    a class, or the metric is undefined without some group, the interval is the metric's whole range.

    Returns:
        None where the metric is undefined.
    """
    totals = counts.table.sum(axis=1)  # [T, 4]
    values = from_confusion(*totals.T)[metric]
    if np.isnan(values).any():
        return None
    value = float(values.mean())
    lowest = -1.0 if metric == "kappa" else 0.0
    if (counts.right == 1).all():
        return Share(value, max(lowest, _without_errors(counts, metric)), value)
    without = totals[:, None] - counts.table  # [T, G, 4]
    replicates = from_confusion(*np.moveaxis(without, -1, 0))[metric].mean(axis=0)
    groups = len(replicates)
    positive, negative = counts.table[0, :, :2].sum(axis=1) > 0, counts.table[0, :, 2:].sum(axis=1) > 0
    few = min(int(positive.sum()), int(negative.sum()))
    if np.isnan(replicates).any() or few < 2:
        return Share(value, lowest, 1.0)
    variance = (groups - 1) / groups * float(((replicates - replicates.mean()) ** 2).sum())
    half = of_groups(few) * np.sqrt(variance)
    return Share(value, max(lowest, float(value - half)), min(1.0, float(value + half)))


def _without_errors(counts: Counts, metric: Literal["kappa", "f1"]) -> float:
    """The metric at the lower end of the accuracy."""
    accuracy = wilson(counts.right, np.ones(len(counts.right)), counts.group)
    positive = float(counts.table[0, :, :2].sum() / counts.table[0].sum())
    errors = 1 - (accuracy.low if accuracy else 0.0)
    if metric == "f1":
        return 2 * (positive - errors / 2) / (2 * positive) if positive else 0.0
    return 1 - errors / (2 * positive * (1 - positive)) if 0 < positive < 1 else -1.0
