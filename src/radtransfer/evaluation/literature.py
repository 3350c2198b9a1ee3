"""Published results to stand beside a run's own, where it classifies what a publication classified."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from radtransfer.evaluation.metrics import Confusion, Metric, from_confusion

METHOD = "Alammar et al., Cancers 2023, 15(15), 4007"
_TEST = "{} images of MURA's official valid folder, counted by image"
_CONFUSION: dict[tuple[str, str], Confusion] = {
    ("mura", "humerus"): {"tp": 124, "fn": 16, "tn": 129, "fp": 19},
    ("mura", "wrist"): {"tp": 227, "fn": 68, "tn": 337, "fp": 27},
}
"""By layout and body part. The publication gives accuracy, F1 and kappa alone; these are the only confusion matrices of
the official valid folder, counted by image, that have all three figures to two decimals."""


class Published(NamedTuple):
    """A published result.

    Attributes:
        where: the publication.
        test: what it was tested on, as far as it can be told.
        images: number of them.
        metrics: value, low and high of each, as in a row of ``metrics.json``; F1 has no interval.
    """

    where: str
    test: str
    images: int
    metrics: dict[Metric, dict[str, float | None]]


def published(layout: str, part: str) -> Published | None:
    """What was published for a target; None: nothing that is known here.

    Intervals of 95 %, as if the images were independent, which those of one patient are not: Wilson's for accuracy,
    sensitivity and specificity, Fleiss, Cohen and Everitt (1969) for kappa.

    Args:
        layout: of the target data set.
        part: body part of the target.
    """
    from statsmodels.stats.inter_rater import cohens_kappa
    from statsmodels.stats.proportion import proportion_confint

    matrix = _CONFUSION.get((layout, part))
    if matrix is None:
        return None
    tp, fn, tn, fp = matrix["tp"], matrix["fn"], matrix["tn"], matrix["fp"]
    images = tp + fn + tn + fp
    values = {metric: float(value) for metric, value in from_confusion(tp, fn, tn, fp).items()}
    counts = {"accuracy": (tp + tn, images), "sensitivity": (tp, tp + fn), "specificity": (tn, tn + fp)}
    ends: dict[str, tuple[Any, Any]] = {
        name: proportion_confint(*count, method="wilson") for name, count in counts.items()
    }
    kappa = cohens_kappa(np.array([[tp, fn], [fp, tn]]))
    ends["kappa"] = kappa.kappa_low, kappa.kappa_upp
    measured: dict[Metric, dict[str, float | None]] = {}
    for metric, value in values.items():
        low, high = ends.get(metric, (None, None))
        measured[metric] = {
            "value": value, "low": None if low is None else float(low), "high": None if high is None else float(high),
        }  # fmt: skip
    return Published(METHOD, _TEST.format(images), images, measured)
