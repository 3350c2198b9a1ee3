"""95 % intervals of every metric that count leakage groups, and the resamples of groups behind them.

Which method serves which metric was chosen by how often it covers the truth: ``benchmarks/coverage.py``, with the table
and the sources in ``docs/method.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from radtransfer.errors import RadtransferError
from radtransfer.evaluation import delong
from radtransfer.evaluation.calibration_slope import slope
from radtransfer.evaluation.counts import from_tests, jackknife
from radtransfer.evaluation.metrics import (
    METRICS,
    RESAMPLED,
    Floats,
    Metric,
    Scored,
    evaluate_scores,
    predictive,
)
from radtransfer.evaluation.proportions import Share, wilson
from radtransfer.evaluation.quantiles import LEVEL

__all__ = ["DIGITS", "Interval", "Measured", "Resamples", "Scored", "Source", "measure", "measure_tests", "resample"]

DIGITS = 10  # what is written is rounded here: below any meaning, above the last-bit noise of linear algebra libraries


class Interval(NamedTuple):
    """A metric's value and the ends of its 95 % interval; ``None`` where undefined."""

    value: float | None
    low: float | None
    high: float | None


class Source(NamedTuple):
    """What was measured: labels [N], the tests of all images, and the number of the group of each image [N]."""

    labels: NDArray[np.bool_]
    tests: Sequence[Scored]
    group: NDArray[np.intp]


class Measured(NamedTuple):
    """One set of scores, measured: intervals of all metrics, replicates [B] of the resampled ones, and what it was."""

    intervals: dict[Metric, Interval]
    replicates: dict[Metric, Floats]
    source: Source


class Resamples(NamedTuple):
    """Bootstrap replicates of a set of images in groups.

    Attributes:
        weights: [B, N] how often each image counts in each replicate.
        group: [N] number of the group of each image, from 0.
    """

    weights: Floats
    group: NDArray[np.intp]


