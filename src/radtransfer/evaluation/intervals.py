"""95 % bootstrap intervals that resample leakage groups, the same resamples for everything that is compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from radtransfer.errors import RadtransferError
from radtransfer.evaluation.metrics import METRICS, Floats, Metric, evaluate_scores

LEVEL = 0.95
DIGITS = 10  # what is written is rounded here: below any meaning, above the last-bit noise of linear algebra libraries


class Interval(NamedTuple):
    """A metric's value and the ends of its 95 % interval; ``None`` where undefined."""

    value: float | None
    low: float | None
    high: float | None


class Measured(NamedTuple):
    """One set of scores, measured: ``intervals`` per metric, and ``replicates`` [B] per metric for paired tests."""

    intervals: dict[Metric, Interval]
    replicates: dict[Metric, Floats]


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


def resample(groups: ArrayLike, labels: ArrayLike, replicates: int, seed: int) -> Floats:
    """How often each image counts in each bootstrap replicate [B, N], whole numbers.

    Groups are drawn with replacement, as many as there are; the images of a group come together (Davison and
    Hinkley 1997, section 3.8, "strategy 1": cases are the groups). A replicate without one of the classes has no AUROC
    and is drawn again, so the intervals are conditional on both classes being there; where the images themselves lack
    a class, nothing is drawn again.

    Args:
        groups: leakage group of each image.
        labels: 0 or 1 each.
        replicates: number of replicates B.
        seed: of the draws; the same arguments give the same replicates.

    Raises:
        RadtransferError: no images, or all are one group (then nothing varies between replicates).
    """
    y = np.asarray(labels, dtype=bool)
    names, group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(names) < 2:
        raise RadtransferError(
            f"the test split has {len(names)} leakage group(s); an interval needs at least two: "
            "raise test_fraction or use more images"
        )
    positives = np.bincount(group, weights=y, minlength=len(names))
    negatives = np.bincount(group, weights=~y, minlength=len(names))
    both = bool(y.any() and not y.all())
    rng = np.random.default_rng(seed)
    counts = np.empty((replicates, len(names)))
    missing = np.arange(replicates)
    while len(missing):
        counts[missing] = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=len(missing))
        lacks = (counts @ positives == 0) | (counts @ negatives == 0)
        missing = np.flatnonzero(lacks) if both else np.empty(0, dtype=np.intp)
    return counts[:, group]


def measure(labels: NDArray[np.bool_], scores: Floats, threshold: float, weights: Floats) -> Measured:
    """Value and 95 % interval of every metric of one classifier on all images; see :func:`measure_tests`.

    Args:
        labels: [N].
        scores: [N], probabilities.
        threshold: of this classifier.
        weights: [B, N] from :func:`resample`.
    """
    return measure_tests(labels, [Scored(scores, threshold)], weights)


def measure_tests(labels: NDArray[np.bool_], tests: Sequence[Scored], weights: Floats) -> Measured:
    """Value and 95 % interval of every metric, each the mean over several tests of the same images.

    Several tests are the repeats of a cross-fitting. A replicate draws groups once and weights them alike in every
    repeat and fold, since an image is no more of a sample for being tested again. AUROC is stratified by fold: of all
    pairs of a positive and a negative that one model scored, the share in order. Scores of different models differ in
    level, so pairs across folds say nothing of either and bias the AUROC, mostly downwards (Parker, Günter and Bedo,
    BMC Bioinformatics 8:326, 2007; Forman and Scholz, SIGKDD Explorations 12(1), 2010; Airola et al., Computational
    Statistics and Data Analysis 55, 2011); unlike the mean of the folds' own AUROCs it stands where a replicate leaves
    a fold without positives, and with one fold it is the ordinary AUROC. The other metrics count all images of a test,
    each called at the threshold of the model that scored it.

    What the intervals do not cover: models of the folds share most of their training images, so that no unbiased
    estimate of the variance from training and splits can be had from one cross-fitting (Bengio and Grandvalet, Journal
    of Machine Learning Research 5, 2004). They cover which groups were drawn, for the models as trained.

    Percentile intervals (Efron 1979; Davison and Hinkley 1997, section 5.3), but for the ECE. Its resamples carry the
    noise of the bins twice and lie above it: in simulations of 300 images, percentile intervals covered the true ECE
    in 0 % (calibrated scores) to 78 % of data sets. Its lower end is therefore value - q, where q is the 97.5 %
    quantile of the L1 distance between a replicate's calibration gaps and the observed ones (its mean over the tests):
    by the triangle inequality the true ECE lies below that only where the distance of the true gaps exceeds q. The
    upper end is the percentile one. Covered: 96 to 100 %.

    Args:
        labels: [N].
        tests: at least one; each scores all N images.
        weights: [B, N] from :func:`resample`.

    Returns:
        The intervals; and the replicates of each metric, NaN where undefined.
    """
    once = np.ones((1, len(labels)))
    points: list[dict[Metric, Floats]] = []
    replicated: list[dict[Metric, Floats]] = []
    distances = []
    for scores, threshold, folds in tests:
        point, gaps = evaluate_scores(labels, scores, threshold, once, folds)
        replicates, replicated_gaps = evaluate_scores(labels, scores, threshold, weights, folds)
        points.append(point)
        replicated.append(replicates)
        distances.append(np.abs(replicated_gaps - gaps).sum(axis=1))
    values = {metric: float(np.mean([point[metric][0] for point in points])) for metric in METRICS}
    means: dict[Metric, Floats] = {metric: np.mean([one[metric] for one in replicated], axis=0) for metric in METRICS}
    intervals = {metric: percentile(values[metric], means[metric]) for metric in METRICS}
    ece = values["ece"]
    low = max(0.0, ece - float(np.quantile(np.mean(distances, axis=0), (1 + LEVEL) / 2)))
    high = max(ece, float(np.quantile(means["ece"], (1 + LEVEL) / 2)))
    intervals["ece"] = Interval(*(round(end, DIGITS) for end in (ece, low, high)))
    return Measured(intervals, means)


def percentile(value: float, replicates: Floats) -> Interval:
    """Percentile interval; all ``None`` where the value is undefined, ends ``None`` where a replicate is."""
    if np.isnan(value):
        return Interval(None, None, None)
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    ends = (None if np.isnan(end) else round(float(end), DIGITS) for end in (low, high))
    return Interval(round(value, DIGITS), *ends)