def resample(groups: ArrayLike, labels: ArrayLike, replicates: int, seed: int) -> Resamples:
    """How often each image counts in each bootstrap replicate, whole numbers.

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
    return Resamples(counts[:, group], group)


def measure(
    labels: NDArray[np.bool_], scores: Floats, threshold: float, resamples: Resamples, prevalence: float | None = None
) -> Measured:
    """Value and 95 % interval of every metric of one classifier on all images; see :func:`measure_tests`.

    Args:
        labels: [N].
        scores: [N], probabilities.
        threshold: of this classifier.
        resamples: from :func:`resample`.
        prevalence: for PPV and NPV; None: that of the images.
    """
    return measure_tests(labels, [Scored(scores, threshold)], resamples, prevalence)


def measure_tests(
    labels: NDArray[np.bool_], tests: Sequence[Scored], resamples: Resamples, prevalence: float | None = None
) -> Measured:
    """Value and 95 % interval of every metric, each the mean over several tests of the same images.

    Several tests are the repeats of a cross-fitting. A replicate draws groups once and weights them alike in every
    repeat and fold, since an image is no more of a sample for being tested again. AUROC is stratified by fold: of all
    pairs of a positive and a negative that one model scored, the share in order. Scores of different models differ in
    level, so pairs across folds say nothing of either and bias the AUROC, mostly downwards (Parker, Günter and Bedo,
    BMC Bioinformatics 8:326, 2007; Forman and Scholz, SIGKDD Explorations 12(1), 2010; Airola et al., Computational
    Statistics and Data Analysis 55, 2011); unlike the mean of the folds' own AUROCs it stands where a replicate leaves
    a fold without positives, and with one fold it is the ordinary AUROC. AUPRC is treated alike. The other metrics
    count all images of a test, each called at the threshold of the model that scored it.

    What the intervals do not cover: models of the folds share most of their training images, so that no unbiased
    estimate of the variance from training and splits can be had from one cross-fitting (Bengio and Grandvalet, Journal
    of Machine Learning Research 5, 2004). They cover which groups were drawn, for the models as trained.

    Intervals: accuracy, sensitivity and specificity by Wilson with a design effect
    (:func:`radtransfer.evaluation.proportions.wilson`); AUROC by DeLong's variance, Obuchowski's where groups hold
    several images, on the logit scale (:mod:`radtransfer.evaluation.delong`); kappa and F1 by the jackknife over groups
    (:func:`radtransfer.evaluation.counts.jackknife`); the calibration slope by a sandwich variance; AUPRC, Brier, PPV
    and NPV by percentiles of the replicates (Efron 1979; Davison and Hinkley 1997, section 5.3). The resamples of the
    ECE carry the noise of the bins twice and lie above it: in simulations of 300 images, percentile intervals covered
    the true ECE in 0 % (calibrated scores) to 78 % of data sets. Its lower end is therefore value - q, where q is the
    97.5 % quantile of the L1 distance between a replicate's calibration gaps and the observed ones (its mean over the
    tests): by the triangle inequality the true ECE lies below that only where the distance of the true gaps exceeds q.
    The upper end is the percentile one. Covered: 96 to 100 %.

    Where all calls are right no replicate varies, and percentiles would claim certainty: see :func:`_predictive` and
    :func:`radtransfer.evaluation.counts.jackknife` for what is given instead.

    Args:
        labels: [N].
        tests: at least one; each scores all N images.
        resamples: from :func:`resample`.
        prevalence: share of positives for which PPV and NPV are given; None: that of the images.

    Returns:
        The intervals; and the replicates of each resampled metric, NaN where undefined.
    """
    weights, group = resamples
    once = np.ones((1, len(labels)))
    points: list[dict[Metric, Floats]] = []
    replicated: list[dict[Metric, Floats]] = []
    distances = []
    for scores, threshold, folds in tests:
        point, gaps = evaluate_scores(labels, scores, threshold, once, folds, prevalence)
        replicates, replicated_gaps = evaluate_scores(labels, scores, threshold, weights, folds, prevalence)
        points.append(point)
        replicated.append(replicates)
        distances.append(np.abs(replicated_gaps - gaps).sum(axis=1))
    values = {metric: float(np.mean([point[metric][0] for point in points])) for metric in RESAMPLED}
    means: dict[Metric, Floats] = {metric: np.mean([one[metric] for one in replicated], axis=0) for metric in RESAMPLED}
    counts = from_tests(labels, tests, group)
    found: dict[Metric, Interval] = {
        metric: percentile(values[metric], means[metric]) for metric in ("auprc", "brier", "ppv", "npv")
    }
    shares: dict[Metric, Share | None] = {
        "accuracy": wilson(counts.right, np.ones(len(labels)), group),
        "sensitivity": wilson(counts.right, labels.astype(np.float64), group),
        "specificity": wilson(counts.right, (~labels).astype(np.float64), group),
        "kappa": jackknife(counts, "kappa"),
        "f1": jackknife(counts, "f1"),
        "calibration_slope": slope(labels, tests, group),
    }
    found |= {metric: _interval(share) for metric, share in shares.items()}
    found["auroc"] = _auroc(labels, tests, group)
    found |= _predictive(found, labels, prevalence)
    ece = values["ece"]
    low = max(0.0, ece - float(np.quantile(np.mean(distances, axis=0), (1 + LEVEL) / 2)))
    high = max(ece, float(np.quantile(means["ece"], (1 + LEVEL) / 2)))
    found["ece"] = _interval(Share(ece, low, high))
    return Measured({metric: found[metric] for metric in METRICS}, means, Source(labels, tests, group))


def mean_auroc(parts: Sequence[Measured]) -> Measured:
    """The mean AUROC of several sets of scores of the same images; no other metric.

    Args:
        parts: measured with the same resamples; one that is there twice counts twice.
    """
    labels, _, group = parts[0].source
    tests = [test for part in parts for test in part.source.tests]
    undefined: dict[Metric, Interval] = dict.fromkeys(METRICS, Interval(None, None, None))
    replicates = np.mean([part.replicates["auroc"] for part in parts], axis=0)
    return Measured(
        undefined | {"auroc": _auroc(labels, tests, group)}, {"auroc": replicates}, Source(labels, tests, group)
    )


def percentile(value: float, replicates: Floats) -> Interval:
    """Percentile interval; all ``None`` where the value is undefined, ends ``None`` where a replicate is."""
    if np.isnan(value):
        return Interval(None, None, None)
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    ends = (None if np.isnan(end) else round(float(end), DIGITS) for end in (low, high))
    return Interval(round(value, DIGITS), *ends)


def _interval(share: Share | None) -> Interval:
    return Interval(None, None, None) if share is None else Interval(*(round(end, DIGITS) for end in share))


def _auroc(labels: NDArray[np.bool_], tests: Sequence[Scored], group: NDArray[np.intp]) -> Interval:
    if labels.all() or not labels.any():
        return Interval(None, None, None)
    found = delong.areas(labels, [tests], group)
    value = float(found.values[0])
    if np.isnan(value):
        return Interval(None, None, None)
    ends = delong.interval(value, float(found.covariance[0, 0]), found.groups)
    if ends is None:
        ends = delong.extreme(value, *(len(np.unique(group[side])) for side in (labels, ~labels)))
    return _interval(Share(value, *ends))


def _predictive(
    found: dict[Metric, Interval], labels: NDArray[np.bool_], prevalence: float | None
) -> dict[Metric, Interval]:
    """PPV and NPV where sensitivity or specificity is 0 or 1, so that no replicate varies in it.

    Their ends are the values at the lower, and at the upper, ends of sensitivity and specificity together: wider than
    95 %, never narrower.
    """
    sensitivity, specificity = found["sensitivity"], found["specificity"]
    if not {sensitivity.value, specificity.value} & {0.0, 1.0} or None in (*sensitivity, *specificity):
        return {}
    share = float(labels.mean()) if prevalence is None else prevalence
    ends = np.array([[sensitivity.low, specificity.low], [sensitivity.high, specificity.high]], dtype=np.float64)
    replaced: dict[Metric, Interval] = {}
    for metric, (low, high) in zip(("ppv", "npv"), predictive(ends[:, 0], ends[:, 1], share), strict=True):
        name: Metric = "ppv" if metric == "ppv" else "npv"
        value = found[name].value
        if value is not None:
            replaced[name] = _interval(Share(value, min(float(low), value), max(float(high), value)))
    return replaced
